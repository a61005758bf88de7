"""sigmaReparam: W_hat = (gamma / sigma(W)) W, every weight by its largest singular value, times a learned scalar.

Source: Zhai, Likhomanenko, Littwin, Busbridge, Ramapuram, Zhang, Gu, Susskind, "Stabilizing Transformer Training by
Preventing Attention Entropy Collapse", ICML 2023 (arXiv 2303.06296), section 3; as in the authors' code: sigma(W) =
v^T W u with v = W u / |W u| and u = W^T v / |W^T v|, one step of power iteration a forward pass in training mode, u and
v taken as constants by the gradient, in float32. Parameter ``sigma_gain`` (1,) = gamma and buffer ``sigma_vector`` (K,)
= u on each reparametrized layer, K being the length of a row of its weight. It bounds the logits, and so keeps maps
from growing ever sharper (entropy collapse): the opposite failure to tokens that become alike.

gamma starts at sigma(W), so that the model starts as the identity; plain weights that are loaded without them set both
anew. Layers: the linear ones of blocks (CaiT's class-attention blocks and Swin's patch merging included) and the patch
embedding; the classifier and CaiT's mixes of heads stay plain. The paper also leaves all LayerNorms out (``keep_norms``
= false), which is no identity and for training from scratch.

u is state, as running statistics are: it is in checkpoints and the same on all ranks, and a step that is left out
leaves no trace in it (``vitaos.engine.statistics``). Recomputing blocks in the backward pass would take two steps for
one, so gradient checkpointing is refused. Bands are not folded into a reparametrized projection (``folding``).
"""

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitaos.dtypes import at_least_float32, no_autocast
from vitaos.techniques.recomputation import refuse_recomputation
from vitaos.techniques.sites import Site, backbone_in
from vitaos.techniques.technique import Technique

Model = TypeVar("Model", bound=nn.Module)
_LAYERS: Final = frozenset({"qkv", "q", "k", "v", "proj", "fc1", "fc2", "reduction"})
"""timm's names of the linear layers of blocks and of the patch embedding's convolution."""


class _Reparametrized:
    """What both kinds of layers share."""

    weight: Any
    sigma_gain: nn.Parameter
    sigma_vector: Tensor
    running: Final = ("sigma_vector",)
    """Buffers that a forward pass in training mode changes: see ``vitaos.engine.statistics``."""

    def effective_weight(self: Any) -> Tensor:
        """W_hat, of W's shape and type; in training mode a step of power iteration is taken."""
        weight = self.weight
        with no_autocast(weight.device.type):
            wide = at_least_float32(weight)
            sigma, vector_K = _largest_singular_value(wide.flatten(1), self.sigma_vector)
            if self.training:
                refuse_recomputation("sigma_reparam")
                self.sigma_vector.copy_(vector_K)
            effective: Tensor = (wide * (at_least_float32(self.sigma_gain) / sigma)).to(weight.dtype)
        return effective

    @torch.no_grad()
    def settle(self: Any) -> None:
        """Take the weight as it is for the start: u its first right singular vector, gamma its sigma."""
        with no_autocast(self.weight.device.type):
            rows = at_least_float32(self.weight.detach()).flatten(1)
            self.sigma_vector.copy_(_first_singular_vector(rows))
            self.sigma_gain.copy_(_largest_singular_value(rows, self.sigma_vector)[0])

    def _load_from_state_dict(self: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, *rest)  # type: ignore[misc]
        if f"{prefix}weight" in state and f"{prefix}sigma_gain" not in state:
            self.settle()


class ReparametrizedLinear(_Reparametrized, nn.Linear):
    """A linear layer of weight W_hat."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., K) -> (..., outputs)."""
        return F.linear(x, self.effective_weight(), self.bias)


class ReparametrizedConv2d(_Reparametrized, nn.Conv2d):
    """A convolution of weight W_hat, whose rows are its filters."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, height, width), as ``nn.Conv2d``."""
        return self._conv_forward(x, self.effective_weight(), self.bias)


_REPARAMETRIZED: Final[dict[type[nn.Module], Any]] = {nn.Linear: ReparametrizedLinear, nn.Conv2d: ReparametrizedConv2d}


def with_plain_layers(model: Model) -> Model:
    """The model with W_hat as the weights of plain layers, in place: what it is for good, for what acts on weights."""
    for layer in model.modules():
        if isinstance(layer, _Reparametrized):
            _make_plain(layer)
    return model


@torch.no_grad()
def _make_plain(layer: Any) -> None:
    layer.eval()
    layer.weight.copy_(layer.effective_weight())
    del layer.sigma_gain, layer.sigma_vector
    layer.__class__ = next(plain for plain, changed in _REPARAMETRIZED.items() if type(layer) is changed)


def _largest_singular_value(rows: Tensor, vector_K: Tensor) -> tuple[Tensor, Tensor]:
    """sigma (a scalar whose gradient is v u^T), and u one step of power iteration on."""
    fixed, start_K = rows.detach(), vector_K.to(rows.dtype)
    left = F.normalize(fixed.mv(start_K), dim=0)
    right_K = F.normalize(left @ fixed, dim=0)
    return rows.mv(right_K).dot(left), right_K


def _first_singular_vector(rows: Tensor) -> Tensor:
    """(K,), by the eigenvectors of the smaller of the two Gram matrices, in float64."""
    wide = rows.double()
    if wide.shape[0] < wide.shape[1]:
        left = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -1]
        return F.normalize(left @ wide, dim=0)
    return torch.linalg.eigh(wide.T @ wide).eigenvectors[:, -1]


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules():
        if type(module) in _REPARAMETRIZED and path.rpartition(".")[2] in _LAYERS:
            yield path, module


def _check(sites: list[Site], keep_norms: bool) -> None:
    for path, layer in _layers(backbone_in(sites[0].model)):
        weight: Any = layer.weight
        if weight.device.type != "meta" and not weight.any():
            raise ValueError(f"sigma_reparam: the weight of {path} is 0, and has no direction that a gain could scale.")


def _fill(sites: list[Site], keep_norms: bool) -> None:
    model = backbone_in(sites[0].model)
    for _, found in list(_layers(model)):
        layer: Any = found
        layer.__class__ = _REPARAMETRIZED[type(layer)]
        layer.sigma_gain = nn.Parameter(layer.weight.new_ones(1))
        layer.register_buffer("sigma_vector", layer.weight.new_zeros(layer.weight[0].numel()))
        layer.settle()
    if not keep_norms:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.LayerNorm):
                    setattr(module, name, nn.Identity())


SIGMA_REPARAM: Final = Technique(
    name="sigma_reparam",
    summary="divides every weight by its largest singular value and multiplies it by a learned scalar",
    fill=_fill,
    check=_check,
    parameters=("sigma_gain", "sigma_vector"),
    options={"keep_norms": True},
)
