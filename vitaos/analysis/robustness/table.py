"""The numbers of one robustness test: rows with named columns, as CSV and JSON."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitaos.metrics_reader import finite_or_null

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """One number a row.

    Attributes:
        test: name of the test.
        columns: of the rows, in order.
        rows: column -> value.
        facts: what holds for all rows (images, seeds, the model's own accuracy).
    """

    test: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write_csv(self, path: Path) -> None:
        """Write the rows."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)

    def write_json(self, path: Path, described: Mapping[str, Any]) -> None:
        """Write what was tested, the facts and the rows."""
        content = finite_or_null(
            {**described, "test": self.test, **self.facts, "rows": [dict(row) for row in self.rows]}
        )
        path.write_text(json.dumps(finite_or_null(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")
