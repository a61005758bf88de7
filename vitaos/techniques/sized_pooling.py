"""Pooling of tokens that stand for several: the mean weighs each by its size."""

from typing import Any, Final

from torch import Tensor, nn

from vitaos.techniques.recombine import token_mean
from vitaos.techniques.record import PassRecord

_MEANS: Final = ("avg", "avgmax")


class SizedPooling(nn.Module):
    """timm's ``avg`` and ``avgmax`` over the tokens of a record; the last reader of the pass empties it.

    Takes the place of the backbone's ``attn_pool``, which timm gives the tokens to be pooled.
    """

    def __init__(self, record: PassRecord, kind: str) -> None:
        super().__init__()
        self.record, self.kind = record, kind

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"

    def forward(self, x_BNC: Tensor) -> Tensor:
        """The last N tokens of the pass: (B, N, C) -> (B, C)."""
        mean_BC = token_mean(x_BNC, pooled_sizes(self.record, x_BNC.shape[1])).squeeze(1).to(x_BNC.dtype)
        return mean_BC if self.kind == "avg" else 0.5 * (x_BNC.amax(dim=1) + mean_BC)


def pooled_sizes(record: PassRecord, tokens: int) -> Tensor | None:
    """(B, tokens): the sizes of the last tokens of a pass; None: one each. The record is empty afterwards."""
    sizes_BN = record.sizes_BN
    record.clear()
    return None if sizes_BN is None else sizes_BN[:, -tokens:]


def pool_by_size(backbone: Any, record: PassRecord) -> None:
    """Let what pools a ViT's tokens, their mean or GGeM, weigh merged ones by their size; other pooling stays."""
    if hasattr(backbone.attn_pool, "weigh_by_size"):
        backbone.attn_pool.weigh_by_size(record)
    elif backbone.global_pool in _MEANS:
        backbone.attn_pool, record.keeps_sizes = SizedPooling(record, backbone.global_pool), True
