"""Robustness tests against what they say they measure: anchoring, patches, temperature, heads and distances by hand."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.small_backbones import CLASSES, FAMILIES, sharpen, small_vit
from vitaos.analysis.capture import find_layout, watch
from vitaos.analysis.robustness import distance, heads, patches, registers, shifts, temperature
from vitaos.analysis.robustness.samples import Answers, Respondent, Samples
from vitaos.techniques import attach


def samples(count: int = 6, size: int = 32) -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return Samples(images, torch.arange(count) % CLASSES, 10 * torch.arange(count))


def respondent(model: nn.Module, **keywords: Any) -> Respondent:
    def normalize(images: Tensor) -> Tensor:
        return images.float() / 64 - 2

    return Respondent(model.eval(), normalize, nullcontext, torch.device("cpu"), 4, **keywords)


def column(table: Any, name: str, **where: Any) -> list[Any]:
    return [row[name] for row in table.rows if all(row[key] == value for key, value in where.items())]


def test_anchored_images_are_the_same_patches_whatever_the_circular_shift() -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    anchored = shifts.anchor(images, patch=8)
    for shift in ((0, 1), (3, 0), (5, 6), (8, 24)):
        again = shifts.anchor(images.roll(shift, dims=(2, 3)), patch=8)
        for one, other in zip(anchored, again, strict=True):
            rolled = [other.roll((y, x), dims=(1, 2)) for y in range(0, 32, 8) for x in range(0, 32, 8)]
            assert any(torch.equal(one, candidate) for candidate in rolled)
    energies = anchored.square().sum(1)[:, ::8, ::8].sum((1, 2))
    for row, column_ in ((1, 0), (0, 7), (4, 4)):
        assert (energies >= anchored.square().sum(1)[:, row::8, column_::8].sum((1, 2))).all()
    with pytest.raises(ValueError, match=r"32 x 32 pixels are no multiple of patches of 7"):
        shifts.anchor(images, patch=7)


def test_a_model_without_positions_answers_anchored_circular_shifts_alike() -> None:
    model = sharpen(small_vit(pos_embed="none", class_token=False, global_pool="avg"))
    data = samples()
    table = shifts.measure_shifts(respondent(model), data, shifts.with_repeated_edges(data), shifts.patch_of(model))
    assert column(table, "consistency", kind="circular", anchored=True) == [100.0] * 16
    assert min(column(table, "consistency", kind="circular", anchored=False)) < 100
    assert column(table, "consistency", kind="circular", anchored=False)[8] == 100.0, "a whole patch"
    plain = respondent(model).ask(data.images, data.targets)
    assert column(table, "top1", anchored=False, shift=0) == [plain.accuracy] * 2
    assert column(table, "shift", kind="cropped", anchored=True) == list(range(16))


def test_a_cropped_shift_moves_the_content_and_keeps_the_rest() -> None:
    data = samples()
    wide = shifts.with_repeated_edges(data).images
    assert torch.equal(shifts.window(wide, 0, 32), data.images)
    moved = shifts.window(wide, 5, 32)
    assert torch.equal(moved[..., 5:, 5:], data.images[..., :-5, :-5])
    assert torch.equal(moved[..., 5:, 0], data.images[..., :-5, 0]), "the edge is repeated"
    assert torch.equal(shifts.circular(data.images, 5)[..., 5:, 5:], data.images[..., :-5, :-5])


def test_perturbed_patches_are_whole_nested_and_those_of_the_image() -> None:
    data = samples()
    order = patches.patch_order(data.positions, 16, seed=0)
    assert torch.equal(order.sort(1).values, torch.arange(16).expand(6, -1))
    alone = patches.patch_order(data.positions[3:4], 16, seed=0)
    assert torch.equal(alone[0], order[3]), "an image's patches do not depend on the others"
    changed = patches.replace_patches(data.images, 255 - data.images, order[:, :3], 8)
    hit = (changed != data.images).any(1).unflatten(-1, (4, 8)).unflatten(-3, (4, 8)).permute(0, 1, 3, 2, 4).flatten(3)
    whole = hit.all(-1)
    assert torch.equal(whole, hit.any(-1))
    assert torch.equal(whole.flatten(1), torch.zeros(6, 16, dtype=torch.bool).scatter(1, order[:, :3], value=True))


def test_patch_perturbation_counts_what_changed() -> None:
    """A model that answers by the brightness of the image: black patches change it, their mean color does not."""

    class Brightness(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            level = x.mean((1, 2, 3))
            return torch.stack([-((level - center) ** 2) for center in (-1.5, -0.7, 0.0, 0.7, 1.5)], dim=1)

    data = samples()
    bright = Samples(torch.full_like(data.images, 128), torch.full((6,), 2), data.positions)
    table, by_image = patches.measure_patches(respondent(Brightness()), bright, patch=8)
    assert column(table, "patches", kind="black") == [1, 2, 4, 8]
    assert column(table, "top1", kind="mean color") == column(table, "top1", kind="other image") == [100.0] * 4
    assert column(table, "top1", kind="black") == [100.0, 100.0, 0.0, 0.0]
    assert column(table, "fooled", kind="black") == [0.0, 0.0, 100.0, 100.0]
    assert column(by_image, "patches", kind="black") == [4] * 6
    assert column(by_image, "patches", kind="mean color") == [""] * 6
    assert table.facts["clean_top1"] == 100.0


@pytest.mark.parametrize("family", FAMILIES)
def test_temperature_divides_the_scores_of_every_softmax(family: str) -> None:
    model, x = sharpen(FAMILIES[family]()).eval(), torch.randn(2, 3, 32, 32)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def maps() -> list[Tensor]:
        found: list[Tensor] = []
        original = torch.Tensor.softmax

        def spy(scores: Tensor, *args: Any, **keywords: Any) -> Tensor:
            found.append(scores.detach())
            return original(scores, *args, **keywords)

        with pytest.MonkeyPatch.context() as patch, watch(model, on_attention=lambda *_: None) as run:
            patch.setattr(torch.Tensor, "softmax", spy)
            patch.setattr(torch.nn.Softmax, "forward", lambda module, scores: spy(scores, dim=module.dim))
            run(x)
        return found

    cold = maps()
    with temperature.softmax_temperature(model, 2.0):
        first = maps()[0]
        expected = (cold[0] / 2).softmax(-1)
        torch.testing.assert_close(first.softmax(-1), expected)
        assert not torch.allclose(first.softmax(-1), cold[0].softmax(-1))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_temperatures_agree_with_the_model_at_one() -> None:
    data, asked = samples(), respondent(sharpen(small_vit(qk_norm=True)))
    table = temperature.measure_temperatures(asked, data)
    assert column(table, "consistency", temperature=1.0) == [100.0]
    assert column(table, "top1", temperature=1.0) == [table.facts["clean_top1"]]
    assert len({row["loss"] for row in table.rows}) == len(temperature.TEMPERATURES)


@pytest.mark.parametrize("family", ["vit", "cait", "swin"])
def test_a_head_without_output_is_a_head_left_out(family: str) -> None:
    model = sharpen(FAMILIES[family]()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gamma" in name:  # CaiT's branches start at nearly nothing
                parameter.fill_(1)
    data, asked = samples(), respondent(model)
    before = asked.ask(data.images, data.targets)
    table = heads.measure_heads(asked, data)
    layers = find_layout(model).attention
    expected = sum(model.get_submodule(layer.name).num_heads for layer in layers)
    assert len(table.rows) == expected
    attention = model.get_submodule(layers[1].name)
    width = attention.proj.in_features // attention.num_heads

    def silence(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        z[..., width : 2 * width] = 0
        return (z, *args[1:])

    handle = attention.proj.register_forward_pre_hook(silence)
    silenced = asked.ask(data.images, data.targets)
    handle.remove()
    (rise,) = column(table, "loss_rise", module=layers[1].name, head=2)
    assert rise == pytest.approx(silenced.mean_loss - before.mean_loss, abs=1e-6)
    assert rise != 0
    torch.testing.assert_close(asked.ask(data.images, data.targets).loss, before.loss, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["vit", "vit-registers", "cait", "swin"])
def test_attention_distance_of_maps_that_are_known(family: str) -> None:
    """Uniform attention reaches as far as two random places of the grid, or of the window, lie apart."""
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "qkv" in name or name.endswith("bias_table"):
                parameter.zero_()
            if "proj_w.weight" in name:
                parameter.copy_(torch.eye(len(parameter)))
    patch = shifts.patch_of(model)
    table = distance.measure_distances(model, [torch.randn(3, 3, 32, 32), torch.randn(1, 3, 32, 32)], patch or 0)
    side = 4
    places = [(y, x) for y in range(side) for x in range(side)]
    apart = [((y - v) ** 2 + (x - u) ** 2) ** 0.5 for y, x in places for v, u in places]
    expected = (patch or 0) * sum(apart) / len(apart)
    unshifted = [row for row in table.rows if row["block"] in (1, 3)]
    for row in unshifted:
        assert row["distance"] == pytest.approx(expected * 2 ** row["stage"], rel=1e-5), row
    assert {row["kind"] for row in table.rows} <= {"token", "window"}
    assert table.facts["images"] == 4


def test_answers_that_are_not_numbers_agree_with_none() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), CLASSES), float("nan"))

    data = samples()
    answers: Answers = respondent(Broken()).ask(data.images, data.targets)
    assert answers.agreement(answers) == answers.accuracy == 0.0


def with_long_tokens(**keywords: Any) -> Any:
    """A ViT in which channel 7 of the second block's MLP makes one patch of every image long."""
    model: Any = small_vit(**keywords).eval()
    place = int(model.num_prefix_tokens) + 5

    def excite(_: nn.Module, __: Any, y: Tensor) -> Tensor:
        y = y.clone()
        y[:, place, 7] = 30.0
        return y

    model.blocks[1].mlp.act.register_forward_hook(excite)
    return model


