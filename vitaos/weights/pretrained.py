"""A model as a folder that others can load: ``model.safetensors`` and a ``config.json`` in timm's format.

A model without techniques is a plain timm folder (``timm.create_model("local-dir:DIR", pretrained=True)``). With
techniques ``config.json`` names an architecture that timm does not know, so that timm refuses the folder instead of
building another network; :func:`from_pretrained` reads both.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf
from timm.utils import unwrap_model
from torch import nn

from vitaos import techniques
from vitaos.models import create_model
from vitaos.weights.hub import CONFIG_NAME, WEIGHTS_NAME, locate
from vitaos.weights.load import load_saved

_SECTION: Final = "vitaos"  # of config.json: what timm's format has no place for
_PREPROCESSING: Final = ("mean", "std", "interpolation", "crop_pct", "input_size")
_MAX_CONFIG_BYTES: Final = 1 << 24


def save_pretrained(
    model: nn.Module,
    folder: str | Path,
    *,
    class_names: list[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write a model's weights and configuration into a new folder.

    Args:
        model: made by ``vitaos.create_model`` or ``timm.create_model``, with or without techniques.
        folder: is made; must be empty where it exists.
        class_names: what the answers mean, in their order.
        preprocessing: ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``input_size`` (channels, height, width).
        details: further plain values kept under ``vitaos`` in ``config.json`` (recipe, metrics, data).

    Returns:
        The files written.

    Raises:
        ValueError: the folder holds something already, an argument of the model cannot be written as JSON, or the model
            is what timm's ``features_only=True`` left of one.
    """
    if not hasattr(unwrap_model(model), "num_classes"):
        raise ValueError("Only a whole model is written, not what features_only=True left of one.")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not empty: give a new folder.")
    config = write_config(model, folder, class_names=class_names, preprocessing=preprocessing, details=details)
    save_file(unwrap_model(model).state_dict(), folder / WEIGHTS_NAME)
    return [config, folder / WEIGHTS_NAME]


def write_config(
    model: nn.Module,
    folder: Path,
    *,
    class_names: list[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Path:
    """Write the ``config.json`` of a model into a folder, which is made; see :func:`save_pretrained`.

    Raises:
        ValueError: an argument of the model cannot be written as JSON, or it was not made by its name.
    """
    inner: Any = unwrap_model(model)
    attached = techniques.attached(inner)
    backbone: str = getattr(inner, "pretrained_cfg", {}).get("architecture", "")
    if not backbone:
        raise ValueError(
            f"this {type(inner).__name__} was made by its class and has no name to be made by again: make it with "
            "vitaos.create_model or timm.create_model, or save its state_dict()"
        )
    section = {"backbone": backbone, "techniques": attached, **(details or {})}
    parts = [backbone, *attached]
    if (gain := techniques.skip_gain_of(inner)) != 1:
        section["skip_gain"] = gain
        parts.append(f"skip_gain{gain:g}")
    config: dict[str, Any] = {"architecture": "+".join(parts), _SECTION: section}
    if class_names:
        config["label_names"] = list(class_names)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG_NAME
    save_config_for_hf(inner, str(path), model_config=config, data_config=dict(preprocessing or {}) or None)
    return path


def from_pretrained(source: str | Path) -> nn.Module:
    """The model of a folder written by :func:`save_pretrained`, of a timm folder, or of a repository of the hub.

    Nothing in ``config.json`` is run or opened: it chooses among the models of vitaos and timm, and its arguments go
    through the checks of ``create_model``.

    Args:
        source: a folder, or ``hf-hub:OWNER/NAME[@REVISION]``.

    Returns:
        The model in evaluation mode; ``model.pretrained_cfg`` has its normalization and class names.

    Raises:
        ValueError: no such source, a configuration that is none, or weights that do not fit it.
    """
    described = describe(source)
    try:
        model = create_model(
            described.name,
            num_classes=described.num_classes,
            skip_gain=described.skip_gain,
            **described.keywords,
            **described.techniques,
        ).eval()
        report = load_saved(model, locate(source, WEIGHTS_NAME))
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{source}: {error}") from error
    if report.missing or report.unexpected:
        raise ValueError(f"{source}: the weights are not those of {CONFIG_NAME}:\n{report}")
    built: Any = model
    names = {} if described.class_names is None else {"label_names": described.class_names}
    built.pretrained_cfg |= {**described.preprocessing, **names}
    return model


@dataclass(frozen=True)
class Description:
    """What a ``config.json`` says of its model.

    Attributes:
        name: the architecture, of vitaos or timm.
        num_classes: of the classifier.
        keywords: further arguments of the architecture.
        skip_gain: the residual around attention.
        techniques: name -> True or options.
        class_names: what the answers mean, in their order; None where it does not say.
        preprocessing: ``mean``, ``std``, ``interpolation``, ``crop_pct``, ``input_size``, as far as it says.
    """

    name: str
    num_classes: Any
    keywords: dict[str, Any]
    skip_gain: Any
    techniques: dict[str, Any]
    class_names: Any
    preprocessing: dict[str, Any]


def describe(source: str | Path) -> Description:
    """The description of a folder or repository, without its weights; nothing of it is trusted but its shape.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    config = read_config(locate(source, CONFIG_NAME), source)
    section, arguments = config.get(_SECTION, {}), config.get("model_args", {})
    if not isinstance(section, dict) or not isinstance(arguments, dict):
        raise ValueError(f"{source}: {CONFIG_NAME} is damaged: {_SECTION} and model_args must be mappings.")
    name, flags = section.get("backbone", config.get("architecture")), section.get("techniques", {})
    if not isinstance(name, str) or not isinstance(flags, dict):
        raise ValueError(f"{source}: {CONFIG_NAME} names no architecture.")
    num_classes: Any = config.get("num_classes", arguments.get("num_classes", 1000))
    keywords = {key: _tuples(value) for key, value in arguments.items() if key != "num_classes"}
    return Description(
        name=name,
        num_classes=num_classes,
        keywords=keywords,
        skip_gain=section.get("skip_gain", 1.0),
        techniques=flags,
        class_names=config.get("label_names"),
        preprocessing=_preprocessing(config),
    )


def read_config(path: Path, source: str | Path) -> dict[str, Any]:
    """What a ``config.json`` holds.

    Args:
        path: the file.
        source: the folder or repository it belongs to, named in errors.

    Raises:
        ValueError: it is too large, no JSON, or no mapping.
    """
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{source}: {CONFIG_NAME} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{source}: {CONFIG_NAME} must hold a mapping, not a {type(config).__name__}.")
    return config


def _tuples(value: Any) -> Any:
    """JSON has lists where timm's arguments are tuples."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    stored = config.get("pretrained_cfg")
    kept = {key: stored[key] for key in _PREPROCESSING if key in stored} if isinstance(stored, dict) else {}
    return {key: _tuples(value) for key, value in kept.items()}
