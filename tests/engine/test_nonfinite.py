"""Steps that are not finite: the run stops with the state before them or skips them without a trace."""

import math
from typing import Any

import pytest
from miniature import (
    ALONE,
    InMemoryCheckpoints,
    NaNTransform,
    RecordingSink,
    assert_same,
    final_state,
    make_trainer,
    tiny_vit,
)

from vitaos.engine.update import NonFiniteError
from vitaos.techniques import attach


@pytest.mark.parametrize("bad", [0, 3, 7, 9])
def test_a_step_that_is_not_finite_stops_the_run_with_the_state_before_it(bad: int) -> None:
    checkpoints = InMemoryCheckpoints()
    trainer = make_trainer(ALONE, transform=NaNTransform(bad), checkpoints=checkpoints, log_every=2, checkpoint_every=4)
    with pytest.raises(NonFiniteError, match=rf"global step {bad} is NaN or infinite.*nonfinite=skip") as caught:
        trainer.fit()
    assert caught.value.step == bad
    saved = checkpoints.saved[-1][1]
    assert saved["progress"]["step"] == bad
    # What was saved is the state before the step: without the bad image the run goes on as if nothing had been.
    again, calm = make_trainer(ALONE), make_trainer(ALONE)
    again.load_state_dict(saved)
    again.fit()
    calm.fit()
    assert_same(final_state(again), final_state(calm))


def with_statistics() -> Any:
    """A model whose forward pass changes it: running statistics of re-attention, vectors of sigmaReparam."""
    return attach(tiny_vit(), re_attention=True, sigma_reparam=True)


def test_a_skipped_step_leaves_no_trace_in_running_statistics() -> None:
    trainer = make_trainer(ALONE, model=with_statistics(), transform=NaNTransform(2, 9), nonfinite="skip")
    trainer.fit()
    state = trainer.state_dict()
    for part in ("model", "ema"):
        assert all(tensor.isfinite().all() for tensor in state[part].values())
    assert int(state["model"]["blocks.0.attn.re_attention_norm.num_batches_tracked"]) == trainer.progress.step - 2


def test_a_stop_at_nan_saves_the_running_statistics_of_before() -> None:
    checkpoints = InMemoryCheckpoints()
    with pytest.raises(NonFiniteError):
        make_trainer(ALONE, model=with_statistics(), transform=NaNTransform(3), checkpoints=checkpoints).fit()
    healthy = make_trainer(ALONE, model=with_statistics(), steps=3)
    healthy.fit()
    assert_same(dict(checkpoints.saved[-1][1]["model"]), dict(healthy.state_dict()["model"]))


def test_recomputation_would_count_twice_in_running_statistics() -> None:
    with pytest.raises(ValueError, match=r"checkpoint_gradients=true runs each block twice.*re_attention"):
        make_trainer(ALONE, model=with_statistics(), checkpoint_gradients=True)


def test_skipped_steps_are_counted_and_leave_the_means_alone() -> None:
    sink = RecordingSink()
    outcome = make_trainer(ALONE, transform=NaNTransform(2, 9), nonfinite="skip", sinks=[sink], log_every=4).fit()
    assert outcome.progress.step == 16
    assert [line["skipped_steps"] for line in sink.lines] == [1, 2]
    assert all(math.isfinite(value) for line in sink.lines for value in line.values())
    assert all(math.isfinite(value) for record in sink.records for value in record.values())


def test_an_epoch_of_nothing_but_skipped_steps_ends_the_run() -> None:
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    trainer = make_trainer(
        ALONE, transform=NaNTransform(*range(9, 99)), nonfinite="skip", sinks=[sink], checkpoints=checkpoints, epochs=9
    )
    with pytest.raises(NonFiniteError, match=r"every step of epoch 3 was skipped.*15 of 24 steps in all"):
        trainer.fit()
    assert [line["epoch"] for line in sink.lines] == [0, 1, 2]
    assert math.isfinite(sink.lines[1]["train_loss"])
    assert math.isnan(sink.lines[2]["train_loss"]), "no step, no loss; not a loss of 0"
    assert checkpoints.saved[-1][1]["progress"]["step"] == 24
    again = make_trainer(ALONE, nonfinite="skip", epochs=9)
    again.load_state_dict(checkpoints.saved[-1][1])
    with pytest.raises(NonFiniteError, match=r"every step of epoch 3 was skipped"):
        again.fit()
