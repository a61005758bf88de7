"""Google's ViT files in Flax's layout (the first ViT, AugReg; ``.npz``) -> timm's names and axes.

Kernels are (in, out) there, (height, width, in, out) for patches and (in, heads, channels) for attention, whose query,
key and value stand apart.
"""

import re
from typing import Final

import torch
from torch import Tensor

from vitaos.weights.names import StateDict

_OPTIMIZER: Final = "opt/target/"
_PATCHES: Final = "embedding/kernel"
_BLOCK: Final = re.compile(r"^Transformer/encoderblock_(\d+)/(.+)$")
_ATTENTION: Final = "MultiHeadDotProductAttention_1/"
_PARTS: Final = ("query", "key", "value")
_OUTSIDE: Final = {
    "embedding/bias": "patch_embed.proj.bias",
    "cls": "cls_token",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
    "head/bias": "head.bias",
}
_IN_BLOCK: Final = {
    "LayerNorm_0/scale": "norm1.weight",
    "LayerNorm_0/bias": "norm1.bias",
    "LayerNorm_2/scale": "norm2.weight",
    "LayerNorm_2/bias": "norm2.bias",
    "MlpBlock_3/Dense_0/bias": "mlp.fc1.bias",
    "MlpBlock_3/Dense_1/bias": "mlp.fc2.bias",
    f"{_ATTENTION}out/bias": "attn.proj.bias",
}


def from_flax(state: StateDict) -> StateDict:
    """A state dict under timm's names; as it was where it is not of this layout. Names not known stay as they are."""
    state = {key.removeprefix(_OPTIMIZER): value for key, value in state.items()}
    if _PATCHES not in state or state[_PATCHES].ndim != 4:
        return state
    converted: StateDict = {}
    for key, value in state.items():
        block = _BLOCK.match(key)
        if key == _PATCHES:
            converted["patch_embed.proj.weight"] = value.permute(3, 2, 0, 1).contiguous()
        elif key == "head/kernel":
            converted["head.weight"] = value.T.contiguous()
        elif block is None:
            converted[_OUTSIDE.get(key, key)] = value
        else:
            converted |= _in_block(state, block.group(1), block.group(2), value)
    return converted


def _in_block(state: StateDict, number: str, name: str, value: Tensor) -> StateDict:
    path = f"blocks.{number}."
    if name in _IN_BLOCK:
        return {path + _IN_BLOCK[name]: value}
    if name == f"{_ATTENTION}out/kernel":
        return {f"{path}attn.proj.weight": value.flatten(0, 1).T.contiguous()}
    if (layer := re.fullmatch(r"MlpBlock_3/Dense_([01])/kernel", name)) is not None:
        return {f"{path}mlp.fc{int(layer.group(1)) + 1}.weight": value.T.contiguous()}
    for ours, theirs in (("weight", "kernel"), ("bias", "bias")):
        names = [f"Transformer/encoderblock_{number}/{_ATTENTION}{part}/{theirs}" for part in _PARTS]
        if name == f"{_ATTENTION}query/{theirs}" and all(part in state for part in names):
            joined = [state[part].flatten(1).T if ours == "weight" else state[part].flatten() for part in names]
            return {f"{path}attn.qkv.{ours}": torch.cat(joined)}
        if name in {f"{_ATTENTION}key/{theirs}", f"{_ATTENTION}value/{theirs}"}:
            return {}
    return {f"Transformer/encoderblock_{number}/{name}": value}