@pytest.mark.parametrize("keywords", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}])
def test_a_test_time_register_takes_over_what_makes_a_patch_long(keywords: dict[str, Any]) -> None:
    model, data = with_long_tokens(**keywords), samples()
    with torch.no_grad():
        model.blocks[1].mlp.fc2.weight[:, 7] = 1
    asked = respondent(model)
    table = registers.measure_registers(asked, data)
    assert table.facts["register_neurons"][0] == "blocks.1.mlp:7"
    assert (table.facts["long_tokens"], table.facts["long_from_block"]) == (6, 2)
    plain, moved = table.rows[:2]
    assert (plain["neurons"], plain["consistency"], plain["register"]) == (0, 100.0, "")
    assert plain["top1"] == asked.ask(data.images, data.targets).accuracy
    assert plain["longest_patch"] > registers.LONG > moved["longest_patch"]
    assert moved["register"] > registers.LONG
    torch.testing.assert_close(
        asked.ask(data.images, data.targets).loss.mean().item(), plain["loss"], msg="the model is as it was"
    )


def test_no_register_without_long_tokens_or_on_other_models() -> None:
    table = registers.measure_registers(respondent(small_vit()), samples())
    assert [row["neurons"] for row in table.rows] == [0]
    assert table.facts["long_tokens"] == 0
    with pytest.raises(ValueError, match=r"robustness=registers: a SwinTransformer is no ViT"):
        registers.measure_registers(respondent(FAMILIES["swin"]()), samples())
    for name, reason in (
        ("locality", "for the tokens of the image alone"),
        ("tap", "tokens alone"),
        ("token_merging", "become fewer"),
    ):
        assert reason in str(registers.reason_against(attach(small_vit(), **{name: True})))
