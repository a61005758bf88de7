"""Position embeddings and relative position tables of one size -> those of another, never by a silent guess.

Neither kind of tensor records the grid it covers: 16 positions may be 4 x 4 or 2 x 8, 81 offsets a window of 5 x 5 or
2 x 14. The grid is taken from the caller, else from the file, else it is the square one or the model's own where only
one of the two is possible; otherwise loading is refused. Interpolation is timm's.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import Tensor

from vitaos.weights.names import StateDict
from vitaos.weights.report import LoadReport

Grid = tuple[int, int]

_TABLE: Final = "relative_position_bias_table"
_INDEX: Final = "relative_position_index"
PREFIX_TOKENS: Final = ("cls_token", "dist_token", "reg_token")
"""Tokens before the patches, in the order in which their position embeddings stand."""


@dataclass(frozen=True)
class Layout:
    """What the caller knows of a checkpoint that the file does not show.

    Attributes:
        grid: (height, width) of its position embeddings in patches; None where unknown.
        window: that of its attention windows.
        is_models: whether both are the model's own wherever the shapes agree.
    """

    grid: Grid | None = None
    window: Grid | None = None
    is_models: bool = False


def stored_windows(state: Mapping[str, Tensor]) -> dict[str, Grid]:
    """The attention windows that a file of the official Swin reveals: name of a table -> (height, width).

    The first row of the buffer ``relative_position_index`` (N, N) falls by one a token along a row of the window, and
    by 2w - 1 from its first token to the one below.
    """
    windows = {}
    for name, index in state.items():
        if name.endswith(_INDEX) and index.ndim == 2 and index.shape[0] == index.shape[1] and len(index):
            steps = (index[0, 0] - index[0]).tolist()
            width = next((at for at, step in enumerate(steps) if step != at), 0)
            if width and len(index) % width == 0 and steps[width] == 2 * width - 1:
                windows[name.removesuffix(_INDEX) + _TABLE] = (len(index) // width, width)
    return windows


def stored_grid(content: Any, state: Mapping[str, Tensor]) -> Grid | None:
    """The grid of patches that a checkpoint of vitaos was trained with, or None where the file does not record it."""
    config = content.get("config") if isinstance(content, Mapping) else None
    data = config.get("data") if isinstance(config, Mapping) else None
    size = data.get("img_size") if isinstance(data, Mapping) else None
    kernel = state.get("patch_embed.proj.weight")
    if type(size) is not int or kernel is None or kernel.ndim != 4:
        return None
    return size // kernel.shape[2], size // kernel.shape[3]


def resize_positions(
    model: Any, state: StateDict, report: LoadReport, layout: Layout, *, recorded: Grid | None
) -> None:
    """Bring ``pos_embed`` of a state dict (1, prefix + h*w, C) to the model's grid and prefix tokens, in place.

    Args:
        model: its ``pos_embed`` and ``patch_embed.grid_size`` are the target.
        state: the checkpoint's tensors under timm's names.
        report: receives what was done.
        layout: what the caller knows; a grid that is given has to fit.
        recorded: the grid (height, width) that the file records, None where it does not.

    Raises:
        ValueError: the grid is not known and cannot be determined, or the one given does not fit.
    """
    old, target = state.get("pos_embed"), getattr(model, "pos_embed", None)
    new_grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if old is None or target is None or new_grid is None or old.ndim != 3 or old.shape[2] != target.shape[2]:
        return
    if layout.is_models and old.shape == target.shape:
        return
    new_grid = (int(new_grid[0]), int(new_grid[1]))
    new_prefix = target.shape[1] - math.prod(new_grid)
    known, stated = layout.grid or recorded, layout.grid is not None
    prefix, old_grid = _find_layout(old.shape[1], _prefix_lengths(state, new_prefix), known, new_grid, stated=stated)
    if (prefix, old_grid) == (new_prefix, new_grid):
        return
    patches = resample_abs_pos_embed(old[:, prefix:], list(new_grid), list(old_grid), num_prefix_tokens=0)
    state["pos_embed"] = torch.cat(
        [_convert_prefix(state, old[:, :prefix], target[:, :new_prefix], report), patches], 1
    )
    report.resized["pos_embed"] = (tuple(old.shape), tuple(state["pos_embed"].shape))
    if old_grid != new_grid:
        report.notes.append(f"pos_embed: {_times(old_grid)} -> {_times(new_grid)} patches")


def resize_tables(
    model: Any, state: StateDict, report: LoadReport, layout: Layout, *, revealed: Mapping[str, Grid]
) -> None:
    """Bring the relative position tables ((2h - 1)(2w - 1) + extra, heads) to the model's windows, in place.

    Args:
        model: its attention modules have ``window_size``.
        state: the checkpoint's tensors under timm's names.
        report: receives what was done.
        layout: what the caller knows; stages with smaller maps have smaller windows than the one that is given.
        revealed: (height, width) of the windows that the file reveals, by name of the table.

    Raises:
        ValueError: a window is not known and cannot be determined.
    """
    for name in [name for name in state if name.endswith(_TABLE)]:
        try:
            module = model.get_submodule(name.rpartition(".")[0])
            target, new_window = getattr(module, _TABLE), tuple(module.window_size)
        except AttributeError:
            continue
        old = state[name]
        if old.ndim != 2 or target.ndim != 2 or old.shape[1] != target.shape[1]:
            continue
        if layout.is_models and old.shape == target.shape:
            continue
        extra = target.shape[0] - _offsets(new_window)
        window = layout.window
        known = revealed.get(name) or (window if window and _offsets(window) == old.shape[0] - extra else None)
        old_window = known or _guess_window(name, old.shape[0] - extra, new_window)
        if old_window == new_window:
            continue
        state[name] = resize_rel_pos_bias_table(old, new_window, tuple(target.shape), old_window_size=old_window)
        report.resized[name] = (tuple(old.shape), tuple(state[name].shape))


def _times(grid: Grid) -> str:
    return f"{grid[0]} x {grid[1]}"


def _square(count: int) -> Grid | None:
    side = math.isqrt(max(count, 0))
    return (side, side) if side and side * side == count else None


def _prefix_lengths(state: Mapping[str, Tensor], new_prefix: int) -> list[int]:
    """How many prefix tokens the checkpoint's position embeddings may cover: all that it has, or none of them."""
    tokens = sum(state[name].shape[1] for name in PREFIX_TOKENS if name in state and state[name].ndim == 3)
    lengths = [0, tokens] if new_prefix == 0 else [tokens, 0, new_prefix]
    return list(dict.fromkeys(lengths))


