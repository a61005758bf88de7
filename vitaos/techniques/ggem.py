"""GGeM: grouped generalized mean pooling, (mean over patch tokens of x^p_g)^(1/p_g), channel group by channel group.

Source: Ko, Choi, Ko, Han, Jung, "Group Generalized Mean Pooling for Vision Transformer", 2022 (arXiv 2212.04114): one
learned power p_g for as many groups of channels as there are heads, in place of the class token or of the mean. There
is no official code; the start p = 3 (option ``power``) and the floor of 1e-6, below which entries count as 1e-6, are
those of GeM as it is commonly written. Parameter ``ggem_power`` (groups,), in the model's pooling.

Not the identity at the start, nor mean pooling at p = 1: what the last LayerNorm leaves is negative half of the time.
Computed in float32 from logarithms, so that no power overflows. Class and register tokens are not pooled;
merged tokens count by their size.
"""

from typing import Any, Final

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitaos.techniques.record import PassRecord
from vitaos.techniques.sites import Site
from vitaos.techniques.sized_pooling import SizedPooling, pooled_sizes
from vitaos.techniques.technique import Technique


class GroupedGeneralizedMean(nn.Module):
    """The pooling, (B, N, C) or (B, height, width, C) -> (B, C)."""

    def __init__(self, power: nn.Parameter) -> None:
        super().__init__()
        self.ggem_power = power

    def forward(self, x: Tensor) -> Tensor:
        """The generalized mean over all positions."""
        return self.generalized_mean(x.flatten(1, -2), None)

    def generalized_mean(self, tokens_BNC: Tensor, sizes_BN: Tensor | None) -> Tensor:
        """(B, N, C) -> (B, C), each token counted as often as its size says."""
        wide_BNC = tokens_BNC if tokens_BNC.dtype == torch.float64 else tokens_BNC.float()
        power_G1 = self.ggem_power.to(wide_BNC.dtype).unsqueeze(-1)
        B, N, C = wide_BNC.shape
        logs_BNGK = wide_BNC.clamp(min=1e-6).log().view(B, N, power_G1.shape[0], C // power_G1.shape[0])
        terms_BNGK = power_G1 * logs_BNGK
        count = torch.full_like(power_G1, float(N))
        if sizes_BN is not None:
            terms_BNGK = terms_BNGK + sizes_BN.to(terms_BNGK.dtype).log().unsqueeze(2).unsqueeze(3)
            count = sizes_BN.to(terms_BNGK.dtype).sum(dim=1).unsqueeze(1).unsqueeze(2)
        pooled_BGK = ((torch.logsumexp(terms_BNGK, dim=1) - count.log()) / power_G1).exp()
        return pooled_BGK.flatten(1).to(tokens_BNC.dtype)

    @torch.jit.unused
    def weigh_by_size(self, record: PassRecord) -> None:
        """Count merged tokens of this record's passes by their size from now on."""
        self.__class__, record.keeps_sizes = SizedGeneralizedMean, True
        self.record = record


class SizedGeneralizedMean(GroupedGeneralizedMean):
    """The pooling of a model whose tokens merge; the last reader of the pass empties its record."""

    record: PassRecord

    def forward(self, x: Tensor) -> Tensor:
        """The last N tokens of the pass: (B, N, C) -> (B, C)."""
        return self.generalized_mean(x, pooled_sizes(self.record, x.shape[1]))


def _check(sites: list[Site], power: float) -> None:
    if power == 0:
        raise ValueError("ggem: power=0: the mean of x^0 says nothing of x; 1 is the mean, 3 the usual start.")
    model: Any = sites[0].model
    if isinstance(model, VisionTransformer):
        pools = (
            type(model).pool is VisionTransformer.pool and type(model).forward_head is VisionTransformer.forward_head
        )
        pools = pools and isinstance(model.attn_pool, SizedPooling | None) and bool(model.global_pool)
    else:
        pools = isinstance(model, SwinTransformer) and bool(model.head.global_pool.pool_type)
    if not pools:
        raise ValueError(
            f"ggem: this {type(model).__name__} has no class token or mean that GGeM could stand for: it pools by "
            "attention, by two tokens (a distilled model), or not at all (global_pool='', features_only)."
        )


def _fill(sites: list[Site], power: float) -> None:
    model: Any = sites[0].model
    pooling = GroupedGeneralizedMean(sites[-1].parameter(sites[-1].num_heads, power)).train(model.training)
    if isinstance(model, VisionTransformer):
        model.attn_pool = pooling  # type: ignore[assignment]  # timm names one kind
        record = sites[0].block.record
        if record is not None and record.reduced_by:
            pooling.weigh_by_size(record)
    else:
        pooling.pool_type = model.head.global_pool.pool_type  # timm asks for it where it resets the classifier
        model.head.global_pool = pooling


GGEM: Final = Technique(
    name="ggem",
    summary="pools patch tokens by a generalized mean of learned power, in place of the class token or the mean",
    fill=_fill,
    start="(mean of x^power)^(1/power) over patch tokens",
    check=_check,
    parameters=("ggem_power",),
    options={"power": 3.0},
    refuses={"CaiT": "its class-attention blocks are its pooling"},
)
