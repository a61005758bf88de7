"""What a model saves comes back into a model of the same configuration, whatever timm class it is."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import vitaos
from tests.weights.small_models import TOKENS, WINDOWS, assert_same, make, stirred
from vitaos.weights.load import load_weights
from vitaos.weights.pretrained import from_pretrained, save_pretrained

_TINY = {"depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 32, "num_classes": 5}
OF_TIMM: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": _TINY,  # gamma_1 in the block, which is ls1.gamma in DeiT III
    "vit_small_patch16_dinov3": _TINY,
    "vit_base_patch16_rope_224": {**_TINY, "embed_dim": 32},
    "eva02_tiny_patch14_224": {**_TINY, "img_size": 28},
    "xcit_nano_12_p16_224": {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5},  # pos_embed is a module
    "iformer_t": {"num_classes": 5},  # mixer.module.0: no prefix of DDP
    "efficientvim_m1": {"num_classes": 5},  # its filter asks for the model's class
}


@pytest.mark.parametrize("name", OF_TIMM)
def test_of_timms_classes(name: str, tmp_path: Path) -> None:
    source = stirred(timm.create_model(name, **OF_TIMM[name])).eval()
    model = timm.create_model(name, **OF_TIMM[name]).eval()
    report = load_weights(model, source.state_dict())
    assert not report.missing
    assert not report.unexpected
    size = source.pretrained_cfg["input_size"][-1] if "img_size" not in OF_TIMM[name] else OF_TIMM[name]["img_size"]
    assert_same(model, source, size)
    save_pretrained(source, tmp_path / "out")
    assert_same(from_pretrained(tmp_path / "out"), source, size)


@pytest.mark.parametrize(
    ("name", "keywords", "size"),
    [
        ("deit_s12", {"img_size": (32, 8)}, (32, 8)),  # 8 x 2 patches, as many as 4 x 4
        ("swin_t", {**WINDOWS, "img_size": (16, 112), "window_size": (2, 14)}, (16, 112)),  # as many offsets as 5 x 5
    ],
)
def test_rectangles_that_a_square_has_as_many_of(
    name: str, keywords: dict[str, Any], size: tuple[int, int], tmp_path: Path
) -> None:
    model = stirred(make(name, **keywords))
    with pytest.raises(ValueError, match="the file does not say"):
        load_weights(make(name, **keywords), model.state_dict())
    save_pretrained(model, tmp_path / "out")
    loaded, x = from_pretrained(tmp_path / "out"), torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=0)


def test_cait_that_gives_features_is_filled_from_a_whole_one() -> None:
    keywords = {**TOKENS, "num_heads": 2}
    whole = stirred(timm.create_model("cait_xxs24_224", **keywords))
    part = timm.create_model("cait_xxs24_224", features_only=True, out_indices=(0, 1), **keywords).eval()
    report = load_weights(part, whole.state_dict())
    assert not report.missing
    assert all(name.startswith(("blocks_token_only.", "cls_token", "norm.", "head.")) for name in report.unexpected)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = whole.eval().forward_intermediates(x, indices=(0, 1), intermediates_only=True)
        for one, other in zip(part(x), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    with pytest.raises(ValueError, match="another architecture"):
        load_weights(timm.create_model("vit_small_patch16_224", **TOKENS), whole.state_dict())
    with pytest.raises(ValueError, match="features_only"):
        save_pretrained(part, Path("anywhere"))


MOVED: dict[str, dict[str, Any]] = {
    "attnscale": {},
    "gfsa": {},
    "gated_attention": {},
    "locality": {},
    "shaped_attention": {"identity": 1.0},
    "featscale": {"hf": 0.5},
    "fdam": {"gain": 0.5},
    "freqscale": {"gain": 0.5},
}


@pytest.mark.parametrize("name", MOVED)
def test_only_what_is_the_identity_is_called_so(name: str) -> None:
    plain = stirred(make())
    report = load_weights(make(**{name: True}), plain.state_dict())
    assert report.started_as_identity == [name]
    assert not report.missing_backbone
    changed: nn.Module = make(**{name: MOVED[name] or True})
    if not MOVED[name]:  # nothing of its options starts it elsewhere: as trained
        stirred(changed)
    report = vitaos.load_weights(changed, plain.state_dict())
    assert report.started_as_identity == []
    assert report.moved == report.missing_backbone != []
    assert "which are not the identity" in str(report)
