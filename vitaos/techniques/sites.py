"""Sites: the blocks of a timm model where techniques can act, found, checked and opened."""

from dataclasses import dataclass
from typing import Any

from timm.models._features import FeatureDictNet, FeatureGetterNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.utils import skip_init

from vitaos.techniques.block_paths import in_stages
from vitaos.techniques.kinds import KINDS, REASONS, Kind
from vitaos.techniques.slot_calls import SlotFunction


@dataclass(frozen=True)
class Site:
    """One attention block of a model: where it is, the two modules that have slots, and the model as it was given."""

    kind: Kind
    path: str
    block: Any
    attention: Any
    model: Any

    @property
    def num_heads(self) -> int:
        """Heads of the attention module."""
        return int(self.attention.num_heads)

    @property
    def dim(self) -> int:
        """Channels C of the tokens."""
        return int(self.attention.proj.out_features)

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the patches in this block: class, distillation and register tokens of a ViT."""
        is_vit = self.kind.model is VisionTransformer
        return int(getattr(backbone_in(self.model), "num_prefix_tokens", 0)) if is_vit else 0

    def parameter(self, size: int, value: float = 0.0) -> nn.Parameter:
        """A new parameter of shape (size,), on the device and in the dtype of this block."""
        return nn.Parameter(self.attention.proj.weight.new_full((size,), value))

    def linear(self, outputs: int) -> nn.Linear:
        """A new linear layer C -> outputs with bias, all 0, on the device and in the dtype of this block."""
        weight = self.attention.proj.weight
        # Without torch's own random start, which would be drawn for nothing and move what is drawn after it.
        layer = skip_init(nn.Linear, self.dim, outputs, device=weight.device, dtype=weight.dtype)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer


def _known_kinds() -> str:
    return "; ".join(
        f"{kind.name} (timm {kind.model.__name__} of {kind.block.__name__} with {kind.attention.__name__})"
        for kind in KINDS
    )


def _refuse(what: str) -> ValueError:
    return ValueError(f"Techniques cannot be attached: {what}. Known kinds: {_known_kinds()}.")


def backbone_in(model: nn.Module) -> Any:
    """The backbone within timm's ``FeatureGetterNet`` (``features_only=True``); any other model is its own."""
    return model.model if isinstance(model, FeatureGetterNet) else model


def kind_of(model: nn.Module) -> Kind:
    """The kind of a backbone, or of what timm's ``features_only=True`` made of it.

    Raises:
        ValueError: not one of :data:`~vitaos.techniques.kinds.KINDS`.
    """
    model = backbone_in(model)
    in_stages = isinstance(model, FeatureDictNet)  # how timm takes Swin apart
    kinds = [
        kind
        for kind in KINDS
        if isinstance(model, kind.model)
        or (in_stages and any(isinstance(part, kind.block) for part in model.modules()))
    ]
    if kinds:
        classes = {type(part) for part in model.modules()}
        return next((kind for kind in kinds if _consists_of(classes, kind)), kinds[0])
    reason = REASONS.get(type(model).__name__)
    raise _refuse(
        f"the model is a {type(model).__module__}.{type(model).__name__}" + (f", of which {reason}" if reason else "")
    )


def _consists_of(classes: set[type[nn.Module]], kind: Kind) -> bool:
    """Whether blocks and attention of a kind are among the classes: one model class of timm may have several."""
    return bool(classes & {kind.block, kind.slotted_block} and classes & {kind.attention, kind.slotted_attention})


def find_sites(model: nn.Module) -> list[Site]:
    """The blocks of a model in order of depth (CaiT, VOLO: class attention has no slots; CrossViT: branch by branch).

    Raises:
        ValueError: the model, or a block or attention module in it, is of a class that has no slots; names the module's
            path.
    """
    given, kind, model = model, kind_of(model), backbone_in(model)
    blocks = in_stages(model) if isinstance(model, FeatureDictNet) else kind.blocks_of(model)
    if not blocks:
        raise _refuse("the model has no blocks")
    for path, block in blocks.items():
        if type(block) not in (kind.block, kind.slotted_block):
            raise _refuse(f"{path} is a {type(block).__module__}.{type(block).__name__}")
        if type(block.attn) not in (kind.attention, kind.slotted_attention):
            raise _refuse(f"{path}.attn is a {type(block.attn).__module__}.{type(block.attn).__name__}")
        strange = {name for name, _ in block.attn.named_children()} - kind.attention_children
        if type(block.attn) is kind.attention and strange:
            raise _refuse(f"{path}.attn has submodules that are not known: {', '.join(sorted(strange))}")
    return [Site(kind, path, block, block.attn, given) for path, block in blocks.items()]


def open_slots(sites: list[Site]) -> None:
    """Give every site its slots, empty: the class of block and attention changes, nothing else. Does so once."""
    for site in sites:
        block, attention = site.block, site.attention
        if not isinstance(attention, site.kind.slotted_attention):
            attention.__class__ = site.kind.slotted_attention
            attention.operators, attention.maps = (), ()
        if not isinstance(block, site.kind.slotted_block):
            block.__class__ = site.kind.slotted_block
            block.pre_norm, block.post_attention, block.skip_gain = (), (), 1.0
            if site.kind.name == "Swin":
                block.ls1, block.ls2 = nn.Identity(), nn.Identity()


def fill(module: Any, slot: str, priority: int, function: SlotFunction) -> None:
    """Put a function into a slot; functions take effect in ascending priority.

    Args:
        module: a slotted attention or block.
        slot: ``scores``, ``operators``, ``maps`` or ``heads`` of an attention, ``pre_attention``,
            ``pre_norm``, ``post_attention``, ``post_mlp``, ``tokens`` or ``losses`` of a block.
        priority: the technique's place in the order of effect.
        function: a module-level function, or a ``functools.partial`` of one, so that models can be pickled.
    """
    entries = (*getattr(module, slot), (priority, function))
    setattr(module, slot, tuple(sorted(entries, key=lambda entry: entry[0])))
