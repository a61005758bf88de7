"""The loop: it learns, resumes exactly anywhere, leaves when asked, waits for nobody."""

import itertools
import math
from typing import Any

import pytest
import torch
from miniature import (
    ALONE,
    AskedAt,
    EvaluationImages,
    InMemoryCheckpoints,
    RecordingSink,
    TrainImages,
    assert_same,
    copy_of,
    final_state,
    make_trainer,
    timeless,
    tiny_vit,
)
from torch.utils._python_dispatch import TorchDispatchMode

from vitaos.engine.tally import EvaluationInterrupted
from vitaos.runtime.world import World


def test_it_learns_and_tells() -> None:
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    outcome = make_trainer(ALONE, sinks=[sink], checkpoints=checkpoints, epochs=4, log_every=3).fit()
    assert outcome.status == "finished"
    assert outcome.progress.step == 32
    first, last = sink.lines[0], sink.lines[-1]
    assert last["train_loss"] < first["train_loss"]
    assert last["val_top1"] > 30
    expected = {"epoch", "step", "lr", "train_loss", "grad_norm", "images_per_s", "skipped_steps", "train_seconds"}
    assert set(last) == expected | {f"{who}_{what}" for who in ("val", "ema") for what in ("top1", "top5", "loss")}
    assert [line["step"] for line in sink.lines] == [8, 16, 24, 32]
    assert [record["step"] for record in sink.records] == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert all(math.isfinite(record["loss"]) and record["grad_norm"] > 0 for record in sink.records)
    best = max(max(line["val_top1"], line["ema_top1"]) for line in sink.lines)
    bests = [state["progress"]["best_top1"] for kind, state in checkpoints.saved if kind == "both"]
    assert bests[-1] == outcome.progress.best_top1 == best


def test_resumes_exactly_at_every_step() -> None:
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    straight = make_trainer(
        ALONE, batch_size=6, accumulate=2, sinks=[sink], checkpoints=checkpoints, checkpoint_every=1
    )
    straight.fit()
    expected = final_state(straight)
    # Every state of the run: within epochs, and once at their ends, after the evaluation.
    assert [saved["progress"]["step"] for _, saved in checkpoints.saved] == list(range(1, 17))
    for _, saved in checkpoints.saved:
        again, sink_again = (
            make_trainer(ALONE, batch_size=6, accumulate=2, sinks=[later := RecordingSink()], checkpoint_every=1),
            later,
        )
        sink_again.lines = [dict(line) for line in sink.lines]
        again.load_state_dict(saved)
        assert again.fit().status == "finished"
        assert_same(final_state(again), expected)
        assert timeless(sink_again.lines) == timeless(sink.lines)


def test_a_resume_at_the_end_of_an_epoch_begins_with_its_evaluation() -> None:
    checkpoints = InMemoryCheckpoints()
    asked_at_the_end = AskedAt(8)
    leaver = make_trainer(ALONE, checkpoints=checkpoints, epochs=1, preemption=asked_at_the_end)
    assert leaver.fit().status == "preempted"
    before_evaluation = checkpoints.saved[0][1]
    assert before_evaluation["progress"]["step"] == 8
    assert before_evaluation["progress"]["evaluated_step"] == -1
    sink = RecordingSink()
    trainer = make_trainer(ALONE, sinks=[sink], epochs=1)
    trainer.load_state_dict(before_evaluation)
    trainer._train_step = None  # type: ignore[assignment, method-assign]  # any training step would fail
    assert trainer.fit().status == "finished"
    assert [line["step"] for line in sink.lines] == [8]


def test_rates_are_of_the_steps_they_stand_for() -> None:
    """Lines that arrive together, at a checkpoint or an epoch's end, each tell the rate of their own step."""
    sink = RecordingSink()
    make_trainer(ALONE, sinks=[sink], log_every=1, checkpoint_every=2, checkpoints=InMemoryCheckpoints()).fit()
    assert [record["step"] for record in sink.records] == list(range(1, 17))
    assert all(record["images_per_s"] > 0 for record in sink.records)
    times = [record["train_seconds"] for record in sink.records]
    assert all(one < other for one, other in itertools.pairwise(times))


def test_a_cap_on_steps_ends_with_an_evaluation_and_can_be_raised() -> None:
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    capped = make_trainer(ALONE, sinks=[sink], checkpoints=checkpoints, steps=5)
    assert capped.fit().progress.step == 5
    assert [(line["epoch"], line["step"]) for line in sink.lines] == [(0, 5)]
    whole, raised = make_trainer(ALONE), make_trainer(ALONE)
    whole.fit()
    raised.load_state_dict(checkpoints.saved[-1][1])
    raised.fit()
    assert_same(copy_of(raised.model.state_dict()), copy_of(whole.model.state_dict()))
    assert float(raised.sums.over_ranks(ALONE)["loss"]) == 0  # epochs closed as ever
    assert raised.progress.epoch == whole.progress.epoch == 2


def test_a_finished_run_has_nothing_left_to_do() -> None:
    trainer = make_trainer(ALONE, epochs=1)
    trainer.fit()
    before = final_state(trainer)
    assert trainer.fit().status == "finished"
    assert_same(final_state(trainer), before)


def test_evaluates_every_so_many_epochs_and_at_the_last() -> None:
    sink = RecordingSink()
    make_trainer(ALONE, sinks=[sink], epochs=3, evaluate_every=2, images=24).fit()
    assert ["val_top1" in line for line in sink.lines] == [False, True, True]


