"""What a training step of a model needs, counted on fake tensors: they have shapes, types and a device, and no values.

Every operation that torch dispatches in forward pass, backward pass and update is seen. FLOPs are those of products,
convolutions and attention. Bytes: every operation reads its inputs and writes its outputs once; views are free. Fused
bytes: those of products, attention and reductions alone, as if all that works value by value were computed with its
neighbors, which no compiler reaches. The CPU's operations stand for the GPU's; bytes of DeiT agree with
``tests/null_gpu/counts.json`` to 3%, those of CaiT and Swin lie up to a fifth and up to three tenths below: softmax
stays in bf16 there and the gradient of Swin's position bias is left out.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from scripts.benchmarks.traffic import FREE, bytes_of, size_of
from vitaos.assembly import builders
from vitaos.assembly.training import build_training_loss
from vitaos.config import TrainConfig
from vitaos.engine.precision import DTYPES
from vitaos.engine.update import Guard, Update
from vitaos.techniques import folding, training_pass

_STEPS: Final = 1000  # of an epoch; of no consequence
_NEVER_FUSED: Final = (
    *("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product", "native_layer_norm"),
    *("native_batch_norm", "sum", "mean", "softmax", "_log_softmax", "_softmax", "fold", "unfold", "_fused"),
    *("_foreach", "linalg", "index", "sort", "topk", "gather", "cat", "stack"),
)
"""How the names begin of operations that keep traffic of their own in compiled code."""


@dataclass
class Needs:
    """What a step needs.

    Attributes:
        flops: floating-point operations of the products.
        nbytes: moved by eager kernels.
        fused_nbytes: moved at least by compiled ones.
        launches: eager kernels.
        fused_launches: of compiled ones at least.
    """

    flops: int = 0
    nbytes: int = 0
    fused_nbytes: int = 0
    launches: int = 0
    fused_launches: int = 0

    def add(self, name: str, nbytes: int) -> None:
        """One operation."""
        self.nbytes += nbytes
        self.launches += 1
        if name.startswith(_NEVER_FUSED):
            self.fused_nbytes += nbytes
            self.fused_launches += 1


@dataclass
class StepNeeds:
    """Of the parts of a step on one device: passes grow with the batch, the update does not."""

    forward: Needs = field(default_factory=Needs)
    backward: Needs = field(default_factory=Needs)
    update: Needs = field(default_factory=Needs)

    def total(self, what: str) -> int:
        """The sum of an attribute of :class:`Needs` over the parts."""
        return sum(int(getattr(part, what)) for part in (self.forward, self.backward, self.update))


class _Fake(FakeTensorMode):
    """Copies of a model, as its average is one, stay in the mode of the model."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Fake":
        return self


def count_step(config: TrainConfig, classes: int) -> StepNeeds:
    """Count a step of ``config.batch_size`` images on one process; less augmentation, loading, weights of labels."""
    with torch.device("meta"):
        model = builders.build_model(config, classes, recipe=config.recipe).train()
    size, found, dtype = config.data.img_size, StepNeeds(), DTYPES[config.precision]
    with _Fake(), _folds_by_kernels(), _attends_fused():
        _make_fake(model)
        update = _update_of(config, model)
        images, targets = torch.empty(config.batch_size, 3, size, size), torch.empty(config.batch_size, classes)
        loss_of = build_training_loss(replace(config.recipe, distillation="none", mix_labels="area"), model)
        with training_pass(model, _STEPS)(0) as terms, _counted(found.forward):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                logits = model(images)
            answers = logits if isinstance(logits, tuple) else (logits,)  # of a class and a distillation token
            loss = sum(terms.values(), sum(loss_of(answer, targets) for answer in answers))
        with _counted(found.backward):
            loss.backward()
        _take_step(update, model, 0)  # makes the optimizer's state
        with _counted(found.update):
            _take_step(update, model, 1)
    return found


def _take_step(update: Update, model: nn.Module, step: int) -> None:
    """A step of the optimizer and of the average; one whose optimizer reads the decision on the host is taken."""
    if update.decides_on_device:
        update.apply(model, step, 1e-3)
        return
    update.optimizer.step()
    if update.ema is not None:
        update.ema.update_average(model, step, torch.zeros((), dtype=torch.bool))


