"""All measures of a model in one pass, for each family, and the cheap ones for the trainer."""

import json

import numpy as np
import pytest
import torch
from small_backbones import small_vit, with_techniques
from torch import Tensor, nn

from vitaos.analysis.capture import find_layout, watch
from vitaos.analysis.measure import learned_scales, measure
from vitaos.analysis.monitor import Monitor, learned_means
from vitaos.analysis.spectrum import high_frequency_ratio, spectral_response


@pytest.mark.parametrize("techniques", [False, True])
def test_every_family_is_measured(model: nn.Module, images: Tensor, techniques: bool) -> None:
    model = with_techniques(model) if techniques else model
    layout = find_layout(model)
    analysis = measure(model, [images], label="run")
    assert analysis.images == len(images)
    assert [row.number for row in analysis.features] == list(range(len(layout.blocks) + 1))
    assert len(analysis.attention) == len(layout.attention)
    for row in analysis.features:
        assert row.amplitude.shape == row.grid
        assert 1 <= row.values["effective_rank"].mean <= row.grid[0] * row.grid[1]
    for attention in analysis.attention:
        heads = model.get_submodule(attention.layer.name).num_heads
        assert attention.response.shape == (heads, attention.tokens)
        assert (attention.applied is not None) == (techniques and attention.layer.kind != "class")
    np.testing.assert_allclose(np.diag(analysis.map_similarity), 1, atol=1e-6)
    assert sorted(analysis.learned) == (["attn_scale", "feat_scale_dc", "feat_scale_hf"] if techniques else [])


def test_streaming_equals_one_shot(model: nn.Module, images: Tensor) -> None:
    model = with_techniques(model)
    whole = measure(model, [images], label="run")
    parts = measure(model, images.split([2, 1, 4]), label="run")
    np.testing.assert_allclose(parts.map_similarity, whole.map_similarity, rtol=1e-5, atol=1e-6)
    for one, other in zip(parts.features, whole.features, strict=True):
        np.testing.assert_allclose(one.amplitude, other.amplitude, rtol=1e-4)
        for name, moments in other.values.items():
            assert one.values[name].mean == pytest.approx(moments.mean, rel=1e-4)
            assert one.values[name].std == pytest.approx(moments.std, rel=1e-2)
    for one_map, other_map in zip(parts.attention, whole.attention, strict=True):
        np.testing.assert_allclose(one_map.response, other_map.response, rtol=1e-4, atol=1e-6)


def test_the_numbers_are_means_of_the_functions_over_images(images: Tensor) -> None:
    model = with_techniques(small_vit())
    analysis = measure(model, [images], label="run")
    tokens: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}
    with watch(model, lambda index, x, _: tokens.__setitem__(index, x), maps.__setitem__) as run:
        run(images)
    ratio = high_frequency_ratio(tokens[2])
    assert analysis.features[2].values["hf_dc_ratio"].mean == pytest.approx(float(ratio.mean()), rel=1e-6)
    assert analysis.features[2].values["hf_dc_ratio"].std == pytest.approx(float(ratio.std()), rel=1e-4)
    np.testing.assert_allclose(analysis.attention[1].response, spectral_response(maps[1]).mean(dim=0), rtol=1e-5)
    flat = [maps[index].mean(dim=1).flatten(1) for index in range(3)]
    expected = torch.nn.functional.cosine_similarity(flat[0], flat[2]).mean()
    assert analysis.map_similarity[0, 2] == pytest.approx(float(expected), rel=1e-5)


def test_maps_of_shifted_windows_are_compared_with_their_like(images: Tensor) -> None:
    import timm  # noqa: PLC0415  # only this test builds a deeper Swin

    model = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        patch_size=2,
        embed_dim=12,
        depths=(4, 1),
        num_heads=(2, 3),
        window_size=4,
    )
    similarity = measure(model, [images], label="run").map_similarity
    comparable = ~np.isnan(similarity)
    assert comparable[0, 2]
    assert comparable[1, 3]
    assert not comparable[0, 1]
    assert not comparable[0, 4]


