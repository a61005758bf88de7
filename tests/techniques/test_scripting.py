"""Attached models where timm's own go: ``torch.jit.script`` and ``features_only=True``."""

import copy
import io
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vitaos
from tests.techniques.technique_models import build, images
from vitaos import techniques

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "ViT": ("vit_small_patch16_224", {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}),
    "CaiT": ("cait_xxs24_224", {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 4}),
    "Swin": ("swin_tiny_patch4_window7_224",
             {"img_size": 24, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 3}),
}  # fmt: skip


def stir(model: nn.Module) -> None:
    """Give what techniques learn values that act."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("attn_scale", "feat_scale_dc", "feat_scale_hf", "gfsa_power")):
                parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()))


@pytest.mark.parametrize(
    ("kind", "names"),
    [("ViT", ("attnscale", "featscale", "contranorm", "re_attention", "ggem")),
     ("CaiT", ("attnscale", "featscale", "gfsa")),
     ("Swin", ("attnscale", "featscale"))],
)  # fmt: skip
def test_a_scripted_model_is_the_model(kind: str, names: tuple[str, ...]) -> None:
    model: Any = build(kind, *names)
    stir(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scripted = torch.jit.script(model)
    saved = io.BytesIO()
    torch.jit.save(scripted, saved)
    saved.seek(0)
    loaded = torch.jit.load(saved)
    for batch in (1, 3):
        x = images(model, batch)
        with torch.no_grad():
            torch.testing.assert_close(scripted(x), model(x))
            torch.testing.assert_close(loaded(x), model(x))
    assert model.state_dict().keys() == before.keys(), "the model itself stays as it was"
    assert techniques.attached(model).keys() == set(names)
    twin = copy.deepcopy(model)
    stir_more = twin.get_parameter(next(name for name, _ in twin.named_parameters() if name.endswith("attn_scale")))
    with torch.no_grad():
        stir_more.fill_(3.0)
        assert not torch.allclose(torch.jit.script(twin)(x), model(x)), "a copy is scripted with its own values"


@pytest.mark.parametrize("name", ["neutreno", "value_residual", "sigma_reparam"])
def test_what_a_trace_of_a_block_does_not_see_cannot_be_scripted(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}: torch\.jit\.script"):
        torch.jit.script(build("ViT", name))


def features(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(model(x))


@pytest.mark.parametrize("kind", FAMILIES)
def test_features_only(kind: str) -> None:
    """Attached to timm's extractor: its features while the techniques start, others once they act."""
    name, keywords = FAMILIES[kind]
    indices = {} if kind == "Swin" else {"out_indices": (0, 2)}
    torch.manual_seed(0)
    model: Any = timm.create_model(name, features_only=True, **indices, **keywords).eval()
    x = torch.randn(2, 3, keywords["img_size"], keywords["img_size"])
    plain = features(model, x)
    vitaos.attach(model, attnscale=True, featscale=True)
    assert set(techniques.attached(model)) == {"attnscale", "featscale"}
    assert all(torch.equal(after, before) for after, before in zip(features(model, x), plain, strict=True))
    stir(model)
    assert not any(torch.allclose(after, before) for after, before in zip(features(model, x), plain, strict=True))


def test_a_short_name_gives_features_and_loads_weights() -> None:
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}
    whole: Any = vitaos.create_model("deit_s12", attnscale=True, **sizes).eval()
    stir(whole)
    extractor: Any = vitaos.create_model("deit_s12", attnscale=True, features_only=True, **sizes).eval()
    vitaos.load_weights(extractor, whole.state_dict())
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = whole.forward_intermediates(x, indices=3, intermediates_only=True)
    assert all(torch.equal(found, wanted) for found, wanted in zip(features(extractor, x), expected, strict=True))
