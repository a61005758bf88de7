"""How a key of the configuration is declared: its default, what it means, and which values it takes."""

from dataclasses import dataclass, field
from typing import Any, Final


class ConfigError(ValueError):
    """A configuration that cannot be run: the message names the key and what would be right."""


LOCAL: Final = "local"
"""Mark of keys that may differ between the starts of a run, and between runs that are compared: where a run runs, what
it writes and shows, not what it computes."""
PER_START: Final = "per_start"
"""Mark of keys that may differ between the starts of a run although they change what comes out: how far it goes, where
it came from, how a global batch is divided."""

MANY: Final = 10**6
"""More than anybody counts images of a batch, epochs or blocks in: a slip of the finger rather than a wish."""
EVER: Final = 10**12
"""As :data:`MANY`, of steps and whatever is told in steps."""

_TOLD_UP_TO: Final = 2**14
"""Upper ends beyond this only stop slips of the finger: nobody has to read them."""


@dataclass(frozen=True)
class Bounds:
    """The numbers that a key takes, each end with or without itself; of a list, each of its numbers."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, number: float) -> bool:
        """Whether a number is one of them; NaN never is."""
        return (
            (self.low is None or number >= self.low)
            and (self.high is None or number <= self.high)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        lower, upper = self._ends()
        if lower is None or upper is None or upper > _TOLD_UP_TO:
            return self._lower() or self._upper()
        without = [f"{end:,g}" for end in (self.above, self.below) if end is not None]
        return f"between {lower:,g} and {upper:,g}" + (f", without {' and '.join(without)}" if without else "")

    def refuse(self, number: float) -> str:
        """What a number that they do not hold would have to be: both ends of a share, else the end that it misses."""
        _, upper = self._ends()
        if upper is not None and upper <= 1:
            return str(self)
        misses_upper = (self.high is not None and number > self.high) or (
            self.below is not None and number >= self.below
        )
        return self._upper() if misses_upper else self._lower()

    def _ends(self) -> tuple[float | None, float | None]:
        return (self.above if self.low is None else self.low), (self.below if self.high is None else self.high)

    def _lower(self) -> str:
        if self.low is not None:
            return f"at least {self.low:,}"
        return "" if self.above is None else f"above {self.above:,}"

    def _upper(self) -> str:
        if self.high is not None:
            return f"at most {self.high:,}"
        return "" if self.below is None else f"below {self.below:,}"


def key(
    default: Any,
    meaning: str,
    *,
    choices: tuple[Any, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    count: int | None = None,
    is_path: bool = False,
    mark: str | None = None,
    added: bool = False,
) -> Any:
    """Declare a key.

    Args:
        default: its value unless given; a list is copied for each configuration.
        meaning: what it does, for ``--help`` and ``docs/configuration.md``.
        choices: the only values it takes.
        low, high, above, below: ends of its range, the first two included, the last two not.
        count: length of a list.
        is_path: a file or folder: ``~`` stands for the home folder.
        mark: :data:`LOCAL` or :data:`PER_START`; without one the key is part of what a run is.
        added: it came after the first run folders were written (see :func:`vitaos.config.added_keys`).
    """
    bounds = Bounds(low, high, above, below)
    metadata = {
        "help": meaning,
        "choices": choices,
        "bounds": None if bounds == Bounds() else bounds,
        "count": count,
        "is_path": is_path,
        "mark": mark,
        "added": added,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type[Any], meaning: str, *, mark: str | None = None) -> Any:
    """Declare a section: a configuration dataclass within another."""
    return field(default_factory=kind, metadata={"help": meaning, "mark": mark})