def _update_of(config: TrainConfig, model: nn.Module) -> Update:
    schedule = builders.build_schedule(config, _STEPS, world_size=1)
    guard = Guard("stop", torch.device("cpu"))
    optimizer = builders.build_optimizer(config, model, schedule)
    ema = builders.build_ema(config, model)
    return Update(optimizer, clip=config.recipe.clip, guard=guard, loss_scale=None, ema=ema)


def _make_fake(model: nn.Module) -> None:
    """Put fake tensors of the CPU in the place of those on the meta device, shared ones once."""
    known: dict[int, Any] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in list(store.items()):
                if tensor is None:
                    continue
                if id(tensor) not in known:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype)
                    is_weight = isinstance(tensor, nn.Parameter)
                    known[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_weight else fake
                store[name] = known[id(tensor)]


@contextmanager
def _folds_by_kernels() -> Iterator[None]:
    """Let bands be folded as on a GPU, whose two Triton kernels a projection count as one operation each.

    Without Triton they are counted as torch's own operations, which are more.
    """
    with ExitStack() as stack:
        if importlib.util.find_spec("triton") is not None:
            from vitaos.techniques import fold_kernels  # noqa: PLC0415 - imports Triton

            def fold(parts: Any, *, tokens: int, dtype: torch.dtype) -> Any:
                weight, bias, of_heads, _, high, _ = parts
                width = weight.shape[1] * ((of_heads is not None) + (high is not None))
                found = fold_kernels.Folded(
                    torch.empty(weight.shape, dtype=dtype),
                    None if bias is None else torch.empty(bias.shape, dtype=dtype),
                    torch.empty(len(weight), width),
                    None if bias is None or high is None else torch.empty(bias.shape),
                )
                _Count.launched("fold", parts, found)
                return found

            def unfold(of_folded: Tensor, of_sums: Tensor, vectors: Tensor, parts: Any, *, tokens: int) -> Any:
                tensors = (parts.weight, parts.bias, parts.of_heads, parts.high, parts.low)
                found = fold_kernels.Gradients(*(None if x is None else torch.empty_like(x) for x in tensors))  # type: ignore[arg-type]
                _Count.launched("unfold", of_folded, of_sums, vectors, parts, found)
                return found

            stack.enter_context(patch.object(folding, "applies", lambda z_BNK, projection: True))
            stack.enter_context(patch.object(fold_kernels, "fold", fold))
            stack.enter_context(patch.object(fold_kernels, "unfold", unfold))
        yield


@contextmanager
def _attends_fused() -> Iterator[None]:
    """Let attention be fused where a learned bias is added to its scores, as on a GPU: the CPU's has no gradient of it,
    which is left out."""
    attend = F.scaled_dot_product_attention

    def without_gradient(
        q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor, attn_mask: Tensor | None = None, *args: Any, **keywords: Any
    ) -> Tensor:
        bias = None if attn_mask is None else attn_mask.detach()
        return attend(q_BHND, k_BHND, v_BHND, bias, *args, **keywords)

    with patch.object(F, "scaled_dot_product_attention", without_gradient):
        yield


@contextmanager
def _counted(needs: Needs) -> Iterator[None]:
    flops = FlopCounterMode(display=False)
    with flops, _Count(needs):
        yield
    needs.flops += flops.get_total_flops()


class _Count(TorchDispatchMode):
    """Adds every operation within to the needs."""

    active: ClassVar["_Count | None"] = None

    def __init__(self, needs: Needs) -> None:
        super().__init__()
        self._needs = needs

    def __enter__(self) -> Any:
        _Count.active = self
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _Count.active = None
        super().__exit__(*error)

    @staticmethod
    def launched(name: str, *tensors: Any) -> None:
        """A kernel that is no operation of torch's."""
        if _Count.active is not None:
            found = (one for one in tree_leaves(tensors) if isinstance(one, Tensor))
            _Count.active._needs.add(name, sum(map(size_of, found)))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        if name not in FREE:
            self._needs.add(name, bytes_of(name, args, kwargs or {}, result))
        return result
