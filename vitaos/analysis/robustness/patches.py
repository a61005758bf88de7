"""Patch perturbation: accuracy when k whole patches of the image are replaced, by kind of noise.

Source: Gu, Tresp, Qin, "Are Vision Transformers Robust to Patch Perturbations?", ECCV 2022 (arXiv 2111.10659), which
corrupts whole patches and counts how many images are fooled. Kinds here: Gaussian noise of standard deviation 0.38 of
the pixel range (ImageNet-C's severity 5), the patch's mean color, black, and the same place of another image. Which
patches are hit is drawn for each image by its index in the dataset, the first k of one order: more patches are always
the fewer and others beside them.

Shapes: B images, P patches of an image, p pixels of a patch.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from vitaos.analysis.robustness.samples import Respondent, Samples
from vitaos.analysis.robustness.table import Table

COLUMNS: Final = ("kind", "patches", "share", "top1", "consistency", "fooled")
BY_IMAGE_COLUMNS: Final = ("position", "target", "predicted", "kind", "patches")
NOISE: Final = 0.38


def measure_patches(respondent: Respondent, samples: Samples, patch: int, seed: int = 0) -> tuple[Table, Table]:
    """Accuracy by kind and number of patches, and for every image the fewest patches that change its answer.

    ``consistency`` is the share of all images whose answer stays, ``fooled`` the share of the rightly answered ones
    that are no longer. Images that no number tried changes have no number in the second table.

    Raises:
        ValueError: the image is no multiple of the patch.
    """
    size = samples.images.shape[-1]
    if size % patch:
        raise ValueError(f"robustness=patches: an image of {size} pixels is no multiple of patches of {patch}")
    number = (size // patch) ** 2
    clean = respondent.ask(samples.images, samples.targets)
    order_BP = patch_order(samples.positions, number, seed)
    rows: list[dict[str, Any]] = []
    by_image: list[dict[str, Any]] = []
    for kind, replacement in KINDS.items():
        spoiled = replacement(samples, patch, seed)
        fewest = torch.zeros(len(samples), dtype=torch.int64)
        for count in counts(number):
            images = replace_patches(samples.images, spoiled, order_BP[:, :count], patch)
            answers = respondent.ask(images, samples.targets)
            changed = (answers.first != clean.first) & (fewest == 0)
            fewest = torch.where(changed, count, fewest)
            right = int(clean.correct.sum())
            fooled = int((clean.correct & ~answers.correct).sum())
            rows.append(
                {
                    "kind": kind,
                    "patches": count,
                    "share": count / number,
                    "top1": answers.accuracy,
                    "consistency": answers.agreement(clean),
                    "fooled": 100.0 * fooled / right if right else None,
                }
            )
        by_image += [
            {
                "position": int(position),
                "target": int(target),
                "predicted": int(predicted),
                "kind": kind,
                "patches": int(count) or "",
            }
            for position, target, predicted, count in zip(
                samples.positions, samples.targets, clean.first, fewest, strict=True
            )
        ]
    facts = {
        "images": len(samples),
        "patch": patch,
        "patches_of_an_image": number,
        "clean_top1": clean.accuracy,
        "seed": seed,
    }
    return Table("patches", COLUMNS, rows, facts), Table("patches-images", BY_IMAGE_COLUMNS, by_image)


def counts(number: int) -> list[int]:
    """Numbers of patches to try: 1, 2, 4, ... up to half of them."""
    return [count for count in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if count <= max(1, number // 2)]


def patch_order(positions: Tensor, number: int, seed: int) -> Tensor:
    """(B, P): for every image an order of its patches, a function of the seed and of its place in the dataset."""
    return torch.stack([torch.randperm(number, generator=_generator(seed, 0, position)) for position in positions])


def replace_patches(images: Tensor, spoiled: Tensor, chosen_BK: Tensor, patch: int) -> Tensor:
    """The images with the chosen patches (row by row, from 0) taken from their spoiled twins."""
    columns = images.shape[-1] // patch
    hit_BP = torch.zeros(len(images), columns * columns, dtype=torch.bool).scatter_(1, chosen_BK, value=True)
    hit = hit_BP.view(-1, 1, columns, columns).repeat_interleave(patch, -2).repeat_interleave(patch, -1)
    return torch.where(hit, spoiled, images)


def _generator(seed: int, stream: int, position: Tensor) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) * 2_147_483_647 + int(position))


def _noisy(samples: Samples, _: int, seed: int) -> Tensor:
    noise = torch.stack(
        [
            torch.randn(image.shape, generator=_generator(seed, 1, position))
            for image, position in zip(samples.images, samples.positions, strict=True)
        ]
    )
    return (samples.images.float() + 255 * NOISE * noise).round().clamp(0, 255).to(torch.uint8)


def _mean_color(samples: Samples, patch: int, _: int) -> Tensor:
    means = torch.nn.functional.avg_pool2d(samples.images.float(), patch).round().to(torch.uint8)
    return means.repeat_interleave(patch, -2).repeat_interleave(patch, -1)


def _black(samples: Samples, _: int, __: int) -> Tensor:
    return torch.zeros_like(samples.images)


def _other_image(samples: Samples, _: int, __: int) -> Tensor:
    return samples.images.roll(len(samples) // 2, 0)  # images are stored by class: half a dataset away is another one


KINDS: Final[dict[str, Callable[[Samples, int, int], Tensor]]] = {
    "noise": _noisy,
    "mean color": _mean_color,
    "black": _black,
    "other image": _other_image,
}


def kinds(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The kinds in a table, in order."""
    return list(dict.fromkeys(row["kind"] for row in rows))
