"""timm's ``set_input_size`` behind ``attach``: the model of that size, or an error that says what to do."""

import copy
import pickle

import pytest
import torch

from tests.techniques.technique_models import CASES, build, images, swin, vit
from vitaos.techniques import TECHNIQUES, attach

SIZES = {"ViT": (8, 32), "Swin": (12, 48)}  # as many patches as before, in another grid
SAME_WINDOW = {"ViT": {}, "Swin": {"window_size": 3}}  # timm would take an eighth of the map
BUILT_FOR_ONE_GRID = {"locality", "freqscale"}
WALK = [(name, kind) for name, kind in CASES if kind in SIZES and not TECHNIQUES[name].losses]


@pytest.mark.parametrize(("name", "kind"), WALK)
@torch.no_grad()
def test_another_grid_of_as_many_patches(name: str, kind: str) -> None:
    model = build(kind, name)
    expected = build(kind, name, img_size=SIZES[kind])
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied.set_input_size(img_size=SIZES[kind], **SAME_WINDOW[kind])
        x = images(copied)
        if name in BUILT_FOR_ONE_GRID:  # in Swin that of a window, which is smaller in the second stage now
            with pytest.raises(ValueError, match="which now has"):
                copied(x)
            continue
        expected.load_state_dict(copied.state_dict())
        torch.testing.assert_close(copied(x), expected(x), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(8, 32), (24, 16)])
@torch.no_grad()
def test_neighbors_on_the_graph_are_those_of_the_new_grid(size: tuple[int, int]) -> None:
    flags = {"token_merging": {"select": "gtp", "r": 2}}
    model, expected = attach(vit(), **flags).eval(), attach(vit(img_size=size), **flags).eval()
    model.set_input_size(img_size=size)
    expected.load_state_dict(model.state_dict())
    x = images(model)
    torch.testing.assert_close(model(x), expected(x), rtol=0, atol=0)


def test_another_window_is_refused() -> None:
    model = build("Swin", "locality")
    model.set_input_size(img_size=SIZES["Swin"], window_size=(1, 9))
    with pytest.raises(ValueError, match="3 x 3 patches, which now has 1 x 9"):
        model(images(model))


def test_swin_of_any_image_size_has_no_grid() -> None:
    for name in ("tap", "freqscale", "locality"):
        with pytest.raises(ValueError, match="strict_img_size"):
            attach(swin(strict_img_size=False), **{name: True})
