"""The paper's backbones by their short names: which timm entry and keywords each stands for. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_DEIT_DEPTHS: Final = (12, 24)


@dataclass(frozen=True)
class Backbone:
    """A short name's timm entry and the keywords that make it what the name stands for."""

    family: str
    entry: str
    keywords: Mapping[str, Any]


def _backbones() -> dict[str, Backbone]:
    backbones = {}
    for letter, size in (("ti", "tiny"), ("s", "small"), ("b", "base")):
        for depth in _DEIT_DEPTHS:
            backbones[f"deit_{letter}{depth}"] = Backbone("deit", f"deit_{size}_patch16_224", {"depth": depth})
    for name, entry in (
        ("xxs24", "xxs24_224"),
        ("xs24", "xs24_384"),
        ("s24", "s24_224"),
        ("s36", "s36_384"),
    ):
        backbones[f"cait_{name}"] = Backbone("cait", f"cait_{entry}", {})
    for letter, size, third in (("t", "tiny", 6), ("s", "small", 18), ("b", "base", 18)):
        # timm's own default drop path for Swin is 0.1; how much to regularize is the recipe's choice, for all
        # three alike.
        keywords = {"depths": (2, 2, third, 2), "drop_path_rate": 0.0}
        backbones[f"swin_{letter}"] = Backbone("swin", f"swin_{size}_patch4_window7_224", keywords)
    return backbones


BACKBONES: Final[dict[str, Backbone]] = _backbones()