@pytest.mark.parametrize("calls", [1, 5, 9])
def test_leaves_when_asked_and_goes_on_as_if_it_had_not(calls: int) -> None:
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    whole = make_trainer(ALONE, sinks=[sink])
    whole.fit()
    leaver = make_trainer(ALONE, checkpoints=checkpoints, preemption=AskedAt(calls), sinks=[first := RecordingSink()])
    outcome = leaver.fit()
    assert outcome.status == "preempted"
    assert outcome.progress.step < 16
    again = make_trainer(ALONE, sinks=[first])
    again.load_state_dict(checkpoints.saved[-1][1])
    again.fit()
    assert_same(final_state(again), final_state(whole))
    assert timeless(first.lines) == timeless(sink.lines)


def test_a_request_during_evaluation_gives_it_up_and_it_is_made_later() -> None:
    checkpoints, sink = InMemoryCheckpoints(), RecordingSink()
    trainer = make_trainer(ALONE, checkpoints=checkpoints, sinks=[sink], epochs=1)

    def interrupted(models: Any) -> list[dict[str, float]]:
        raise EvaluationInterrupted

    evaluate, trainer.conclusion.evaluate = trainer.conclusion.evaluate, interrupted
    assert trainer.fit().status == "preempted"
    assert sink.lines == []
    trainer.conclusion.evaluate = evaluate
    assert trainer.fit().status == "finished"
    assert [line["step"] for line in sink.lines] == [8]


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    def train(**keywords: int) -> dict[str, Any]:
        trainer = make_trainer(ALONE, model=tiny_vit(), epochs=1, **keywords)
        trainer.fit()
        return copy_of(trainer.model.state_dict())

    whole = train(batch_size=12)
    for key, value in train(batch_size=4, accumulate=3).items():
        torch.testing.assert_close(value, whole[key], rtol=1e-4, atol=1e-5)


class Synchronizations(TorchDispatchMode):
    """Counts what makes the host wait for a device: a scalar read, or a copy to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_does_not_wait_for_the_device(precision: str) -> None:
    trainer = make_trainer(ALONE, precision=precision, clip=1.0, nonfinite="skip")
    batches = trainer.loader.epoch(0, 0)
    trainer.network.train()
    with Synchronizations() as seen:
        for _ in range(3):
            trainer._train_step(batches)
            trainer.progress.step += 1
    assert seen.found == []


def test_an_optimizer_that_cannot_be_suppressed_on_the_device_waits_once_in_a_step() -> None:
    trainer = make_trainer(ALONE, optimizer="sgd")
    trainer.network.train()
    with Synchronizations() as seen:
        trainer._train_step(trainer.loader.epoch(0, 0))
    assert len(seen.found) == 1


def test_the_loss_scale_is_part_of_the_state() -> None:
    def build() -> Any:
        return make_trainer(ALONE, precision="fp16", epochs=1, images=48, sinks=[RecordingSink()])

    whole, again = build(), build()
    whole.fit()
    checkpoints = InMemoryCheckpoints()
    half = make_trainer(ALONE, precision="fp16", epochs=1, images=48, checkpoints=checkpoints, checkpoint_every=2)
    half.fit()
    again.load_state_dict(checkpoints.saved[0][1])
    again.fit()
    assert_same(final_state(again), final_state(whole))
    assert float(whole.loss_scale.scale) == 2.0**16


def test_a_state_of_another_run_is_refused() -> None:
    checkpoints = InMemoryCheckpoints()
    make_trainer(ALONE, checkpoints=checkpoints, epochs=1, images=24).fit()
    saved = checkpoints.saved[-1][1]
    with pytest.raises(ValueError, match=r"seed=0, this run has seed=1"):
        make_trainer(ALONE, images=24, seed=1).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"global_batch=12, this run has global_batch=6"):
        make_trainer(ALONE, images=24, batch_size=6).load_state_dict(saved)
    with pytest.raises(ValueError, match="EMA"):
        make_trainer(ALONE, images=24, use_ema=False).load_state_dict(saved)
    with pytest.raises(ValueError, match="loss scale"):
        make_trainer(ALONE, images=24, precision="fp16").load_state_dict(saved)


def test_the_average_is_compiled_like_the_model() -> None:
    for compiled in (False, True):
        trainer = make_trainer(ALONE, compile=compiled)
        assert trainer.ema is not None
        for model in (trainer.model, trainer.ema.module):
            assert (model._compiled_call_impl is not None) is compiled


def test_a_batch_larger_than_the_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole global step"):
        make_trainer(ALONE, batch_size=48, images=24)


def test_compilation_and_recomputation_keep_names_and_values() -> None:
    plain = make_trainer(ALONE, model=tiny_vit(), epochs=1, images=24)
    changed = make_trainer(ALONE, model=tiny_vit(), epochs=1, images=24, channels_last=True, checkpoint_gradients=True)
    plain.fit()
    changed.fit()
    for (name, one), (same_name, other) in zip(
        plain.model.state_dict().items(), changed.model.state_dict().items(), strict=True
    ):
        assert name == same_name
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_miniature_deals_the_same_images_to_any_number_of_ranks() -> None:
    def world(rank: int, size: int) -> World:
        return World(rank=rank, size=size, local_rank=rank, device=torch.device("cpu"))

    alone = [set(batch.positions.tolist()) for batch in TrainImages(ALONE, batch_size=12).epoch(0)]
    for size in (2, 3):
        shares = [list(TrainImages(world(rank, size), batch_size=12 // size).epoch(0)) for rank in range(size)]
        dealt = [set().union(*(share[step].positions.tolist() for share in shares)) for step in range(8)]
        assert dealt == alone
    assert sum(len(EvaluationImages(world(rank, 3)).positions) for rank in range(3)) == 53
