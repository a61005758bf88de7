"""Where the first weights of a model lie: a file, a run, an exported folder, the hub, or timm's published weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import timm.models
from huggingface_hub.errors import HfHubHTTPError
from timm.models._hub import download_cached_file
from torch import nn

from vitaos.checkpoint.resume import find_newest
from vitaos.weights.hub import CONFIG_NAME, HUB_PREFIX, WEIGHTS_NAME, locate
from vitaos.weights.pretrained import read_config

TIMM_DEFAULT: Final = "timm"
_WEIGHTS_NAMES: Final = (WEIGHTS_NAME, "pytorch_model.bin")


@dataclass(frozen=True)
class Source:
    """A file of weights, and how its publisher normalized images.

    Attributes:
        path: the file on this machine.
        preprocessing: ``mean``, ``std`` and whatever else is said of the images; empty where nothing is.
        content: what the file holds, where it was read to choose it.
    """

    path: Path
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    content: Mapping[str, Any] | None = None


def find(source: str, model: nn.Module) -> Source:
    """The file that ``init`` means, downloaded into the cache of the hub where it has to be.

    Args:
        source: a file; a run folder (its newest whole checkpoint); a folder with ``model.safetensors`` (``vitaos
            export``, timm); ``hf-hub:OWNER/NAME[@REVISION]``; ``timm``: the weights that timm publishes for the
            architecture of `model`; the name of any weights of timm (``vit_small_patch16_224.augreg_in21k``).
        model: whose weights ``timm`` means.

    Raises:
        ValueError: there is no such source, no connection and no copy in the cache, or timm publishes nothing for it.
    """
    if source == TIMM_DEFAULT:
        described = getattr(model, "pretrained_cfg", {})
        name = ".".join(str(described[key]) for key in ("architecture", "tag") if described.get(key))
        return _of_timm(name or "this model")
    if source.startswith(HUB_PREFIX):
        return _of_folder(source)
    path = Path(source)
    if path.is_dir():
        return _of_directory(path)
    if path.is_file():
        return Source(path)
    if timm.models.get_pretrained_cfg(source, allow_unregistered=True) is None:
        raise ValueError(
            "no such file or folder, nor a name of timm's weights. Expected a file, a run folder, an exported folder, "
            f"{HUB_PREFIX}OWNER/NAME, or {TIMM_DEFAULT} for the weights that timm publishes for the model"
        )
    return _of_timm(source)


def _of_directory(folder: Path) -> Source:
    if any((folder / name).is_file() for name in _WEIGHTS_NAMES):
        return _of_folder(str(folder))
    found = find_newest(folder)
    if found is None:
        raise ValueError(f"neither a checkpoint of a run nor {WEIGHTS_NAME} is in that folder")
    return Source(found.path, content=found.contents)


def _of_folder(source: str) -> Source:
    """A folder or repository in timm's format; one without a ``config.json`` says nothing of the images."""
    path = _first_of(source, _WEIGHTS_NAMES)
    try:
        described = read_config(locate(source, CONFIG_NAME), source).get("pretrained_cfg")
    except ValueError:
        described = None
    return Source(path, described if isinstance(described, dict) else {})


def _of_timm(name: str) -> Source:
    """The weights of a name (``ARCHITECTURE`` or ``ARCHITECTURE.TAG``) of timm's: in the hub, else at an address."""
    published: Any = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if published is None or not published.has_weights:
        raise ValueError(f"timm publishes no weights for {name}")
    images = {"mean": published.mean, "std": published.std}
    if published.hf_hub_id:
        names = (published.hf_hub_filename,) if published.hf_hub_filename else _WEIGHTS_NAMES
        return Source(_first_of(f"{HUB_PREFIX}{published.hf_hub_id}", names), images)
    try:
        return Source(Path(download_cached_file(published.url)), images)
    except (OSError, HfHubHTTPError, RuntimeError, ValueError) as error:
        raise ValueError(f"{published.url} cannot be had: {error}") from error


def _first_of(source: str, names: tuple[str, ...]) -> Path:
    """The first of some files that a folder or repository has; the complaint is about the first."""
    complaint: ValueError | None = None
    for name in names:
        try:
            return locate(source, name)
        except ValueError as error:
            complaint = complaint or error
    assert complaint is not None
    raise complaint
