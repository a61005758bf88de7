"""Published ImageNet-1k top-1 at 224 px, to stand beside runs of the same setting.

All read in table 3 of arXiv 2312.04234, whose rows come from papers with different budgets (300 epochs for DeiT, 500 by
default in the authors' release). A cell that could not be read is not here.
"""

from typing import Final

from vitaos.study.cells import Cell
from vitaos.study.labels import metric_column

__all__ = ["SOURCE", "published", "published_beside"]

SOURCE: Final = "table 3 of arXiv 2312.04234; budgets differ between its rows"
_TOP1: Final[dict[tuple[str, int], dict[str, float]]] = {
    ("deit_s", 12): {
        "plain": 79.8,
        "attnscale": 80.7,
        "featscale": 80.9,
        "layerscale": 80.5,
        "contranorm": 80.4,
        "gfsa": 81.1,
    },
    ("deit_s", 24): {
        "plain": 80.5,
        "attnscale": 81.1,
        "featscale": 81.3,
        "layerscale": 82.4,
        "contranorm": 80.7,
        "gfsa": 81.5,
    },
    ("cait_s", 24): {"plain": 82.6},
    ("swin_s", 24): {"plain": 82.9},
}


_EPOCHS: Final = {"deit_s": 300, "swin_s": 300, "cait_s": 60}  # of the recipes; CaiT's is a fine-tuning


def published(model: str, data: str, depth: int | None, technique: str, img_size: int | None) -> float | None:
    """The published accuracy (%) of this setting, None where there is none or the setting is another."""
    if data != "imagenet" or img_size != 224 or depth is None:
        return None
    return _TOP1.get((model, depth), {}).get(technique)


def published_beside(metric: str, cell: Cell) -> float | None:
    """The published accuracy (%) that a cell may be compared with: none for another metric, a changed backbone, a part
    of the classes, less training than the recipe's, or a start from weights where the recipe has none."""
    config = cell.runs[0].config
    changed = any(key.startswith("model.keywords.") and key != "model.keywords.depth" for key in config)
    if metric_column(metric) != "accuracy" or changed or config.get("data.num_classes") not in (None, 1000):
        return None
    if cell.runs[0].epochs_done < _EPOCHS.get(cell.model, 0) or (config.get("init") and cell.model != "cait_s"):
        return None
    return published(cell.model, cell.data, cell.depth, cell.technique, config.get("data.img_size"))
