"""Techniques within the output projection: where they fold, and that folded and direct form agree."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from technique_models import BACKBONES, build, images, stir
from torch import Tensor, nn

from vitaos.techniques import folding
from vitaos.techniques.bands import Bands, MapBands, TokenBands, in_turn

FOLDING = ("attnscale", "featscale", "centered_attention")


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A switch that makes every technique act directly."""

    return lambda: monkeypatch.setattr(folding, "_projection_folds", lambda _: False)


@pytest.mark.parametrize("names", [*((name,) for name in FOLDING), FOLDING, ("gfsa", *FOLDING), ("neutreno", *FOLDING)])
@pytest.mark.parametrize("kind", BACKBONES)
def test_folded_is_direct(kind: str, names: tuple[str, ...], direct: Callable[[], None]) -> None:
    if kind == "Swin" and "neutreno" in names:
        pytest.skip("neutreno is not defined on Swin")
    model = stir(build(kind, *names), *names).double()
    x = images(model, dtype=torch.float64)
    twin = copy.deepcopy(model)
    folded = model(x)
    folded.square().sum().backward()
    direct()
    expected = twin(x)
    expected.square().sum().backward()
    torch.testing.assert_close(folded, expected, rtol=1e-12, atol=1e-12)
    gradients = {path: parameter.grad for path, parameter in twin.named_parameters()}
    for path, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[path], rtol=1e-9, atol=1e-9, msg=path)


def direct_ones(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many re-weighed bands a forward pass computes on the tokens themselves."""
    seen = []
    with monkeypatch.context() as patch:
        for form in (MapBands, TokenBands):
            call = form.__call__
            patch.setattr(form, "__call__", lambda self, *inputs, call=call: seen.append(self) or call(self, *inputs))
        model(images(model))
    return len(seen)


@pytest.mark.parametrize("kind", ["ViT", "CaiT", "Swin"])
def test_nothing_acts_directly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert direct_ones(build(kind, "attnscale", "featscale"), monkeypatch) == 0


def test_padded_windows_keep_the_direct_form() -> None:
    """Their mean is over more than the map."""
    block = build("Swin", "featscale").layers[0].blocks[0]
    height, width = block.window_size
    assert folding.bands_of_windows(block, (2 * height, 3 * width))[1] is not None
    entries, bands = folding.bands_of_windows(block, (2 * height + 1, 3 * width))
    assert bands is None
    assert entries == block.post_attention


def test_dropout_on_the_projection_and_hooks_keep_the_direct_form(monkeypatch: pytest.MonkeyPatch) -> None:
    dropping = build("ViT", "attnscale", "featscale", proj_drop_rate=0.1)
    assert direct_ones(dropping, monkeypatch) == 0
    assert direct_ones(dropping.train(), monkeypatch) == 3, "FeatScale acts on what dropout has left"

    for watched in ("attn", "attn.proj"):
        model = stir(build("ViT", "attnscale", "featscale"), "attnscale", "featscale")
        expected = model(images(model))
        seen: list[Tensor] = []
        model.blocks[1].get_submodule(watched).register_forward_hook(lambda *values, seen=seen: seen.append(values[2]))
        torch.testing.assert_close(model(images(model)), expected)
        assert len(seen) == 1

    model = build("ViT", "attnscale", "featscale")
    nn.utils.parametrizations.weight_norm(model.blocks[0].attn.proj)
    assert direct_ones(model, monkeypatch) == 2

    norm = build("ViT", "attnscale", "featscale", scale_attn_norm=True)
    assert direct_ones(norm, monkeypatch) == 3, "AttnScale acts before the norm in front of the projection"


def test_bands_in_turn_are_one_map_after_the_other() -> None:
    maps, values = torch.rand(1, 2, 5, 5, dtype=torch.float64).softmax(-1), torch.randn(1, 2, 5, 3, dtype=torch.float64)
    one, other = (Bands(*torch.randn(2, 2, dtype=torch.float64)) for _ in range(2))
    inner, outer, both = (MapBands(lambda _, bands=bands: bands) for bands in (one, other, in_turn(one, other)))
    expected = outer(None, lambda v: inner(None, lambda v: maps @ v, v), values)
    torch.testing.assert_close(both(None, lambda v: maps @ v, values), expected)


def test_autocast_keeps_what_a_small_weight_adds() -> None:
    """1 + 0.001 is 1 in bfloat16; folded in float32, the branch moves by its thousandth on average."""
    model = build("ViT", "featscale", depth=1)
    block = model.blocks[0]
    x = torch.randn(64, 17, 24, generator=torch.Generator().manual_seed(0))

    def branch(weight: float) -> Tensor:
        nn.init.constant_(block.feat_scale_hf, weight)
        nn.init.constant_(block.feat_scale_dc, weight)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            _, bands = folding.bands_of_output(block)
            out: Tensor = block.attn(x, bands=bands)
        return out.double()

    plain = branch(0.0)
    gain = (branch(0.01) * plain).sum() / plain.square().sum() - 1
    assert 0.007 < float(gain) < 0.013


def test_the_kernels_are_the_formula() -> None:
    """Triton reads whether to interpret when it is imported: a process of its own."""
    pytest.importorskip("triton")
    cases = Path(__file__).with_name("interpreted_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
