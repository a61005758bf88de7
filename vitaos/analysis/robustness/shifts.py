"""Shift consistency: how often a model's answer survives a shift of the image, and polyphase anchoring.

Source: Rojas-Gomez, Lim, Do, Yeh, "Making Vision Transformers Truly Shift-Equivariant" (arXiv 2305.16316) and Ding,
Soselia, Armstrong, Su, Huang, "Reviving Shift Equivariance in Vision Transformers" (arXiv 2306.07470), whose polyphase
anchoring this is: of the p x p circular shifts that a patch embedding of stride p can tell apart, the image is shifted
by the one whose polyphase component (every p-th pixel from there) has the largest norm, so that all circular shifts of
an image give the same patches, in an order that is itself shifted. A model without positions then answers the same.

Shapes: B images, S pixels of a side, p pixels of a patch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitaos.analysis.robustness.samples import Respondent, Samples
from vitaos.analysis.robustness.table import Table

LARGEST_SHIFT = 15
COLUMNS = ("kind", "anchored", "shift", "consistency", "top1")


def measure_shifts(respondent: Respondent, samples: Samples, wide: Samples, patch: int | None) -> Table:
    """Answers under shifts of 0 to 15 pixels to the right and down, against those to the image that is not shifted.

    A circular shift moves pixels over the edge to the other side; a cropped one moves the window over a larger image,
    so that other pixels come in.

    Args:
        respondent: the model as it is asked.
        samples: images as the model takes them.
        wide: the same, 15 pixels wider and higher.
        patch: side p of a patch, for anchoring; None leaves anchoring out.
    """
    size = samples.images.shape[-1]
    rows: list[dict[str, Any]] = []
    for anchored in (False, True) if patch else (False,):
        asked = replace(respondent, transform=partial(anchor, patch=patch)) if anchored and patch else respondent
        for kind in ("circular", "cropped"):
            first = None
            for shift in range(LARGEST_SHIFT + 1):
                images = circular(samples.images, shift) if kind == "circular" else window(wide.images, shift, size)
                answers = asked.ask(images, samples.targets)
                first = answers if first is None else first
                rows.append(
                    {
                        "kind": kind,
                        "anchored": anchored,
                        "shift": shift,
                        "consistency": answers.agreement(first),
                        "top1": answers.accuracy,
                    }
                )
    return Table("shift", COLUMNS, rows, {"images": len(samples), "patch": patch, "mean_consistency": _means(rows)})


def with_repeated_edges(samples: Samples) -> Samples:
    """Images 15 pixels wider and higher, their first row and column repeated: where no larger image can be had."""
    before = torch.arange(-LARGEST_SHIFT, samples.images.shape[-1]).clamp(min=0)
    return replace(samples, images=samples.images[..., before, :][..., before])


def circular(images: Tensor, shift: int) -> Tensor:
    """(..., S, S) moved right and down by so many pixels, over the edge to the other side."""
    return images.roll((shift, shift), dims=(-2, -1))


def window(images: Tensor, shift: int, size: int) -> Tensor:
    """A window of `size` pixels of larger images, so placed that their content moves right and down by `shift`."""
    start = LARGEST_SHIFT - shift
    return images[..., start : start + size, start : start + size]


def anchor(x: Tensor, *, patch: int) -> Tensor:
    """Every image shifted circularly by that of the p x p shifts whose polyphase component has the largest norm.

    Args:
        x: (B, channels, S, S), S a multiple of the patch.
        patch: p.

    Raises:
        ValueError: S is no multiple of p.
    """
    height, width = x.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"polyphase anchoring: {height} x {width} pixels are no multiple of patches of {patch}")
    energy = x.double().square().sum(1).unflatten(-2, (-1, patch)).unflatten(-1, (-1, patch)).sum(dim=(-4, -2))
    best_B = energy.flatten(1).argmax(1)
    rows = (torch.arange(height, device=x.device) + best_B.div(patch, rounding_mode="floor")[:, None]) % height
    columns = (torch.arange(width, device=x.device) + (best_B % patch)[:, None]) % width
    moved = x.gather(2, rows[:, None, :, None].expand_as(x))
    return moved.gather(3, columns[:, None, None, :].expand_as(x))


def anchoring(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Polyphase anchoring to a model's patches.

    Raises:
        ValueError: it has no square patches.
    """
    patch = patch_of(model)
    if patch is None:
        raise ValueError("polyphase anchoring needs a model of square patches, as timm's ViT, CaiT and Swin have")
    return partial(anchor, patch=patch)


def patch_of(model: nn.Module) -> int | None:
    """Side of a square patch of a timm model; None where it has no patch embedding or patches are not square."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    sides: Sequence[int] = (size, size) if isinstance(size, int) else tuple(size or ())
    return int(sides[0]) if len(sides) == 2 and sides[0] == sides[1] else None


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    means: dict[str, list[float]] = {}
    for row in rows:
        if row["shift"]:
            name = row["kind"] + (", anchored" if row["anchored"] else "")
            means.setdefault(name, []).append(row["consistency"])
    return {name: sum(values) / len(values) for name, values in means.items()}
