"""Position embeddings and relative position tables: grids that are not square, windows, and prefix tokens."""

from typing import Any

import pytest
import torch
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models.swin_transformer import get_relative_position_index
from torch import nn

from tests.weights.small_models import assert_same, make, stirred
from vitaos.weights.load import load_weights

TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"


def loaded_positions(source: nn.Module, model: nn.Module, **keywords: Any) -> torch.Tensor:
    load_weights(model, source.state_dict(), **keywords)
    return model.state_dict()["pos_embed"]


def resampled(model: nn.Module, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    return resample_abs_pos_embed(model.state_dict()["pos_embed"], list(new), list(old), num_prefix_tokens=1)


def test_a_grid_that_is_not_square_is_interpolated_as_what_it_is() -> None:
    source = stirred(make(img_size=(8, 36)))  # 2 x 9 patches
    positions = loaded_positions(source, make(img_size=(24, 24)), grid=(2, 9))
    torch.testing.assert_close(positions, resampled(source, (2, 9), (6, 6)))
    with pytest.raises(ValueError, match=r"19 positions, which are no square grid nor the model's 6 x 6.*grid="):
        load_weights(make(img_size=(24, 24)), source.state_dict())
    with pytest.raises(ValueError, match=r"grid=\(3, 5\): pos_embed holds 19 positions"):
        load_weights(make(img_size=(24, 24)), source.state_dict(), grid=(3, 5))


def test_as_many_patches_are_not_taken_for_the_same_grid() -> None:
    """16 patches are 4 x 4 or 2 x 8: only the caller can tell, and both ways are exact."""
    square, wide = stirred(make()), stirred(make(img_size=(8, 32)))
    with pytest.raises(ValueError, match=r"may be 4 x 4 patches or the model's 2 x 8.*grid=\(4, 4\) or grid=\(2, 8\)"):
        load_weights(make(img_size=(8, 32)), square.state_dict())
    stretched = loaded_positions(square, make(img_size=(8, 32)), grid=(4, 4))
    torch.testing.assert_close(stretched, resampled(square, (4, 4), (2, 8)))
    assert torch.equal(loaded_positions(wide, make(img_size=(8, 32)), grid=(2, 8)), wide.state_dict()["pos_embed"])
    squeezed = loaded_positions(wide, make(), grid=(2, 8))
    torch.testing.assert_close(squeezed, resampled(wide, (2, 8), (4, 4)))


def test_a_grid_that_only_the_model_explains_is_its_own() -> None:
    source, model = stirred(make(img_size=(8, 36))), make(img_size=(8, 36))
    assert not load_weights(model, source.state_dict()).resized
    assert torch.equal(model.state_dict()["pos_embed"], source.state_dict()["pos_embed"])


def test_a_vitaos_file_says_its_grid() -> None:
    """Patches of 2 x 8 pixels make 8 x 2 patches of an image of 16: as many as 4 x 4, but the file has the size."""
    source = stirred(make(patch_size=(2, 8)))
    content = {"model": source.state_dict(), "config": {"data": {"img_size": 16}}}
    model = make(patch_size=(2, 8), img_size=(8, 32))  # 4 x 4 patches
    report = load_weights(model, content)
    assert "pos_embed: 8 x 2 -> 4 x 4 patches" in str(report)
    torch.testing.assert_close(model.state_dict()["pos_embed"], resampled(source, (8, 2), (4, 4)))


PREFIXES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "class token": ({}, {}),
    "class and register tokens": ({"reg_tokens": 3}, {"reg_tokens": 3}),
    "positions of the tokens folded into them": ({"reg_tokens": 3}, {"reg_tokens": 3, "no_embed_class": True}),
    "tokens without positions": ({"reg_tokens": 3, "no_embed_class": True}, {"reg_tokens": 3}),
    "no tokens": ({"class_token": False, "global_pool": "avg"}, {"class_token": False, "global_pool": "avg"}),
}


@pytest.mark.parametrize("case", PREFIXES)
def test_prefix_tokens_keep_what_the_network_computes(case: str) -> None:
    before, after = PREFIXES[case]
    source, model = stirred(make(**before)), make(**after)
    report = load_weights(model, source.state_dict())
    assert not report.missing
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x), source(x), rtol=1e-5, atol=1e-5)


def test_distilled_models_keep_the_positions_of_both_tokens() -> None:
    name = "deit_small_distilled_patch16_224"
    source, model = stirred(make(name)), make(name, img_size=(24, 12))
    load_weights(model, source.state_dict())
    old, new = source.state_dict()["pos_embed"], model.state_dict()["pos_embed"]
    assert torch.equal(new[:, :2], old[:, :2])
    torch.testing.assert_close(new, resample_abs_pos_embed(old, [6, 3], [4, 4], num_prefix_tokens=2))


def test_new_register_tokens_keep_their_own_values() -> None:
    source, model = stirred(make()), stirred(make(reg_tokens=2, img_size=24))
    before = model.state_dict()["pos_embed"].clone()
    report = load_weights(model, source.state_dict())
    assert report.missing == ["reg_token"]
    after = model.state_dict()["pos_embed"]
    assert torch.equal(after[:, 1:3], before[:, 1:3])
    assert torch.equal(after[:, :1], source.state_dict()["pos_embed"][:, :1])
    torch.testing.assert_close(after[:, 3:], resampled(source, (4, 4), (6, 6))[:, 1:])


def test_windows_that_are_not_square() -> None:
    source, model = stirred(make("swin_t", window_size=(2, 3))), make("swin_t", window_size=(3, 2))
    with pytest.raises(ValueError, match=r"holds 15 offsets|window"):
        load_weights(make("swin_t"), source.state_dict())
    load_weights(model, source.state_dict(), window=(2, 3))
    old = source.state_dict()[TABLE]
    expected = resize_rel_pos_bias_table(old, (3, 2), tuple(old.shape), old_window_size=(2, 3))
    torch.testing.assert_close(model.state_dict()[TABLE], expected)
    assert not torch.allclose(expected, old)
    same = make("swin_t", window_size=(2, 3))
    assert not load_weights(same, source.state_dict()).resized
    assert_same(same, source, 24)


def test_as_many_offsets_are_not_taken_for_the_same_window() -> None:
    """A window of 1 x 5 has the 9 offsets of one of 2 x 2."""
    keywords: dict[str, Any] = {"img_size": (20, 20), "patch_size": 2}
    source = stirred(make("swin_t", window_size=2, **keywords))
    with pytest.raises(
        ValueError, match=r"windows of 2 x 2 or of the model's 1 x 5.*window=\(2, 2\) or window=\(1, 5\)"
    ):
        load_weights(make("swin_t", window_size=(1, 5), **keywords), source.state_dict())


def test_official_swin_files_reveal_their_windows() -> None:
    source, model = stirred(make("swin_t", window_size=(2, 3))), make("swin_t", window_size=3)
    state = dict(source.state_dict())
    for name in [name for name in state if name.endswith("relative_position_bias_table")]:
        index = source.get_submodule(name.rpartition(".")[0]).relative_position_index
        assert torch.equal(index, get_relative_position_index(2, 3))
        state[name.replace("bias_table", "index")] = index
    report = load_weights(model, state)
    assert report.resized[TABLE] == ((15, 2), (25, 2))
    expected = resize_rel_pos_bias_table(source.state_dict()[TABLE], (3, 3), (25, 2), old_window_size=(2, 3))
    torch.testing.assert_close(model.state_dict()[TABLE], expected)
