"""The end of a message about an unknown name: the known names nearest to it."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], *, most: int = 2) -> str:
    """``"; did you mean a or b?"`` with the nearest known names, or ``"."`` where none is near.

    Args:
        name: what was given.
        known: what could have been meant; of equally near names the earlier ones are taken.
        most: number of names at most.
    """
    near = get_close_matches(name, list(dict.fromkeys(known)), n=most)
    return f"; did you mean {' or '.join(near)}?" if near else "."
