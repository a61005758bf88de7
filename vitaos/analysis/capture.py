"""Watch the features and the attention maps of a timm transformer while it runs, and leave no trace afterwards.

Features are the outputs of the blocks. Attention maps are read where timm's attention modules hand them to their
dropout (``attn_drop``), which they do when fused attention is off; so it is switched off for the time of the watch,
and the maps are the model's own, position biases, window masks and talking heads included, not a second
implementation of them.

Shape suffixes: B images, N tokens, C channels, H heads, M queries, G windows of an image, Y rows and X columns of the
grid.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.models.cait import ClassAttn
from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos.analysis.merged import kept_record, record_in, spread_map, spread_tokens

__all__ = ["AttentionLayer", "Block", "Layout", "find_layout", "watch"]

Kind = Literal["token", "window", "class"]
Grid = tuple[int, int]
FeatureCallback = Callable[[int, Tensor, Grid], None]
AttentionCallback = Callable[[int, Tensor], None]

_LOST = (
    "{0} has dropped tokens for good in front of {1}, so measures of all patches cannot be had there: analyze the "
    "model without it, or with merging that keeps them (token_merging with select=pairs, token_selection with "
    "fuse=true)"
)
_BLOCK = re.compile(r"^((?:.*\.)?\w*blocks\w*\.\d+)(?:\.|$)")
_STAGE = re.compile(r"(?:^|\.)(?:layers|stages)_?\.?(\d+)\.")


@dataclass(frozen=True)
class Block:
    """A transformer block whose output is a map of patch tokens.

    Attributes:
        name: module path, such as ``blocks.3``.
        stage: 0-based stage of a hierarchical model, 0 in others.
    """

    name: str
    stage: int


@dataclass(frozen=True)
class AttentionLayer:
    """One attention module.

    Attributes:
        name: module path, such as ``blocks.3.attn``.
        block: path of the block it belongs to.
        number: 1-based number of that block among the blocks of its kind.
        stage: as in :class:`Block`.
        kind: all tokens to all tokens, inside windows, or the class token to all tokens.
        shift: cyclic shift of the windows, (0, 0) elsewhere.
    """

    name: str
    block: str
    number: int
    stage: int
    kind: Kind
    shift: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """What there is to watch in a model, in the order in which it runs."""

    blocks: tuple[Block, ...]
    attention: tuple[AttentionLayer, ...]


def find_layout(model: nn.Module) -> Layout:
    """Blocks and attention modules of a timm ViT, CaiT, Swin or a relative that follows timm's naming.

    Raises:
        ValueError: if the model has no attention module that keeps its map within reach.
    """
    model = unwrap_model(model)
    blocks: dict[str, Block] = {}
    class_blocks: list[str] = []
    attention: list[AttentionLayer] = []
    for name, module in model.named_modules():
        if not isinstance(getattr(module, "attn_drop", None), nn.Module) or not hasattr(module, "num_heads"):
            continue
        found = _BLOCK.match(name)
        block = found.group(1) if found else name.rpartition(".")[0]
        stage_found = _STAGE.search(block)
        stage = int(stage_found.group(1)) if stage_found else 0
        shift = getattr(model.get_submodule(block), "shift_size", None)  # Swin's blocks, and only they, know it
        kind: Kind = "class" if isinstance(module, ClassAttn) else "token" if shift is None else "window"
        if kind != "class":
            blocks.setdefault(block, Block(block, stage))
        elif block not in class_blocks:
            class_blocks.append(block)
        number = (class_blocks if kind == "class" else list(blocks)).index(block) + 1
        rows, columns = (0, 0) if shift is None else shift
        attention.append(AttentionLayer(name, block, number, stage, kind, (int(rows), int(columns))))
    if not attention:
        raise ValueError(
            f"{type(model).__name__} has no attention to analyze: looked for modules with `num_heads` and "
            "`attn_drop`, as in timm's ViT, CaiT and Swin"
        )
    return Layout(tuple(blocks.values()), tuple(attention))


@contextmanager
def watch(
    model: nn.Module,
    on_features: FeatureCallback | None = None,
    on_attention: AttentionCallback | None = None,
    *,
    without_lost: bool = False,
) -> Iterator[Callable[[Tensor], None]]:
    """Hand every feature map and attention map of a forward pass to callbacks, one at a time.

    Inside the context the model is in eval mode and runs eagerly without gradients; afterwards its mode and its fused
    attention are what they were and no hook is left, even after an error.

    Args:
        model: a timm model; ``torch.compile`` and DDP wrappers are looked through.
        on_features: called with (0, the input of the first block) and (i, the output of block i = 1, 2, ...), patch
            tokens only (B, N, C), and the grid (Y, X) they come from.
        on_attention: called with (the index in ``Layout.attention``, the post-softmax maps (B, H, M, N), for windows
            (B * G, H, N, N) with the windows of an image next to each other). Talking heads: after the second mix.
            Merged tokens are handed over, in features and maps, at the place of every patch in them (``merged``).
        without_lost: of a model that drops tokens for good hand over the features that are left, which have no grid; by
            default it is refused.

    Yields:
        A function that runs the model on a batch of images.

    Raises:
        ValueError: if a callback's data cannot be had from this model; the message names the module.
    """
    model = unwrap_model(model)
    layout = find_layout(model)
    reached: set[int] = set()
    image_size: list[int] = []
    record = record_in(model)
    with ExitStack() as restore:
        restore.enter_context(kept_record(record))
        if on_features is not None:
            for hook in _feature_hooks(model, layout, on_features, image_size, without_lost):
                restore.callback(hook.remove)
        if on_attention is not None:
            for hook in _attention_hooks(model, layout, on_attention, reached):
                restore.callback(hook.remove)
            _unfuse(model, layout, restore)
        for module in model.modules():
            if module.training:
                restore.callback(setattr, module, "training", True)
        model.eval()

        @torch.no_grad()
        def run(images: Tensor) -> None:
            image_size[:] = images.shape[-2:]
            reached.clear()
            with torch.compiler.set_stance("force_eager"):
                model(images)
            if on_attention is not None and len(reached) < len(layout.attention):
                silent = [layer.name for index, layer in enumerate(layout.attention) if index not in reached]
                raise ValueError(
                    f"no attention map came out of {', '.join(silent)}: it does not pass its map to `attn_drop`"
                )

        yield run


def _unfuse(model: nn.Module, layout: Layout, restore: ExitStack) -> None:
    for layer in layout.attention:
        attention: Any = model.get_submodule(layer.name)
        if getattr(attention, "fused_attn", False):
            restore.callback(setattr, attention, "fused_attn", attention.fused_attn)
            attention.fused_attn = False


def _feature_hooks(
    model: nn.Module, layout: Layout, on_features: FeatureCallback, image_size: list[int], without_lost: bool
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    record = record_in(model)

    def hand_over(index: int, name: str, features: Tensor) -> None:
        spread = spread_tokens(features, record) if index else features
        if spread is None and not without_lost:
            raise ValueError(_LOST.format(record.reduced_by, name))
        if spread is None:
            on_features(index, features[:, int(model.num_prefix_tokens) :], (0, 0))  # type: ignore[arg-type]
            return
        tokens_BNC, grid = _patch_tokens(model, name, spread, image_size)
        on_features(index, tokens_BNC, grid)

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hand_over(0, f"the input of {layout.blocks[0].name}", args[0] if args else kwargs["x"])

    yield model.get_submodule(layout.blocks[0].name).register_forward_pre_hook(before, with_kwargs=True)
    for index, block in enumerate(layout.blocks, start=1):

        def after(_: nn.Module, __: Any, output: Tensor, index: int = index, name: str = block.name) -> None:
            hand_over(index, name, output)

        yield model.get_submodule(block.name).register_forward_hook(after)


def _attention_hooks(
    model: nn.Module, layout: Layout, on_attention: AttentionCallback, reached: set[int]
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    record = record_in(model)
    for index, layer in enumerate(layout.attention):

        def before(_: nn.Module, args: tuple[Tensor, ...], index: int = index, name: str = layer.name) -> None:
            reached.add(index)
            spread = spread_map(args[0], record)
            if spread is None:
                raise ValueError(_LOST.format(record.reduced_by, name))
            on_attention(index, spread)

        dropout: Any = model.get_submodule(layer.name).attn_drop
        yield dropout.register_forward_pre_hook(before)


def _patch_tokens(model: nn.Module, name: str, features: Tensor, image_size: list[int]) -> tuple[Tensor, Grid]:
    """The patch tokens (B, N, C) of a block's output, class and register tokens left out, and their grid."""
    if features.dim() == 4:  # timm's Swin keeps (B, Y, X, C)
        return features.flatten(1, 2), (features.shape[1], features.shape[2])
    embed: Any = getattr(model, "patch_embed", None)
    if hasattr(embed, "dynamic_feat_size"):
        rows, columns = embed.dynamic_feat_size(tuple(image_size))
    elif getattr(embed, "grid_size", None):
        rows, columns = embed.grid_size
    else:
        raise ValueError(
            f"{type(model).__name__} does not say how the tokens of {name} lie in the image: looked for "
            "`patch_embed.grid_size`, as in timm's ViT and CaiT"
        )
    tokens, patches = features.shape[1], rows * columns
    prefix = int(getattr(model, "num_prefix_tokens", 0))
    if tokens == patches:  # CaiT: the class token joins after the patch blocks
        return features, (rows, columns)
    if tokens == patches + prefix:
        return features[:, prefix:], (rows, columns)
    raise ValueError(
        f"{name} has {tokens} tokens, but the image has {rows} x {columns} patches and the model {prefix} other tokens"
    )
