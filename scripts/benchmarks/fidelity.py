"""Features of a model with and without merged tokens: ``benchmark.py fidelity``."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

import vitaos
from scripts.benchmarks.hardware import describe
from scripts.benchmarks.record import write_record
from vitaos.runtime.world import initialize
from vitaos.techniques.merge_criteria import CRITERIA
from vitaos.techniques.record import record_in

_SUFFIXES: Final = {".jpg", ".jpeg", ".png", ".webp"}


def main(config: Any) -> None:
    """Compare, print, write."""
    device, criteria = initialize(config.device).device, config.criteria or list(CRITERIA)
    batches = [batch.to(device) for batch in _batches(config)]
    whole = [_features(_model(config).to(device), batch) for batch in batches]
    rows: list[dict[str, Any]] = []
    for r in config.r:
        for criterion in criteria:
            model = _model(config, token_merging={"r": r, "criterion": criterion, **config.merging}).to(device)
            pairs = [(_features(model, batch), expected) for batch, expected in zip(batches, whole, strict=True)]
            row: dict[str, Any] = {"r": r, "criterion": criterion}
            for number, name in enumerate(("class", "mean")):
                values = [F.cosine_similarity(found[number], expected[number], dim=-1) for found, expected in pairs]
                row[name] = float(torch.cat(values).mean())
            rows.append(row)
            print(f"r={r} {criterion}: class token {row['class']:.4f}, mean of patches {row['mean']:.4f}", flush=True)
    print("\n".join(table(rows, criteria)))
    write_record(config.out, config=asdict(config), hardware=describe(device), rows=rows)


def _model(config: Any, **techniques: Any) -> nn.Module:
    model = vitaos.create_model(
        config.model.name,
        num_classes=0,
        img_size=config.img_size,
        depth=config.depth,
        **config.model.keywords,
    )
    if config.weights is not None:
        vitaos.load_weights(model, config.weights)
    return vitaos.attach(model, **techniques).eval()


def _batches(config: Any) -> Iterator[Tensor]:
    paths = sorted(path for path in Path(config.images).rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"images={config.images}: no images ({', '.join(sorted(_SUFFIXES))}) in this folder.")
    chosen = paths[:: max(len(paths) // config.count, 1)][: config.count]
    transform: Any = create_transform((3, config.img_size, config.img_size), crop_pct=0.875)
    pictures = torch.stack([transform(Image.open(path).convert("RGB")) for path in chosen])
    yield from pictures.split(config.batch_size)


@torch.no_grad()
def _features(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) of the first token, and (B, C), the mean of the patch tokens, each counted by its size."""
    record = record_in(model)
    if record is not None:
        record.keeps_sizes = True
    tokens_BNC, prefix = model.forward_features(images), model.num_prefix_tokens
    sizes_BN = None if record is None else record.sizes_BN
    if record is not None:
        record.clear()
    weights_BN = torch.ones_like(tokens_BNC[..., 0]) if sizes_BN is None else sizes_BN
    patches_BN = weights_BN[:, prefix:]
    mean_BC = (tokens_BNC[:, prefix:] * patches_BN.unsqueeze(2)).sum(1) / patches_BN.sum(1, keepdim=True)
    return tokens_BNC[:, 0], mean_BC


def table(rows: list[dict[str, Any]], criteria: list[str]) -> list[str]:
    """The rows as lines of a Markdown table: class token / mean of the patch tokens."""
    lines = [f"| r | {' | '.join(criteria)} |", "|---" * (len(criteria) + 1) + "|"]
    for r in dict.fromkeys(row["r"] for row in rows):
        cells = [f"{row['class']:.4f} / {row['mean']:.4f}" for row in rows if row["r"] == r]
        lines.append(f"| {r} | {' | '.join(cells)} |")
    return lines
