"""Names in foreign checkpoints -> timm's names, as functions on state dicts.

Origins known: vitaos, timm, the authors' release (DeiT, CaiT, Swin), and the official DeiT, DeiT III, CaiT and Swin
files.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor

StateDict = dict[str, Tensor]

EMA_KEYS: Final = ("ema", "model_ema", "state_dict_ema")
"""Where files keep the running average of the weights: vitaos; DeiT, CaiT and the release; timm."""

_COMPILED: Final = "_orig_mod."
_WRAPPERS: Final = re.compile(r"^(?:module\.|_orig_mod\.)+")
# Rebuilt by timm from the configuration, hence never loaded.
_BUFFERS: Final = re.compile(r"\.(attn_mask|relative_position_index|relative_coords_table)$")
_RELEASE_NAMES: Final = (
    (re.compile(r"\.attn\.lamb$"), ".attn.attn_scale"),
    (re.compile(r"\.lamb1$"), ".feat_scale_dc"),
    (re.compile(r"\.lamb2$"), ".feat_scale_hf"),
)
_DOWNSAMPLE: Final = re.compile(r"^layers\.(\d+)\.downsample\.")
_RELEASE_FEATSCALE: Final = re.compile(r"^blocks\.\d+\.lamb[12]$")


@dataclass
class MappedState:
    """A state dict under timm's names, and what was done to it on the way."""

    state: StateDict
    doubled: list[str] = field(default_factory=list)


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def find_state_dict(content: Any, weights: str) -> StateDict:
    """The state dict in what a checkpoint file holds.

    Args:
        content: a state dict, or a dict that holds one under ``model`` (vitaos, release, DeiT, CaiT, Swin),
            ``state_dict`` (timm) or ``module``, and the averaged weights under ``ema``, ``model_ema`` or
            ``state_dict_ema``.
        weights: ``model`` for the weights that were trained, ``ema`` for their running average.

    Raises:
        ValueError: no state dict, or no averaged weights in the file.
    """
    if weights not in ("model", "ema"):
        raise ValueError(
            f"weights={weights!r} is unknown: 'model' (the trained weights) or 'ema' (their running average)."
        )
    if not isinstance(content, Mapping):
        raise ValueError(f"This is no checkpoint: expected a dict of tensors, found a {type(content).__name__}.")
    if weights == "model" and _is_state_dict(content):
        return dict(content)
    names = ("model", "state_dict", "module") if weights == "model" else EMA_KEYS
    for name in names:
        if _is_state_dict(content.get(name)):
            return dict(content[name])
    held = ", ".join(str(key) for key in list(content)[:12]) or "nothing"
    what = "no state dict" if weights == "model" else "no averaged (EMA) weights"
    raise ValueError(f"The checkpoint holds {what}: looked for {', '.join(names)}; found {held}.")


def has_average(content: Mapping[str, Any]) -> bool:
    """Whether a file holds the running average of the weights beside them."""
    return any(content.get(key) is not None for key in EMA_KEYS)


def is_rebuilt_buffer(name: str) -> bool:
    """Whether timm computes this buffer from the configuration, so that it is never loaded."""
    return _BUFFERS.search(name) is not None


def strip_prefixes(state: Mapping[str, Tensor]) -> StateDict:
    """Remove what DDP (``module.``) and torch.compile (``_orig_mod.``) put before the names.

    A part that was compiled by itself has the latter within them; ``module.`` there is a name that a model chose.
    """
    return {_WRAPPERS.sub("", key).replace(f".{_COMPILED}", "."): value for key, value in state.items()}


def backbone_family(state: Mapping[str, Tensor]) -> str:
    """``Swin``, ``CaiT``, ``ViT`` or ``unknown``, from the names."""
    if any(key.startswith("layers.") and key.endswith("relative_position_bias_table") for key in state):
        return "Swin"
    if any(re.match(r"blocks_token_only\.|blocks\.\d+\.attn\.proj_l\.", key) for key in state):
        return "CaiT"
    if any(re.match(r"blocks\.\d+\.attn\.qkv\.weight$", key) for key in state):
        return "ViT"
    return "unknown"


def _is_official_swin(state: Mapping[str, Tensor]) -> bool:
    """The official code merges patches at the end of a stage, timm at the start of the next."""
    return "head.weight" in state or any(key.startswith("layers.0.downsample.") for key in state)


def _timm_name(key: str, family: str, official_swin: bool, own: Collection[str]) -> str:
    for pattern, name in _RELEASE_NAMES:
        key = pattern.sub(name, key)
    if family == "Swin" and official_swin:
        key = _DOWNSAMPLE.sub(lambda match: f"layers.{int(match.group(1)) + 1}.downsample.", key)
        key = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key)
    if family == "ViT" and key not in own:  # LayerScale in DeiT III; in BEiT and EVA it is called so in timm as well
        key = re.sub(r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma", key)
    return key


def to_timm_names(state: Mapping[str, Tensor], own: Collection[str]) -> MappedState:
    """Translate names (prefixes stripped); drop buffers that timm builds itself; double the release's DeiT FeatScale.

    The release's DeiT adds the FeatScale terms twice (Y + 2 s DC + 2 t HC), its CaiT and Swin once. Here every backbone
    adds them once, so the values are doubled on loading and the outputs agree. Gradients with respect to s and t are
    then half of the release's: fine-tuning such a file with the release's learning rate moves the *effective* weights
    at another pace.
    """
    family, official_swin = backbone_family(state), _is_official_swin(state)
    mapped = MappedState({})
    for key, value in state.items():
        if is_rebuilt_buffer(key):
            continue
        name = _timm_name(key, family, official_swin, own)
        if family == "ViT" and _RELEASE_FEATSCALE.match(key):
            mapped.doubled.append(name)
            mapped.state[name] = value * 2
        else:
            mapped.state[name] = value
    return mapped
