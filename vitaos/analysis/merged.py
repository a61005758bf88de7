"""Models in which tokens become fewer, seen as their images are: every patch with the token that it has become part of.

A merged token stands at all places of the patches in it, so that a mean over places weighs it by its size, and what
lies on the grid lies where it was. Its column in an attention map is the sum of what its patches receive: each gets its
share. The model's own record of the pass (``vitaos.techniques.record``) says which is where.

Shape suffixes: B images, N tokens now, O tokens at the start of the pass, C channels, H heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def record_in(model: nn.Module) -> Any:
    """The record that the blocks of a model share, if their tokens become fewer; else None."""
    records = (getattr(module, "record", None) for module in model.modules())
    return next((record for record in records if getattr(record, "reduced_by", "")), None)


@contextmanager
def kept_record(record: Any) -> Iterator[None]:
    """For the time of a watch the record outlasts the last block, whose output is looked at too."""
    if record is None:
        yield
        return
    before, record.keeps_sizes = record.keeps_sizes, True
    try:
        yield
    finally:
        record.keeps_sizes = before
        record.clear()


def spread_tokens(tokens_BNC: Tensor, record: Any) -> Tensor | None:
    """(B, O, C): the tokens at the places they come from; None where some are gone for good."""
    if record is None or record.sources_BO is None:
        return tokens_BNC
    sources_BO: Tensor = record.sources_BO
    if bool((sources_BO < 0).any()):
        return None
    return tokens_BNC.gather(1, sources_BO.unsqueeze(2).expand(-1, -1, tokens_BNC.shape[2]))


def spread_map(map_BHNN: Tensor, record: Any) -> Tensor | None:
    """(B, H, O, O): the map between all places; None where some tokens are gone for good."""
    if record is None or record.sources_BO is None:
        return map_BHNN
    sources_BO: Tensor = record.sources_BO
    if bool((sources_BO < 0).any()):
        return None
    counts_BN = torch.zeros(map_BHNN.shape[0], map_BHNN.shape[-1], device=map_BHNN.device)
    counts_BN = counts_BN.scatter_add(1, sources_BO, torch.ones_like(sources_BO, dtype=counts_BN.dtype))
    share_BHNN = map_BHNN / counts_BN[:, None, None].to(map_BHNN.dtype)
    places = sources_BO[:, None].expand(-1, map_BHNN.shape[1], -1)
    rows = share_BHNN.gather(2, places.unsqueeze(3).expand(-1, -1, -1, map_BHNN.shape[-1]))
    return rows.gather(3, places.unsqueeze(2).expand(-1, -1, sources_BO.shape[1], -1))
