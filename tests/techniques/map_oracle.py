"""The map of attention and what techniques make of it, written out: softmax, biases, and each equation on N x N."""

import math
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


def squared_distances(tokens: int) -> Tensor:
    """Patches lie on a square; what is left of the tokens is in front of them and has no place."""
    side = math.isqrt(tokens)
    prefix = tokens - side**2
    apart = torch.zeros(tokens, tokens, dtype=torch.float64)
    for i in range(side**2):
        for j in range(side**2):
            apart[prefix + i, prefix + j] = (i // side - j // side) ** 2 + (i % side - j % side) ** 2
    return apart


def softmax_map(attention: Any, q: Tensor, k: Tensor, mask: Tensor | None, slope: Tensor | None) -> Tensor:
    scores = (q @ k.transpose(-2, -1)) * attention.scale
    if hasattr(attention, "proj_l"):
        scores = torch.einsum("gh,bhnm->bgnm", attention.proj_l.weight, scores) + attention.proj_l.bias.view(-1, 1, 1)
    if hasattr(attention, "relative_position_bias_table"):
        tokens = scores.shape[-1]
        index = attention.relative_position_index.flatten()
        scores = scores + attention.relative_position_bias_table[index].view(tokens, tokens, -1).permute(2, 0, 1)
    if slope is not None:
        scores = scores - per_head(slope) * squared_distances(scores.shape[-1])
    if mask is not None:
        windows = mask.shape[0]
        grouped = scores.view(-1, windows, *scores.shape[1:]) + mask[None, :, None]
        scores = grouped.view(scores.shape)
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    if hasattr(attention, "proj_w"):
        weights = torch.einsum("gh,bhnm->bgnm", attention.proj_w.weight, weights) + attention.proj_w.bias.view(-1, 1, 1)
    return weights


def per_head(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def changed_map(weights: Tensor, names: tuple[str, ...], path: str, state: State) -> Tensor:
    tokens = weights.shape[-1]
    uniform = torch.full_like(weights, 1 / tokens)
    if "re_attention" in names:
        mixed = torch.stack(
            [
                sum(state[f"{path}.re_attention_heads"][g, h] * weights[:, g] for g in range(weights.shape[1]))
                for h in range(weights.shape[1])
            ],
            dim=1,
        )
        norm = {
            key: per_head(state[f"{path}.re_attention_norm.{key}"])
            for key in ("running_mean", "running_var", "weight", "bias")
        }
        weights = (mixed - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"]
    if "gfsa" in names:
        w_0, w_1, w_k = (per_head(state[f"{path}.gfsa_{key}"]) for key in ("identity", "linear", "power"))
        power = weights + (4 - 1) * (weights @ weights - weights)
        weights = w_0 * torch.eye(tokens, dtype=weights.dtype) + w_1 * weights + w_k * power
    if "shaped_attention" in names:
        beta, alpha, gamma = (per_head(state[f"{path}.shaped_{key}"]) for key in ("identity", "map", "mean"))
        weights = beta * torch.eye(tokens, dtype=weights.dtype) + alpha * weights - gamma * uniform
    if "laplacian_heads" in names:
        heads = weights.shape[1]
        high_pass = torch.arange(heads).view(1, -1, 1, 1) >= heads - round(heads / 2)
        weights = torch.where(high_pass, torch.eye(tokens, dtype=weights.dtype) - weights, weights)
    if "attnscale" in names:
        weights = uniform + (1 + per_head(state[f"{path}.attn_scale"])) * (weights - uniform)
    if "centered_attention" in names:
        weights = weights - uniform
    return weights