def _find_layout(
    count: int, prefixes: Iterable[int], known: Grid | None, new_grid: Grid, *, stated: bool
) -> tuple[int, Grid]:
    """(prefix tokens, grid) of `count` position embeddings."""
    for prefix in prefixes:
        if known is not None and math.prod(known) == count - prefix:
            return prefix, known
    if known is not None and stated:
        raise ValueError(f"grid={known}: pos_embed holds {count} positions, not {_times(known)} and its prefix tokens.")
    for prefix in prefixes:
        square = _square(count - prefix)
        own = new_grid if math.prod(new_grid) == count - prefix else None
        if square and own and square != own:
            raise ValueError(
                f"The {count - prefix} position embeddings may be {_times(square)} patches or the model's "
                f"{_times(own)}: the file does not say. Give the checkpoint's: grid={square} or grid={own}."
            )
        found = square or own
        if found:
            return prefix, found
    raise ValueError(
        f"pos_embed holds {count} positions, which are no square grid nor the model's {_times(new_grid)}. Give the "
        "checkpoint's: grid=(height, width), in patches."
    )


def _convert_prefix(state: StateDict, old: Tensor, target: Tensor, report: LoadReport) -> Tensor:
    """Position embeddings of the model's prefix tokens, from the checkpoint's.

    A model without them has the sum of token and position in its tokens, one with them and a checkpoint without gets
    zeros: both compute what the checkpoint's network did. Tokens that the checkpoint lacks keep the model's own.
    """
    count, new_count = old.shape[1], target.shape[1]
    if new_count == 0 and count > 0:
        position = 0
        for name in [name for name in PREFIX_TOKENS if name in state]:
            length = state[name].shape[1]
            state[name] = state[name] + old[:, position : position + length]
            position += length
        report.notes.append(f"pos_embed: the positions of {count} prefix tokens were added to the tokens")
        return old[:, :0]
    if count == 0:
        return torch.zeros_like(target, device=old.device, dtype=old.dtype)
    kept = target[:, count:].detach().to(old)
    return torch.cat([old[:, :new_count], kept], dim=1)


def _offsets(window: tuple[int, ...]) -> int:
    """Relative positions within a window."""
    return math.prod(2 * side - 1 for side in window)


def _guess_window(name: str, count: int, new_window: Grid) -> Grid:
    side = _square(count)
    square = ((side[0] + 1) // 2,) * 2 if side and side[0] % 2 else None
    own = new_window if _offsets(new_window) == count else None
    if square and own and square != own:
        raise ValueError(
            f"{name} may be of windows of {_times(square)} or of the model's {_times(own)}: the file does not say. "
            f"Give the checkpoint's: window={square} or window={own}."
        )
    found = square or own
    if found is None:
        raise ValueError(
            f"{name} holds {count} offsets, which are of no square window nor of the model's {_times(new_window)}. "
            "Give the checkpoint's: window=(height, width), in patches."
        )
    return found
