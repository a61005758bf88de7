"""Which classes are taken for which, and which of them fare worst."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitaos.engine.evaluation_result import Predictions

WORST_COLUMNS: Final = ("rank", "class", "name", "count", "correct", "top1", "taken_for", "taken_for_share")


def confusion_matrix(predictions: Predictions, classes: int) -> NDArray[np.int64]:
    """(K, K) counts of images by label (row) and first answer (column); (K, K + 1) where some answers were not finite
    numbers, which the last column counts."""
    judged = predictions.target >= 0
    target, predicted = predictions.target[judged].astype(np.int64), predictions.predicted[judged].astype(np.int64)
    columns = classes + bool((predicted < 0).any())
    predicted = np.where(predicted < 0, classes, predicted)
    return np.bincount(target * columns + predicted, minlength=classes * columns).reshape(classes, columns)


def worst_classes(matrix: NDArray[np.int64], names: Sequence[str]) -> list[list[Any]]:
    """Rows of a table, a head first: the classes that have images, from the least accurate to the most, each with the
    class it is most often taken for and with the share of its images that are (per cent)."""
    rows: list[list[Any]] = []
    labels = [*names, "not finite"]
    for index, line in enumerate(matrix):
        count, correct = int(line.sum()), int(line[index])
        if not count:
            continue
        others = line.copy()
        others[index] = 0
        most = int(others.argmax())
        confused = [labels[most], f"{100 * int(others[most]) / count:.2f}"] if others[most] else ["", ""]
        rows.append([index, names[index], count, correct, f"{100 * correct / count:.2f}", *confused])
    rows.sort(key=lambda row: row[3] / row[2])
    return [list(WORST_COLUMNS), *([rank, *row] for rank, row in enumerate(rows, start=1))]
