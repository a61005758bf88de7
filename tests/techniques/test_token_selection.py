"""Token selection: its schedule, what stays, and what it refuses. (Its equation is walked with those of the others.)"""

import math
from typing import Any

import pytest
import torch
from technique_models import build, distilled, images, stir, token_counts, vit
from torch import Tensor

from vitaos.techniques import attach, training_pass
from vitaos.techniques.record import record_in
from vitaos.techniques.token_selection import default_blocks, scheduled_keep


def test_the_published_blocks_and_counts() -> None:
    assert default_blocks(12) == [3, 6, 9]
    assert default_blocks(1) == [0]
    for fuse in (True, False):
        model = attach(vit().eval(), token_selection={"keep": 0.5, "fuse": fuse, "blocks": [0, 2]})
        assert token_counts(model, images(model)) == ([10, 10, 7] if fuse else [9, 9, 5])
        assert record_in(model).sources_BO is None
    assert token_counts(attach(vit().eval(), token_selection={"keep": 1.0}), images(vit())) == [17] * 3


def test_prefix_tokens_stay_in_front_and_places_are_known() -> None:
    model = attach(distilled().eval(), token_selection={"keep": 0.25, "blocks": [0]})
    record, seen = record_in(model), []
    model.blocks[0].register_forward_hook(lambda *_: seen.append(record.sources_BO))
    model(images(model))
    (sources_BO,) = seen
    assert sources_BO[:, :2].tolist() == [[0, 1], [0, 1]]
    for sources in sources_BO.tolist():
        assert sorted(sources) == [0, 1, 2, 3, 4, 5, *[6] * 12]


def test_attnscale_changes_the_row_as_it_changes_the_map() -> None:
    """Its gains differ between heads, so the order of the tokens does."""
    model = stir(build("ViT", "attnscale", depth=2), "attnscale").double()
    attach(model, token_selection={"keep": 0.5, "blocks": [0], "fuse": False})
    record, seen = record_in(model), []
    model.blocks[0].register_forward_hook(lambda *_: seen.append(record.sources_BO))
    attention, x = model.blocks[0].attn, images(model, dtype=torch.float64)
    entering: list[Tensor] = []
    attention.register_forward_pre_hook(lambda _, args: entering.append(args[0]))
    model(x)
    q, k, _ = attention.qkv(entering[0]).reshape(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    maps = (q @ k.transpose(-2, -1) * attention.scale).softmax(-1)
    maps = maps + attention.attn_scale.view(-1, 1, 1) * (maps - 1 / 17)
    best = maps[:, :, 0, 1:].mean(1).argsort(dim=-1, descending=True)[:, :8] + 1
    for image, sources in zip(best, seen[0], strict=True):
        assert sources[image].tolist() == list(range(1, 9))


def test_what_is_carried_follows() -> None:
    model = attach(build("ViT", "neutreno", "value_residual", "featscale"), token_selection=True).train()
    model(images(model)).sum().backward()
    assert record_in(model).carried == {}


def test_the_schedule_is_a_function_of_the_step() -> None:
    times: dict[str, Any] = {"shrink_start": 2.0, "shrink_epochs": 4.0}
    keeps = [scheduled_keep(epoch, keep=0.5, stages=0, **times) for epoch in (0, 2, 3, 4, 6, 9)]
    expected = [1, 1, 0.5 + 0.25 * (1 + math.cos(math.pi / 4)), 0.75, 0.5, 0.5]
    assert keeps == pytest.approx(expected)
    levels = {scheduled_keep(epoch / 50, keep=0.5, stages=5, **times) for epoch in range(500)}
    assert sorted(levels) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])

    model = attach(vit(), token_selection={"keep": 0.5, "fuse": False, "blocks": [0], **times}).train()
    steps, x = training_pass(model, steps_per_epoch=10), images(vit())
    for step, count in ((0, 17), (20, 17), (40, 14), (60, 9), (1000, 9), (40, 14)):
        with steps(step):
            assert token_counts(model, x) == [count] * 3
    assert token_counts(model, x) == [9] * 3
    with steps(0):
        assert token_counts(model.eval(), x) == [9] * 3, "evaluation keeps what it keeps in the end"


def test_a_compiled_model_follows_the_schedule() -> None:
    model = attach(vit(), token_selection={"keep": 0.5, "blocks": [0], "shrink_epochs": 4.0, "stages": 2}).train()
    compiled, steps, x = torch.compile(model, backend="eager", fullgraph=True), training_pass(model), images(vit())
    torch._dynamo.reset()
    for step in range(6):
        with steps(step):
            torch.testing.assert_close(compiled(x), model(x))


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no class token": (lambda: vit(class_token=False, global_pool="avg"), {}, "this model has no class token"),
    "keep": (vit, {"keep": 0.0}, r"keep=0\.0: the share of tokens that stay is above 0"),
    "blocks": (vit, {"blocks": [3]}, r"blocks=\[3\]: numbers of blocks, from 0 to 2 here"),
    "twice": (vit, {"blocks": [1, 1]}, r"each once"),
    "times": (vit, {"shrink_epochs": -1.0}, r"shrink_epochs=-1\.0 is below 0"),
    "attention pooling": (lambda: vit(global_pool="map"), {}, r"pools by attention"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_of_token_selection(case: str) -> None:
    make, options, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"token_selection: .*{message}"):
        attach(make(), token_selection=options)
    with pytest.raises(ValueError, match="cannot act together: both make the tokens of a block fewer"):
        attach(vit(), token_selection=True, token_merging=True)
