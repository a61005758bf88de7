"""Terms that a model's techniques add to the training loss."""

from typing import Any

import pytest
import torch
from miniature import (
    ALONE,
    SIZE,
    InMemoryCheckpoints,
    RecordingSink,
    add_loss_term,
    assert_same,
    final_state,
    make_trainer,
    spread,
    timeless,
    tiny_vit,
)
from torch import Tensor

from vitaos.techniques.losses import TrainingPass
from vitaos.techniques.record import record_in


def one_step(model: Any, images: Tensor, **keywords: Any) -> dict[str, Tensor]:
    """Gradients of a step on images of class 0."""
    with TrainingPass(model, ("spread",))() as terms:
        logits = model(images, **keywords)
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64))
        (loss + terms["spread"]).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_the_term_trains_as_its_equation_and_counts_once_under_checkpointing() -> None:
    model, plain = add_loss_term(tiny_vit()), tiny_vit()
    tokens: list[Tensor] = []
    for block in plain.blocks:
        block.register_forward_hook(lambda _, __, output: tokens.append(output))
    logits = plain(images())
    loss = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    term = sum(0.01 * (x - x.mean(1, keepdim=True)).square().mean() for x in tokens)
    (loss + term).backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    checkpointed = add_loss_term(tiny_vit())
    checkpointed.set_grad_checkpointing(True)
    compiled = torch.compile(add_loss_term(tiny_vit()), backend="aot_eager", fullgraph=True)
    for tested in (model, checkpointed, compiled):
        found = one_step(tested, images())
        prefix = "_orig_mod." if tested is compiled else ""
        for name, gradient in expected.items():
            torch.testing.assert_close(found[prefix + name], gradient, msg=name)


def test_no_term_outside_of_a_training_step() -> None:
    model, calls = add_loss_term(tiny_vit()), []
    record: Any = record_in(model)
    term = model.blocks[0].losses[0][1]
    object.__setattr__(term, "function", lambda block, x: calls.append(1) or spread(block, x))
    model(images())  # a forward pass that no step collects from
    with TrainingPass(model, ("spread",))() as terms:
        model.eval()(images())
    assert not calls
    assert not terms
    assert record.losses is None
    without, step = torch.no_grad(), TrainingPass(model.train(), ("spread",))
    with pytest.raises(ValueError, match="spread: a term of the loss needs gradients"), without, step():
        model(images())


@pytest.mark.parametrize("checkpoint_gradients", [False, True])
def test_a_run_logs_it_and_resumes_exactly(checkpoint_gradients: bool) -> None:
    keywords: dict[str, Any] = {"batch_size": 12, "accumulate": 2, "checkpoint_every": 1, "use_ema": False}
    keywords |= {"checkpoint_gradients": checkpoint_gradients, "epochs": 1}
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    straight = make_trainer(ALONE, model=add_loss_term(tiny_vit()), sinks=[sink], checkpoints=checkpoints, **keywords)
    straight.fit()
    assert sink.lines[-1]["train_spread"] > 0
    assert not [key for key in sink.lines[-1] if key.startswith("val") and "spread" in key]
    again = make_trainer(ALONE, model=add_loss_term(tiny_vit()), sinks=[later := RecordingSink()], **keywords)
    again.load_state_dict(checkpoints.saved[1][1])
    again.fit()
    assert_same(final_state(again), final_state(straight))
    assert timeless(later.lines) == timeless(sink.lines)
    with pytest.raises(ValueError, match="adds 1 terms to the loss, this run's 0"):
        make_trainer(ALONE, model=tiny_vit(), **keywords).load_state_dict(checkpoints.saved[1][1])


def test_accumulation_takes_the_mean_of_the_term() -> None:
    lines = []
    for parts in (1, 2):
        sink = RecordingSink()
        model = add_loss_term(tiny_vit())
        make_trainer(
            ALONE, model=model, sinks=[sink], batch_size=24 // parts, accumulate=parts, epochs=1, use_ema=False
        ).fit()
        lines.append(sink.lines[-1])
    for key in ("train_loss", "train_spread", "val_loss"):
        assert lines[1][key] == pytest.approx(lines[0][key], rel=1e-4)
