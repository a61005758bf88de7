"""What GPUs can do at most, by their makers' data sheets: one table for all that is held against it."""

import re
from typing import Final, NamedTuple


class Ceilings(NamedTuple):
    """Of a GPU; None where nothing here needs the figure.

    Attributes:
        half: dense matrix products in 16 bits, 10^12 operations a second.
        single: those of 32-bit numbers rounded to TF32.
        memory: 10^12 bytes a second of its memory.
    """

    half: float
    single: float | None = None
    memory: float | None = None


CEILINGS: Final[dict[str, Ceilings]] = {
    "B200": Ceilings(2250.0),
    "GB200": Ceilings(2500.0),
    "H200": Ceilings(989.4, 494.7, 4.8),
    "GH200": Ceilings(989.4, 494.7),
    "H100 PCIe": Ceilings(756.0, 378.0),
    "H100 NVL": Ceilings(835.0),
    "H100": Ceilings(989.4, 494.7, 3.35),
    "A100": Ceilings(312.0, 156.0, 2.039),
    "A800": Ceilings(312.0, 156.0),
    "A40": Ceilings(149.7),
    "A30": Ceilings(165.0),
    "A10": Ceilings(125.0, 62.5),
    "L40S": Ceilings(362.0, 183.0),
    "L40": Ceilings(181.0),
    "L4": Ceilings(121.0, 60.0),
    "V100": Ceilings(125.0),
    "T4": Ceilings(65.0),
    "RTX 4090": Ceilings(165.2),
    "RTX 3090": Ceilings(71.0),
    "RTX A6000": Ceilings(154.8),
    "MI300X": Ceilings(1307.0),
    "MI250": Ceilings(362.0),
}
"""H100, H200 and A100 without a word after them are the SXM cards (A100: 80 GB)."""


def find_gpu(card: str) -> str | None:
    """The first key of ``CEILINGS`` whose words are all in a card's name; None where there is none, or a MIG slice."""
    words = set(re.split(r"[\s-]+", card))
    if "MIG" in words:
        return None
    return next((name for name in CEILINGS if set(name.split()) <= words), None)
