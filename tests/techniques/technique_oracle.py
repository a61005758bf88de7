"""Every technique once more, from its equation, with its N x N map in memory: what vitaos/techniques must equal.

Works on a plain timm model: the attention modules' forward is replaced by one that forms the map, mixes it as the
equation says, and applies it; parameters are read from the model under test. Nothing is shared with vitaos/techniques.
"""

import math
from functools import partial
from typing import Any

import torch
from map_oracle import State, changed_map, per_head, softmax_map
from torch import Tensor, nn


def _attention(
    attention: Any, names: tuple[str, ...], path: str, state: State, first: list[Tensor], *inputs: Any, **keywords: Any
) -> Tensor:
    x, mask = inputs[0], keywords.get("mask")
    batch, tokens, _ = x.shape
    q, k, v = (
        part.reshape(batch, tokens, attention.num_heads, -1).transpose(1, 2) for part in attention.qkv(x).chunk(3, -1)
    )
    is_first = path == "blocks.0.attn"
    if is_first:
        first[:] = [v]
    attended = v
    if "value_residual" in names and not is_first:
        attended = state[f"{path}.value_residual_first"] * first[0] + state[f"{path}.value_residual_own"] * v
    y = (
        changed_map(softmax_map(attention, q, k, mask, state.get(f"{path}.locality_slope")), names, path, state)
        @ attended
    )
    if "neutreno" in names and not is_first:
        y = y + 0.6 * (first[0] - v)
    if "fdam" in names:
        y = _inverted(y, v, x, f"{path}.fdam", state)
    if "gated_attention" in names:
        logits = x @ state[f"{path}.output_gate.weight"].T + state[f"{path}.output_gate.bias"]
        y = y * (2 / (1 + (-logits).exp())).transpose(1, 2)[..., None]
    return attention.proj(y.transpose(1, 2).reshape(batch, tokens, -1))


def _inverted(y: Tensor, v: Tensor, x: Tensor, path: str, state: State) -> Tensor:
    """FDAM, one gain a token and head times one a channel."""
    u = x.clamp(min=0) ** 2
    low, high = (
        (u @ state[f"{path}_{part}.weight"].T + state[f"{path}_{part}.bias"]).transpose(1, 2)[..., None]
        for part in ("low", "high")
    )
    channels = y.shape[1], 1, y.shape[-1]
    low_gain, high_gain = (state[f"{path}_{part}_gain"].view(channels) for part in ("low", "high"))
    s = (1 + high.exp()).log()
    return y + low_gain * low.tanh() * y + high_gain * 2 * s**2 / (s**2 + torch.e**-1) * (v - y)


def _feature_scale(path: str, state: State, y: Tensor) -> Tensor:
    dims = tuple(range(1, y.ndim - 1))
    direct = y.mean(dims, keepdim=True).expand_as(y)
    s, t = state[f"{path}.feat_scale_dc"], state[f"{path}.feat_scale_hf"]
    return y + s * direct + t * (y - direct)


def _generalized_mean(power: Tensor, x: Tensor) -> Tensor:
    groups = x.clamp(min=1e-6).flatten(1, -2).chunk(len(power), dim=-1)
    return torch.cat([(part**p).mean(1) ** (1 / p) for part, p in zip(groups, power, strict=True)], dim=-1)


def _contrast(x: Tensor) -> Tensor:
    unit = x / x.norm(dim=-1, keepdim=True)
    return x - 0.1 * (unit @ unit.transpose(-2, -1)).softmax(-1) @ x


def _pooled(state: State, path: str, x: Tensor) -> Tensor:
    """TAP on the patches of a square grid, each neighborhood by its nine tokens."""
    given, x = x, x.flatten(1, -2)
    side = math.isqrt(x.shape[1])
    prefix = x.shape[1] - side**2
    grid = x[:, prefix:].reshape(len(x), side, side, -1)

    def at(y: int, across: int, apart: int) -> list[Tensor]:
        rows, columns = ((place - apart, place, place + apart) for place in (y, across))
        inside = [(r, c) for r in rows for c in columns if 0 <= r < side and 0 <= c < side]
        return [grid[:, r, c] for r, c in inside]

    logits = nn.functional.conv2d(grid.permute(0, 3, 1, 2), state[f"{path}.0.weight"], padding=1)
    mean, variance, gain, bias = (
        per_head(state[f"{path}.1.{key}"]) for key in ("running_mean", "running_var", "weight", "bias")
    )
    logits = (logits - mean) / (variance + 1e-5).sqrt() * gain + bias
    gates = nn.functional.conv2d(logits, state[f"{path}.2.weight"], padding=1).softmax(1)
    tokens = [
        gates[:, 0, y, across, None] * grid[:, y, across]
        + sum(gates[:, k, y, across, None] * sum(at(y, across, k)) / 9 for k in range(1, gates.shape[1]))
        for y in range(side)
        for across in range(side)
    ]
    return torch.cat([x[:, :prefix], torch.stack(tokens, dim=1)], dim=1).reshape(given.shape)


