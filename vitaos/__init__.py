"""Train, measure and compare deep Vision Transformers that do not oversmooth.

model = vitaos.create_model("deit_s24", attnscale=True)
model = vitaos.attach(timm.create_model("vit_small_patch16_224"), attnscale=True, featscale=True)
report = vitaos.load_weights(model, "checkpoint.pth")
vitaos.save_pretrained(model, "folder")
model = vitaos.from_pretrained("folder")  # or "hf-hub:OWNER/NAME"
run = vitaos.train(["data=digits", "attnscale=true"])  # the commands as functions; evaluate and analyze alike

What is public is imported on first use: torch and timm take seconds, and ``--help`` needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from vitaos.timm_import import register_names
from vitaos.version import __version__

if TYPE_CHECKING:
    from vitaos.functions import analyze, evaluate, train
    from vitaos.models import create_model
    from vitaos.techniques import attach
    from vitaos.weights.load import load_weights
    from vitaos.weights.pretrained import from_pretrained, save_pretrained

__all__ = [
    "__version__",
    "analyze",
    "attach",
    "create_model",
    "evaluate",
    "from_pretrained",
    "load_weights",
    "save_pretrained",
    "train",
]
_HOMES: Final = {
    "analyze": "vitaos.functions",
    "attach": "vitaos.techniques",
    "create_model": "vitaos.models",
    "evaluate": "vitaos.functions",
    "from_pretrained": "vitaos.weights.pretrained",
    "load_weights": "vitaos.weights.load",
    "save_pretrained": "vitaos.weights.pretrained",
    "train": "vitaos.functions",
}
_MODULES: Final = ("models", "techniques", "timm_registry", "weights")
"""Parts that ``vitaos.NAME`` means without an import of their own."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"vitaos.{name}")
    else:
        raise AttributeError(f"module 'vitaos' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})


register_names()
