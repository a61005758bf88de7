"""What only a CUDA device can show: number formats, compilation, and that no step waits."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from miniature import InMemoryCheckpoints, RecordingSink, assert_same, final_state, make_trainer, tiny_vit

from vitaos.runtime.world import World, initialize, shutdown

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; none here"),
]


@pytest.fixture
def world() -> Iterator[World]:
    yield initialize("cuda")
    shutdown()


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("compiled", [False, True])
def test_learns_in_every_format(world: World, precision: str, compiled: bool) -> None:
    sink = RecordingSink()
    trainer = make_trainer(
        world, model=tiny_vit(), precision=precision, compile=compiled, sinks=[sink], epochs=4, log_every=4, clip=1.0
    )
    assert trainer.fit().status == "finished"
    assert sink.lines[-1]["train_loss"] < sink.lines[0]["train_loss"]
    assert set(trainer.model.state_dict()) == set(tiny_vit().state_dict())


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_step_does_not_wait_for_the_device(world: World, precision: str) -> None:
    trainer = make_trainer(world, precision=precision, clip=1.0, accumulate=2, batch_size=6)
    batches = trainer.loader.epoch(0, 0)
    trainer.network.train()
    trainer._train_step(batches)  # the first step makes the optimizer's state
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.progress.step += 1
            trainer._train_step(batches)
            trainer.meter.send()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_resumes_exactly(world: World, precision: str) -> None:
    def build(**keywords: Any) -> Any:
        return make_trainer(world, precision=precision, epochs=1, **keywords)

    torch.use_deterministic_algorithms(True)
    try:
        whole = build(checkpoints=(checkpoints := InMemoryCheckpoints()), checkpoint_every=3)
        whole.fit()
        again = build()
        again.load_state_dict(checkpoints.saved[0][1])
        again.fit()
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same(final_state(again), final_state(whole))


def test_a_suppressed_fused_step_leaves_no_trace(world: World) -> None:
    weight = torch.nn.Parameter(torch.ones(5, device=world.device))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.full_like(weight, torch.nan)
    optimizer.found_inf = torch.ones((), device=world.device)  # type: ignore[attr-defined]  # GradScaler's protocol
    optimizer.step()
    assert torch.equal(weight, torch.ones_like(weight))
    assert float(optimizer.state[weight]["step"]) == 0
