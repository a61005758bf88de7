"""What every cell of a study cost to train, as Markdown and as columns of a CSV file."""

from collections.abc import Sequence
from typing import Any

from vitaos.study.budget import TRAINING_PASSES, Budget
from vitaos.study.cells import Cell, Study
from vitaos.study.labels import technique_title
from vitaos.study.runs import PLAIN

__all__ = ["budget_columns", "markdown_of_budgets", "relative_cost"]


def markdown_of_budgets(study: Study) -> list[str]:
    """A table with a row a cell, and the rule by which cells are compared."""
    lines = [
        "## Budgets",
        "",
        "Compared are runs of equal epochs and images, whose model needs at most "
        f"{100 * study.tolerance:g}% more parameters and operations than the plain one (`tolerance=`). Operations: "
        "matrix products and convolutions of one image's forward pass, two for each multiplication and addition "
        f"(not of elementwise operations); of training {TRAINING_PASSES} times that an image. In brackets: of plain.",
        "",
        "| model | blocks | technique | epochs | images | parameters | MFLOP an image | training, TFLOP |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return [*lines, *(_row(study.cells, cell) for cell in study.cells)]


def budget_columns(budget: Budget) -> dict[str, Any]:
    """The same numbers for a row of a CSV file."""
    model = budget.model
    return {
        "epochs": budget.epochs,
        "images": budget.images,
        "parameters": model and model.parameters,
        "flops_an_image": model and model.flops,
        "training_flops": budget.training_flops,
    }


def relative_cost(cell: Cell, plain: Cell) -> float | None:
    """Operations of a cell's model over those of the plain one; None where unknown."""
    if cell.budget.model is None or plain.budget.model is None:
        return None
    return cell.budget.model.flops / plain.budget.model.flops


def _row(cells: Sequence[Cell], cell: Cell) -> str:
    budget, model = cell.budget, cell.budget.model
    key = (cell.model, cell.data, cell.depth)
    plain = next(
        (other for other in cells if (other.model, other.data, other.depth) == key and other.technique == PLAIN), None
    )
    base = plain.budget.model if plain and plain is not cell else None
    total = budget.training_flops
    columns = [
        cell.model,
        str(cell.depth or ""),
        technique_title(cell.technique),
        str(budget.epochs),
        "" if budget.images is None else f"{budget.images:,}",
        ""
        if model is None
        else f"{model.parameters:,}" + _times(model.parameters, None if base is None else base.parameters),
        ""
        if model is None
        else f"{model.flops / 1e6:,.1f}" + _times(model.flops, None if base is None else base.flops),
        "" if total is None else f"{total / 1e12:,.1f}",
    ]
    return "| " + " | ".join(columns) + " |"


def _times(value: int, base: int | None) -> str:
    return "" if base is None else f" (x{value / base:.3f})"
