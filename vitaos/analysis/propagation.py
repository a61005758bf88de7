"""How a block treats what passes through it: dominant eigenvalue of its attention, and length distortion of a circle.

Shape suffixes: B images (or windows), H heads, N tokens, C channels, K directions of the Krylov space.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos.analysis.capture import Grid, find_layout, watch

_DIRECTIONS: Final = 60
_ANGLES: Final = 32
_STEP: Final = 1e-3  # radians, of the central difference
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Mode:
    """The dominant eigenvalue of one block's attention, mean over images.

    Attributes:
        module: the attention module.
        block: its number, from 1.
        stage: 0-based stage of a hierarchical model.
        modulus: of the eigenvalue.
        angle: of the eigenvalue, in radians, its absolute value; 0 for a positive real one.
        direct_share: share of the eigenvector's energy that is its token mean: 1 where repeated application makes all
            tokens alike, near 1 / N where it keeps them apart.
    """

    module: str
    block: int
    stage: int
    modulus: float
    angle: float
    direct_share: float


@dataclass(frozen=True)
class Propagation:
    """Both measures of a model.

    Attributes:
        modes: of every attention module in order, class attention left out.
        length_distortion: of the input of the first block and behind every block.
    """

    modes: list[Mode]
    length_distortion: list[float]


def propagation(model: nn.Module, images: Tensor, *, seed: int = 0) -> Propagation:
    """Both measures of a timm ViT, CaiT or Swin.

    Args:
        model: left as it is.
        images: a few normalized images; the attention maps are theirs, the circle has their size.
        seed: of the circle.
    """
    return Propagation(dominant_modes(model, images), length_distortion(model, images, seed=seed))


def dominant_modes(model: nn.Module, images: Tensor) -> list[Mode]:
    """The dominant eigenvalue of I + sum over heads of A_h (x) W_V,h W_O,h for every block.

    Source: Dovonon, Bronstein, Kusner, "Setting the Record Straight on Transformer Oversmoothing", TMLR 2025 (arXiv
    2401.04301): a block without norms and MLP, X <- X + sum_h A_h X W_V,h W_O,h, repeated, ends in the eigenvector of
    the eigenvalue largest in modulus, which is flat or not by the eigenvalues of A and of W_V W_O together, not by A
    alone. Here with LayerScale and ``skip_gain`` where the block has them and A as AttnScale scales it. With several
    heads there is no closed form: the eigenvalue is that of the operator in a Krylov space of 60 directions (Arnoldi).
    """
    model = unwrap_model(model)
    layout, modes = find_layout(model), []

    def on_attention(index: int, map_BHMN: Tensor) -> None:
        layer = layout.attention[index]
        if layer.kind == "class":
            return
        attention: Any = model.get_submodule(layer.name)
        operator = _operator(model.get_submodule(layer.block), attention, map_BHMN)
        shape = (map_BHMN.shape[0], map_BHMN.shape[-1], int(attention.proj.out_features))
        value_B, share_B = dominant_eigenvalue(operator, shape, device=map_BHMN.device)
        by_image = value_B.abs().unflatten(0, (len(images), -1))
        largest_B1 = by_image.argmax(1, keepdim=True)  # of an image's windows the one that grows most
        modulus, angle, share = (
            float(values.unflatten(0, (len(images), -1)).gather(1, largest_B1).mean())
            for values in (value_B.abs(), value_B.angle().abs(), share_B)
        )
        modes.append(Mode(layer.name, layer.number, layer.stage, modulus, angle, share))

    with watch(model, on_attention=on_attention) as run:
        run(images)
    return modes


def _operator(block: nn.Module, attention: Any, map_BHMN: Tensor) -> Callable[[Tensor], Tensor]:
    """X -> r X + sum_h A_h X W_V,h W_O,h, in float64."""
    heads, outputs = attention.num_heads, attention.proj.in_features
    values, projection = _weight(attention.qkv)[-outputs:].double(), _weight(attention.proj).double()
    gain = _layer_scale(block)
    projection = projection if gain is None else gain.double().unsqueeze(1) * projection
    skip, scale = float(getattr(block, "skip_gain", 1.0)), getattr(attention, "attn_scale", None)
    map_BHMN = map_BHMN.double()

    def apply(x_BNC: Tensor) -> Tensor:
        v_BHND = (x_BNC @ values.T).unflatten(-1, (heads, -1)).transpose(1, 2)
        z_BHND = map_BHMN @ v_BHND
        if scale is not None:
            w_H11 = scale.double().view(-1, 1, 1)
            z_BHND = (1 + w_H11) * z_BHND - w_H11 * v_BHND.mean(-2, keepdim=True)
        return skip * x_BNC + z_BHND.transpose(1, 2).flatten(2) @ projection.T

    return apply


def _weight(layer: Any) -> Tensor:
    """What the layer multiplies by, where its weight is reparametrized (sigma_reparam) too."""
    weight: Tensor = layer.effective_weight() if hasattr(layer, "effective_weight") else layer.weight
    return weight


def _layer_scale(block: Any) -> Tensor | None:
    """(C,) of the attention branch: timm's ls1.gamma, CaiT's gamma_1."""
    gamma = getattr(getattr(block, "ls1", None), "gamma", None)
    found = gamma if gamma is not None else getattr(block, "gamma_1", None)
    return found.detach() if isinstance(found, Tensor) else None


@torch.no_grad()
def dominant_eigenvalue(
    operator: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    directions: int = _DIRECTIONS,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """The eigenvalue of largest modulus of a linear operator on (N, C), for each of B at once, by Arnoldi's iteration.

    Args:
        operator: (B, N, C) -> (B, N, C), float64, linear in each of B.
        shape: B, N, C.
        directions: of the Krylov space; as many as N C give the eigenvalue itself, up to rounding.
        device: where the operator works.

    Returns:
        The eigenvalue (B,), complex, and the share of its eigenvector's energy that is its mean over tokens (B,).
    """
    B, N, C = shape
    size = min(directions, N * C)
    start_X = torch.randn(N * C, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    basis_KBX = [(start_X / start_X.norm()).expand(B, -1)]
    hessenberg = torch.zeros(B, size + 1, size, dtype=torch.float64)
    for column in range(size):
        x_BX = operator(basis_KBX[-1].view(B, N, C)).reshape(B, -1)
        for _ in range(2):  # twice is enough, for orthogonality
            for row, direction_BX in enumerate(basis_KBX):
                along_B = (x_BX * direction_BX).sum(1)
                hessenberg[:, row, column] += along_B.cpu()
                x_BX = x_BX - along_B.unsqueeze(1) * direction_BX
        norm_B = x_BX.norm(dim=1)
        hessenberg[:, column + 1, column] = norm_B.cpu()
        basis_KBX.append(torch.where(norm_B.unsqueeze(1) > _TINY, x_BX / norm_B.clamp(min=_TINY).unsqueeze(1), 0.0))
    values_BK, vectors_BKK = torch.linalg.eig(hessenberg[:, :size])
    best_B = values_BK.abs().argmax(1)
    each = torch.arange(B)
    weights_BK = vectors_BKK[each, :, best_B]
    vector_BX = torch.einsum("bk,kbx->bx", weights_BK, torch.stack(basis_KBX[:size]).cpu().to(weights_BK.dtype))
    vector_BNC = vector_BX.view(B, N, C)
    direct_B = N * vector_BNC.mean(1).abs().square().sum(-1)
    return values_BK[each, best_B], direct_B / vector_BNC.abs().square().sum((1, 2))


@torch.no_grad()
def length_distortion(model: nn.Module, images: Tensor, *, seed: int = 0, angles: int = _ANGLES) -> list[float]:
    """By how much the network stretches a circle, behind every block: its length there over its length in the images.

    Source: Chen, Huang, Du, Song, Wang, Zhou, "Auto-scaling Vision Transformers without Training" (As-ViT), ICLR 2022
    (arXiv 2202.11921), section 3.2: x(theta) = sqrt(n) (u_0 cos theta + u_1 sin theta), u_0 and u_1 random and
    orthonormal in the n numbers of an image, and the length is the integral of |dX_l / dtheta| over theta. They rank
    untrained architectures by it; measured here are the patch tokens behind every block, with whatever weights the
    model has. Derivatives are central differences in float64 at 32 angles.
    """
    device, shape = images.device, images.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    u_2X, _ = torch.linalg.qr(torch.randn(math.prod(shape), 2, generator=generator, dtype=torch.float64))
    theta = torch.arange(angles, dtype=torch.float64) * (2 * math.pi / angles)
    ends = torch.stack([theta + _STEP, theta - _STEP])
    circle = math.sqrt(math.prod(shape)) * (ends.cos()[..., None] * u_2X[:, 0] + ends.sin()[..., None] * u_2X[:, 1])
    twin = copy.deepcopy(unwrap_model(model)).double()
    lengths: dict[int, float] = {}

    def on_features(index: int, tokens_BNC: Tensor, _: Grid) -> None:
        forth, back = tokens_BNC.flatten(1).chunk(2)
        lengths[index] = lengths.get(index, 0.0) + float((forth - back).norm(dim=1).sum())

    with watch(twin, on_features) as run, torch.autocast(device.type, enabled=False):
        for part in circle.split(4, dim=1):
            run(part.flatten(0, 1).view(-1, *shape).to(device))
    own = float((circle[0] - circle[1]).norm(dim=1).sum())
    return [lengths[index] / own for index in sorted(lengths)]
