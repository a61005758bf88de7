"""The short names in timm's own registry: ``timm.create_model("deit_s24_attnscale")`` once vitaos is imported.

Each short name is registered plain and with each single technique. timm looks entry points up in the module that
defines them, so they are this module's globals.
"""

from collections.abc import Callable
from typing import Any

from timm.models import register_model

from vitaos.backbones import BACKBONES
from vitaos.technique_names import TECHNIQUE_NAMES


def _entry(name: str) -> Callable[..., Any]:
    """An entry point; timm adds keywords of its own about pretrained weights, of which there are none."""

    def entry(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        **keywords: Any,
    ) -> Any:
        from vitaos import models  # noqa: PLC0415 - it imports timm, whose import has brought us here

        return models.create_model(name, pretrained=pretrained, **keywords)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"vitaos.create_model({name!r}, ...)."
    return entry


for _name in BACKBONES:
    for _full in (_name, *(f"{_name}_{_technique}" for _technique in TECHNIQUE_NAMES)):
        globals()[_full] = register_model(_entry(_full))
