"""Measures of models in which tokens become fewer: exact where what merges is alike."""

from typing import Any

import pytest
import torch
from small_backbones import small_vit
from torch import Tensor

from vitaos.analysis.measure import measure
from vitaos.analysis.monitor import Monitor
from vitaos.techniques import attach
from vitaos.techniques.record import record_in

SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # the two attend over other numbers of tokens: float32 sums in another order


def twins() -> Tensor:
    """Images of 16 patches, each the same as its neighbor."""
    patches = torch.randn(2, 8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    grid = patches.repeat_interleave(2, dim=1).view(2, 4, 4, 3, 8, 8)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 32, 32)


def model(**techniques: Any) -> Any:
    torch.manual_seed(0)
    return attach(small_vit(pos_embed="none"), attnscale=True, **techniques).eval()


def test_merged_duplicates_have_the_measures_of_the_whole_model() -> None:
    whole, merging = model(), model(token_merging={"kept": [9, 9, 9]})
    expected, found = (measure(one, [twins()], label="model") for one in (whole, merging))
    for one, other in zip(expected.features, found.features, strict=True):
        assert other.grid == one.grid == (4, 4)
        torch.testing.assert_close(torch.from_numpy(other.amplitude), torch.from_numpy(one.amplitude))
        for name, moments in one.values.items():
            assert other.values[name].mean == pytest.approx(moments.mean, rel=1e-4), name
    for layer, after in zip(expected.attention, found.attention, strict=True):
        assert after.tokens == layer.tokens
        torch.testing.assert_close(torch.from_numpy(after.response), torch.from_numpy(layer.response), **SINGLE)
    torch.testing.assert_close(
        torch.from_numpy(found.map_similarity), torch.from_numpy(expected.map_similarity), **SINGLE
    )
    record: Any = record_in(merging)
    assert record.sources_BO is None
    assert not record.keeps_sizes


def test_fused_tokens_stand_for_what_they_hold_and_lost_ones_are_refused() -> None:
    fused = measure(model(token_selection={"keep": 0.5}), [twins()], label="fused")
    assert all(features.grid == (4, 4) for features in fused.features)
    lost = model(token_selection={"keep": 0.5, "fuse": False})
    with pytest.raises(ValueError, match=r"token_selection has dropped tokens for good in front of blocks\.\d"):
        measure(lost, [twins()], label="lost")
    watched = Monitor()(lost, twins())
    assert len(watched["token_similarity_by_block"]) == 4  # type: ignore[arg-type]