def test_a_model_in_low_precision_is_measured_in_float32(images: Tensor) -> None:
    model = with_techniques(small_vit())
    whole = measure(model, [images], label="run")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = measure(model, [images], label="run")
    np.testing.assert_allclose(np.diag(low.map_similarity), 1, atol=1e-6)
    for one, other in zip(low.features, whole.features, strict=True):
        assert one.values["hf_dc_ratio"].mean == pytest.approx(other.values["hf_dc_ratio"].mean, rel=0.03)


def test_a_diverged_model_is_said_and_where(images: Tensor) -> None:
    model = small_vit()
    model.blocks[1].attn.qkv.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"mine: the tokens behind block 2 hold NaN"):
        measure(model, [images], label="mine")
    with pytest.raises(ValueError, match=r"mine: the tokens before the first block hold NaN"):
        measure(model, [images * torch.inf], label="mine")


def test_images_limit_the_stream(images: Tensor) -> None:
    seen: list[int] = []
    analysis = measure(small_vit(), images.split(3), label="run", images=4, progress=seen.append)
    assert analysis.images == 4
    assert seen == [3, 4]
    with pytest.raises(ValueError, match="no images"):
        measure(small_vit(), [], label="run")


def test_learned_scales_are_the_parameters() -> None:
    model = with_techniques(small_vit())
    scales = learned_scales(model)
    assert list(scales["attn_scale"]) == [f"blocks.{i}.attn" for i in range(3)]
    expected = model.get_parameter("blocks.1.feat_scale_hf").detach().double().numpy()
    np.testing.assert_array_equal(scales["feat_scale_hf"]["blocks.1"], expected)


def test_monitor_agrees_with_the_full_measurement_and_fits_into_json(model: nn.Module, images: Tensor) -> None:
    model = with_techniques(model).train()
    result = Monitor()(model, images)
    assert json.loads(json.dumps(result)) == result
    assert model.training
    analysis = measure(model, [images], label="run")
    for name in ("token_similarity", "hf_dc_ratio"):
        values = [row.values[name].mean for row in analysis.features]
        np.testing.assert_allclose(result[f"{name}_by_block"], values, rtol=1e-4)
        assert result[name] == pytest.approx(float(np.mean(values[1:])), rel=1e-4)
    for name, modules in analysis.learned.items():
        by_block = [float(values.mean()) for values in modules.values()]
        np.testing.assert_allclose(result[f"{name}_by_block"], by_block, rtol=1e-5, atol=1e-7)


def test_learned_means_are_part_of_what_the_monitor_says(images: Tensor) -> None:
    model = with_techniques(small_vit())
    means = learned_means(model)
    assert set(means) == {f"{name}{end}" for name in learned_scales(model) for end in ("", "_by_block")}
    assert means.items() <= Monitor()(model, images).items()
    assert learned_means(small_vit()) == {}


def test_monitor_of_a_plain_model_has_no_scales(images: Tensor) -> None:
    assert set(Monitor()(small_vit(), images)) == {
        "token_similarity",
        "token_similarity_by_block",
        "hf_dc_ratio",
        "hf_dc_ratio_by_block",
    }


def test_monitor_sees_oversmoothing(images: Tensor) -> None:
    """Attention turned into a plain mean, with nothing beside it, makes all tokens alike."""
    model = small_vit()
    with torch.no_grad():
        model.pos_embed.zero_()
    sharp = Monitor()(model, images)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "patch_embed.proj.weight" in name:
                parameter.zero_()
    flat = Monitor()(model, images)
    assert flat["token_similarity"] == pytest.approx(1.0, abs=1e-5)
    assert flat["hf_dc_ratio"] == pytest.approx(0.0, abs=1e-4)
    assert sharp["hf_dc_ratio"] > 0.1


def test_monitor_looks_through_a_compiled_model(images: Tensor) -> None:
    model = small_vit()
    expected = Monitor()(model, images)
    assert Monitor()(torch.compile(model), images) == expected