def _reweighed(state: State, path: str, y: Tensor) -> Tensor:
    """FreqScale by the whole spectrum of a square grid: gains of frequencies left out are those of their conjugates."""
    given, y = y, y.flatten(1, -2)
    side = math.isqrt(y.shape[1])
    prefix = y.shape[1] - side**2
    grid = y[:, prefix:].reshape(len(y), side, side, -1).permute(0, 3, 1, 2)
    half = side // 2 + 1
    filters = state[f"{path}.filters"]
    filters = nn.functional.interpolate(filters, size=(side, half), mode="bicubic", align_corners=True)
    hidden = (grid.mean((2, 3)) @ state[f"{path}.reduce.weight"].T).clamp(min=0) ** 2
    hidden = state[f"{path}.scale"] * hidden + state[f"{path}.shift"]
    route = (hidden @ state[f"{path}.route.weight"].T).tanh().reshape(len(y), -1, len(filters))
    share = grid.shape[1] // route.shape[1]
    gains = torch.stack(
        [
            sum(route[:, c // share, f, None, None] * filters[f, c % share] for f in range(len(filters)))
            for c in range(grid.shape[1])
        ],
        dim=1,
    )
    whole = torch.stack(
        [
            torch.stack(
                [gains[:, :, u, v] if v < half else gains[:, :, -u % side, side - v] for v in range(side)], dim=-1
            )
            for u in range(side)
        ],
        dim=-2,
    )
    changed = grid + torch.fft.ifft2(torch.fft.fft2(grid) * whole).real
    return torch.cat([y[:, :prefix], changed.flatten(2).transpose(1, 2)], dim=1).reshape(given.shape)


def _merging_block(block: Any, prefix: int, sizes: list[list[float]], first: bool, x: Tensor) -> Tensor:
    """A plain block of a ViT that merges 13 tokens of each image by loops over its tokens; ``sizes`` of every image."""
    batch, tokens, _ = x.shape
    if first:
        sizes[:] = [[1.0] * tokens for _ in range(batch)]
    attention = block.attn
    q, k, v = (
        part.reshape(batch, tokens, attention.num_heads, -1).transpose(1, 2)
        for part in attention.qkv(block.norm1(x)).chunk(3, -1)
    )
    weights = (q @ k.transpose(-2, -1) * attention.scale).exp() * torch.tensor(sizes, dtype=x.dtype)[:, None, None]
    y = (weights / weights.sum(-1, keepdim=True)) @ v
    x = x + attention.proj(y.transpose(1, 2).reshape(batch, tokens, -1))
    merged = []
    for image in range(batch):
        key = k[image].mean(0).detach()
        even = [i for i in range(prefix, tokens) if i % 2 == 0]
        odd = [i for i in range(prefix, tokens) if i % 2 == 1]
        pairs = [max((float(torch.cosine_similarity(key[i], key[j], dim=0)), i, j) for j in odd) for i in even]
        chosen = sorted(pairs, reverse=True)[: min(13, (tokens - prefix) // 2)]
        gone = {i for _, i, _ in chosen}
        groups = [[i] for i in [*range(prefix), *(i for i in even if i not in gone)]]
        groups += [[j, *(i for _, i, into in chosen if into == j)] for j in odd]
        size = [sum(sizes[image][i] for i in group) for group in groups]
        rows = [sum(sizes[image][i] * x[image, i] for i in group) for group in groups]
        merged.append(torch.stack([row / whole for row, whole in zip(rows, size, strict=True)]))
        sizes[image] = size
    x = torch.stack(merged)
    return x + block.mlp(block.norm2(x))


def _selecting_block(block: Any, x: Tensor) -> Tensor:
    """A plain block of a ViT with a class token that keeps 0.7 of its patch tokens and fuses the others."""
    batch, tokens, _ = x.shape
    attention = block.attn
    q, k, v = (
        part.reshape(batch, tokens, attention.num_heads, -1).transpose(1, 2)
        for part in attention.qkv(block.norm1(x)).chunk(3, -1)
    )
    weights = softmax_map(attention, q, k, None, None)
    x = x + attention.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
    stay, selected = math.ceil(0.7 * (tokens - 1)), []
    for image in range(batch):
        importance = weights[image, :, 0].mean(0)
        order = sorted(range(1, tokens), key=lambda i: -float(importance[i].detach()))
        extra = sum(importance[i] * x[image, i] for i in order[stay:])
        selected.append(torch.stack([*(x[image, i] for i in [0, *order[:stay]]), extra]))
    x = torch.stack(selected)
    return x + block.mlp(block.norm2(x))


class _Chain(nn.Module):
    """What is called in place of a module: functions in front of it and after it."""

    def __init__(self, module: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.module, self.before, self.after = module, before, after

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x if self.before is None else self.before(x))
        return y if self.after is None else self.after(y)


def _pool(model: Any, state: State) -> None:
    if hasattr(model, "layers"):
        model.head.global_pool.forward = partial(_generalized_mean, state["head.global_pool.ggem_power"])
    else:
        prefix, power = model.num_prefix_tokens, state["attn_pool.ggem_power"]
        model.pool = lambda x: _generalized_mean(power, x[:, prefix:])


def _divide_by_singular_values(model: Any, state: State) -> None:
    for path, layer in model.named_modules():
        gain = state.get(f"{path}.sigma_gain")
        if gain is not None:
            weight = layer.weight.detach()
            del layer.weight  # a parameter would not let the gradient through to the gain
            layer.weight = weight / torch.linalg.matrix_norm(weight.flatten(1), ord=2) * gain


def _change_branches(block: Any, path: str, names: tuple[str, ...], state: State) -> None:
    """What a block does around its attention and its norms."""
    if "featscale" in names:
        if hasattr(block, "_attn"):
            merged = block._attn
            block._attn = lambda x: _feature_scale(path, state, merged(x))
        else:
            inner = block.attn.forward
            block.attn.forward = lambda x, **_: _feature_scale(path, state, inner(x))
    if "freqscale" in names:
        parts = {part: partial(_reweighed, state, f"{path}.freqscale_{part}") for part in ("attention", "mlp")}
        where, name = (block, "_attn") if hasattr(block, "_attn") else (block.attn, "forward")
        given = getattr(where, name)
        setattr(where, name, lambda x, **_: parts["attention"](given(x)))
        block.mlp = _Chain(block.mlp, after=parts["mlp"])
    if "tap" in names:
        block.norm1 = _Chain(block.norm1, before=partial(_pooled, state, f"{path}.tap_gates"))
    if "contranorm" in names:
        block.norm1, block.norm2 = _Chain(block.norm1, before=_contrast), _Chain(block.norm2, before=_contrast)
    if "layerscale" in names:
        for number in (1, 2):
            gamma = state[f"{path}.ls{number}.gamma"]
            drop = _Chain(nn.Identity(), after=lambda y, gamma=gamma: gamma * y)
            setattr(block, f"drop_path{number}", drop)


def oracle(model: Any, names: tuple[str, ...], state: State) -> Any:
    """Rebuild a plain timm model with the techniques in their map form.

    Args:
        model: plain timm model; changed in place.
        names: the techniques.
        state: parameters and buffers of the model under test, by name; gradients flow to them.
    """
    if hasattr(model, "layers"):
        blocks = {
            f"layers.{s}.blocks.{i}": b for s, stage in enumerate(model.layers) for i, b in enumerate(stage.blocks)
        }
    else:
        blocks = {f"blocks.{i}": block for i, block in enumerate(model.blocks)}
    if names in {("token_merging",), ("token_selection",)}:
        sizes: list[list[float]] = []
        for index, block in enumerate(model.blocks):
            merging = partial(_merging_block, block, model.num_prefix_tokens, sizes, index == 0)
            block.forward = merging if names == ("token_merging",) else partial(_selecting_block, block)
        return model
    if "ggem" in names:
        _pool(model, state)
    if "sigma_reparam" in names:
        _divide_by_singular_values(model, state)
    first: list[Tensor] = []
    for path, block in blocks.items():
        attention = block.attn
        attention.forward = partial(_attention, attention, names, f"{path}.attn", state, first)
        _change_branches(block, path, names, state)
    return model
