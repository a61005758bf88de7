"""One line of the report."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was looked at and found.

    Attributes:
        what: the thing, in a word or two.
        status: "failed" is what training cannot do without, "warning" what costs time or a feature.
        detail: what was found.
        cure: what to do about it; empty where all is well.
    """

    what: str
    status: Status
    detail: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"\n{'':10}-> {self.cure}" if self.cure else ""
        return f"{self.status:<10}{self.what}: {self.detail}{cure}"


def ok(what: str, detail: str) -> Finding:
    """All is well."""
    return Finding(what, "ok", detail)


def warning(what: str, detail: str, cure: str) -> Finding:
    """It works, at a price."""
    return Finding(what, "warning", detail, cure)


def failed(what: str, detail: str, cure: str) -> Finding:
    """Training will not work."""
    return Finding(what, "failed", detail, cure)
