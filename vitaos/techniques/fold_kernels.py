# ruff: noqa: ANN001, ANN202, PLR0915, PLR0917
# mypy: disable-error-code="no-untyped-def"
"""Triton kernels that fold the bands into the weights of a projection, and carry gradients back: one launch each.

C rows (output channels), K columns (heads x head_dim). ``of_sums`` (C, P x K) is what the token sums are multiplied by:
first the part for the sum of z (where the output has bands), then that for the sum of V (where the map has).
"""

from typing import Any, Final, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK: Final = 1024  # elements that a program of the forward kernel folds
_ROWS: Final = 16
_COLUMNS: Final = 64
_OPTIONS: Final[dict[str, Any]] = {"enable_fp_fusion": True}  # said, since Triton warns where it is not


class Parts(NamedTuple):
    """What is folded: W (C, K), b (C,), ``of_heads`` (heads,) and ``direct`` of the map, (C,) of the output's bands."""

    weight: Tensor
    bias: Tensor | None
    of_heads: Tensor | None
    direct: float
    high: Tensor | None
    low: Tensor | None


class Folded(NamedTuple):
    """Folded weights: (C, K) and (C,) in the type of the product; ``of_sums`` and ``constant`` in float32."""

    weight: Tensor
    bias: Tensor | None
    of_sums: Tensor
    constant: Tensor | None


class Gradients(NamedTuple):
    """Of what was folded; None for what there is not."""

    weight: Tensor
    bias: Tensor | None
    of_heads: Tensor | None
    high: Tensor | None
    low: Tensor | None


