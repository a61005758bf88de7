"""How the rate of stochastic depth is spread over the blocks of a model of timm."""

from typing import Final

from timm.layers import DropPath
from torch import nn

SPREADS: Final = ("own", "linear", "uniform")
_CLASS_ATTENTION: Final = "blocks_token_only"  # CaiT's last blocks, which have none


def spread_drop_path(model: nn.Module, rate: float, *, spread: str = "own", reference_depth: int | None = None) -> None:
    """Set the drop path of each block, in place; the model has been built with `rate`.

    Args:
        model: a model of timm; its blocks are the modules with a child ``drop_path``, ``drop_path1`` or ``drop_path2``.
        rate: of the recipe.
        spread: "own" leaves timm's (rising with depth in ViT and Swin, the same everywhere in CaiT); "linear" rises
            from 0 at the first block to `rate` at the last; "uniform" is `rate` in every block (DeiT III).
        reference_depth: blocks that the rate is meant for: it is multiplied by the model's number of blocks / this.

    Raises:
        ValueError: the model has no drop path, or its rate comes to 1 or more.
    """
    if rate == 0 or (spread == "own" and reference_depth is None):
        return
    blocks = _blocks(model)
    if not blocks:
        raise ValueError(f"recipe.drop_path={rate}: {type(model).__name__} has no blocks with a drop path to spread it")
    scale = len(blocks) / reference_depth if reference_depth else 1.0
    if rate * scale >= 1:
        raise ValueError(
            f"recipe.drop_path={rate} x {len(blocks)} blocks / recipe.drop_path_reference_depth={reference_depth} is "
            f"{rate * scale:g}: it must be below 1"
        )
    for number, block in enumerate(blocks):
        for name, child in list(block.named_children()):
            if not name.startswith("drop_path"):
                continue
            own = float(child.drop_prob) if isinstance(child, DropPath) else 0.0
            linear = rate * number / max(len(blocks) - 1, 1)
            wanted = {"own": own, "linear": linear, "uniform": rate}[spread] * scale
            setattr(block, name, DropPath(wanted) if wanted else nn.Identity())


def _blocks(model: nn.Module) -> list[nn.Module]:
    return [
        module
        for path, module in model.named_modules()
        if _CLASS_ATTENTION not in path and any(name.startswith("drop_path") for name, _ in module.named_children())
    ]
