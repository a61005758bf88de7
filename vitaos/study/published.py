"""Published ImageNet-1k top-1 at 224 px, to stand beside runs of the same setting, each with the epochs it was trained.

Accuracies: table 3 of arXiv 2312.04234, whose rows come from papers with different budgets. Epochs: DeiT's and Swin's
recipes; the commands of the AttnScale and FeatScale release, which leave its default of 500; the training log in GFSA's
repository (81.05 at epoch 481 of 500, 75.51 at 298). Where neither could be read, a cell or its epochs are missing.
"""

from dataclasses import dataclass
from typing import Final

from vitaos.study.cells import Cell
from vitaos.study.labels import metric_column

__all__ = ["SOURCE", "Published", "published", "published_beside"]

SOURCE: Final = (
    "accuracies from table 3 of arXiv 2312.04234; epochs from DeiT's and Swin's recipes, the commands of the AttnScale "
    "and FeatScale release (its default, 500) and the log in GFSA's repository. A number of other epochs than "
    "the run's own is no comparison"
)


@dataclass(frozen=True)
class Published:
    """An accuracy (%) as published, and the epochs of its training; None where they could not be read."""

    top1: float
    epochs: int | None = None

    def beside(self, epochs: int) -> str:
        """As text beside a run of so many epochs: ``80.7 (500 epochs, not 300)``."""
        if self.epochs is None:
            return f"{self.top1} (epochs not known)"
        return f"{self.top1} ({self.epochs} epochs" + (")" if self.epochs == epochs else f", not {epochs})")


_TOP1: Final[dict[tuple[str, int], dict[str, Published]]] = {
    ("deit_s", 12): {
        "plain": Published(79.8, 300),
        "attnscale": Published(80.7, 500),
        "featscale": Published(80.9, 500),
        "layerscale": Published(80.5),
        "contranorm": Published(80.4),
        "gfsa": Published(81.1, 500),
    },
    ("deit_s", 24): {
        "plain": Published(80.5),
        "attnscale": Published(81.1, 500),
        "featscale": Published(81.3, 500),
        "layerscale": Published(82.4),
        "contranorm": Published(80.7),
        "gfsa": Published(81.5),
    },
    ("cait_s", 24): {"plain": Published(82.6)},
    ("swin_s", 24): {"plain": Published(82.9, 300)},
}


_EPOCHS: Final = {"deit_s": 300, "swin_s": 300, "cait_s": 60}  # of the recipes; CaiT's is a fine-tuning


def published(model: str, data: str, depth: int | None, technique: str, img_size: int | None) -> Published | None:
    """What was published of this setting, None where there is none or the setting is another."""
    if data != "imagenet" or img_size != 224 or depth is None:
        return None
    return _TOP1.get((model, depth), {}).get(technique)


def published_beside(metric: str, cell: Cell) -> Published | None:
    """What was published that a cell may stand beside: nothing for another metric, a changed backbone, a part of the
    classes, less training than the recipe's, or a start from weights where the recipe has none."""
    config = cell.runs[0].config
    changed = any(key.startswith("model.keywords.") and key != "model.keywords.depth" for key in config)
    if metric_column(metric) != "accuracy" or changed or config.get("data.num_classes") not in (None, 1000):
        return None
    if cell.runs[0].epochs_done < _EPOCHS.get(cell.model, 0) or (config.get("init") and cell.model != "cait_s"):
        return None
    return published(cell.model, cell.data, cell.depth, cell.technique, config.get("data.img_size"))