@triton.jit
def _gains(high, low, rows, mask, OUTER: tl.constexpr):
    """G = 1 + high and M = direct - high of some rows."""
    if OUTER:
        t = tl.load(high + rows, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(low + rows, mask=mask, other=0.0).to(tl.float32)
        return 1.0 + t, s - t
    return tl.full(rows.shape, 1.0, tl.float32), tl.full(rows.shape, 0.0, tl.float32)


@triton.jit
def _head_gains(of_heads, direct, columns, mask, head_dim, INNER: tl.constexpr):
    """g = 1 + high and m = direct - high of some columns."""
    if INNER:
        w = tl.load(of_heads + columns // head_dim, mask=mask, other=0.0).to(tl.float32)
        return 1.0 + w, direct - w
    return tl.full(columns.shape, 1.0, tl.float32), tl.full(columns.shape, 0.0, tl.float32)


@triton.jit
def _fold(
    weight, bias, of_heads, high, low, folded, folded_bias, of_sums, constant,
    direct, per_token, C, K, head_dim, width,
    INNER: tl.constexpr, OUTER: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = place < C * K
    row, column = place // K, place % K
    gain, mean = _gains(high, low, row, mask, OUTER)
    head_gain, head_mean = _head_gains(of_heads, direct, column, mask, head_dim, INNER)
    w = tl.load(weight + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(folded + place, (w * head_gain * gain).to(folded.dtype.element_ty), mask=mask)
    if OUTER:
        tl.store(of_sums + row * width + column, w * head_gain * mean * per_token, mask=mask)
    if INNER:
        tl.store(of_sums + row * width + width - K + column, w * head_mean * (gain + mean) * per_token, mask=mask)
    if BIAS:
        first = mask & (column == 0)
        b = tl.load(bias + row, mask=first, other=0.0).to(tl.float32)
        tl.store(folded_bias + row, (b * gain).to(folded_bias.dtype.element_ty), mask=first)
        if OUTER:
            tl.store(constant + row, b * mean, mask=first)


@triton.jit
def _unfold(
    of_folded, of_of_sums, vectors, weight, bias, of_heads, high, low,
    to_weight, to_bias, to_heads, to_high, to_low,
    direct, per_token, C, K, head_dim, width, count, row_programs,
    INNER: tl.constexpr, OUTER: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    if program < row_programs:  # some rows, all columns: gradients of W, b and the bands of the output
        rows = program * ROWS + tl.arange(0, ROWS)
        within = rows < C
        gain, mean = _gains(high, low, rows, within, OUTER)
        to_gain = tl.full((ROWS,), 0.0, tl.float32)
        to_mean = tl.full((ROWS,), 0.0, tl.float32)
        for start in range(0, K, COLUMNS):
            columns = start + tl.arange(0, COLUMNS)
            mask = within[:, None] & (columns < K)[None, :]
            place = rows[:, None] * K + columns[None, :]
            head_gain, head_mean = _head_gains(of_heads, direct, columns, columns < K, head_dim, INNER)
            w = tl.load(weight + place, mask=mask, other=0.0).to(tl.float32)
            a = tl.load(of_folded + place, mask=mask, other=0.0).to(tl.float32) * head_gain[None, :]
            wide = rows[:, None] * width + columns[None, :]
            z = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
            v = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
            if OUTER:
                z = tl.load(of_of_sums + wide, mask=mask, other=0.0) * head_gain[None, :] * per_token
            if INNER:
                v = tl.load(of_of_sums + wide + width - K, mask=mask, other=0.0) * head_mean[None, :] * per_token
            total = (a + v) * gain[:, None] + (z + v) * mean[:, None]
            tl.store(to_weight + place, total.to(to_weight.dtype.element_ty), mask=mask)
            to_gain += tl.sum(w * (a + v), axis=1)
            to_mean += tl.sum(w * (z + v), axis=1)
        summed = tl.full((ROWS,), 0.0, tl.float32)
        for start in range(0, count, COLUMNS):
            images = start + tl.arange(0, COLUMNS)
            mask = (images < count)[:, None] & within[None, :]
            summed += tl.sum(tl.load(vectors + images[:, None] * C + rows[None, :], mask=mask, other=0.0), axis=0)
        if BIAS:
            b = tl.load(bias + rows, mask=within, other=0.0).to(tl.float32)
            tl.store(to_bias + rows, ((gain + mean) * summed).to(to_bias.dtype.element_ty), mask=within)
            to_gain += b * summed
            to_mean += b * summed
        if OUTER:
            tl.store(to_high + rows, (to_gain - to_mean).to(to_high.dtype.element_ty), mask=within)
            tl.store(to_low + rows, to_mean.to(to_low.dtype.element_ty), mask=within)
    elif INNER:
        head = program - row_programs
        inside = tl.arange(0, HEAD)
        columns = head * head_dim + inside
        total = tl.full((HEAD,), 0.0, tl.float32)
        for start in range(0, C, ROWS):
            rows = start + tl.arange(0, ROWS)
            mask = (rows < C)[:, None] & (inside < head_dim)[None, :]
            gain, mean = _gains(high, low, rows, rows < C, OUTER)
            place = rows[:, None] * K + columns[None, :]
            wide = rows[:, None] * width + columns[None, :]
            w = tl.load(weight + place, mask=mask, other=0.0).to(tl.float32)
            part = tl.load(of_folded + place, mask=mask, other=0.0).to(tl.float32) * gain[:, None]
            if OUTER:
                part += tl.load(of_of_sums + wide, mask=mask, other=0.0) * (mean * per_token)[:, None]
            of_mean = tl.load(of_of_sums + wide + width - K, mask=mask, other=0.0)
            part -= of_mean * ((gain + mean) * per_token)[:, None]
            total += tl.sum(w * part, axis=0)
        tl.store(to_heads + head, tl.sum(total, axis=0).to(to_heads.dtype.element_ty))


def fold(parts: Parts, *, tokens: int, dtype: torch.dtype) -> Folded:
    """Fold the bands of the map and of the output into W and b; products are made in ``dtype``."""
    weight, bias, of_heads, direct, high, low = parts
    C, K = weight.shape
    width = K * ((of_heads is not None) + (high is not None))
    folded = weight.new_empty(C, K, dtype=dtype)
    folded_bias = None if bias is None else bias.new_empty(C, dtype=dtype)
    of_sums = weight.new_empty(C, width, dtype=torch.float32)
    constant = None if bias is None or high is None else bias.new_empty(C, dtype=torch.float32)
    _fold[(triton.cdiv(C * K, _BLOCK),)](
        weight.contiguous(), bias, of_heads, high, low, folded, folded_bias, of_sums, constant,
        float(direct), 1 / tokens, C, K, _head_dim(K, of_heads), width,
        INNER=of_heads is not None, OUTER=high is not None, BIAS=bias is not None, BLOCK=_BLOCK, **_OPTIONS,
    )  # fmt: skip
    return Folded(folded, folded_bias, of_sums, constant)


def unfold(of_folded: Tensor, of_of_sums: Tensor, vectors: Tensor, parts: Parts, *, tokens: int) -> Gradients:
    """Gradients of what :func:`fold` was given.

    Args:
        of_folded: (C, K) gradient of the folded weight.
        of_of_sums: (C, P x K) float32, that of ``of_sums``.
        vectors: (rows, C) float32; their sum is the gradient of the folded bias and of the constant.
        parts: as given to :func:`fold`.
        tokens: likewise.
    """
    weight, bias, of_heads, direct, high, low = parts
    C, K = weight.shape
    found = Gradients(*(None if x is None else torch.empty_like(x) for x in (weight, bias, of_heads, high, low)))  # type: ignore[arg-type]
    row_programs = triton.cdiv(C, _ROWS)
    head_dim = _head_dim(K, of_heads)
    heads = 0 if of_heads is None else of_heads.numel()
    _unfold[(row_programs + heads,)](
        of_folded.contiguous(), of_of_sums.contiguous(), vectors.contiguous(), weight.contiguous(),
        bias, of_heads, high, low, *found,
        float(direct), 1 / tokens, C, K, head_dim, of_of_sums.shape[1], vectors.shape[0], row_programs,
        INNER=of_heads is not None, OUTER=high is not None, BIAS=bias is not None,
        ROWS=_ROWS, COLUMNS=_COLUMNS, HEAD=triton.next_power_of_2(head_dim), **_OPTIONS,
    )  # fmt: skip
    return found


def _head_dim(columns: int, of_heads: Any) -> int:
    return columns if of_heads is None else columns // of_heads.numel()
