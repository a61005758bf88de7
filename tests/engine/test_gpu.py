"""What only a CUDA device can show: number formats, compilation, and that no step waits."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from miniature import (
    InMemoryCheckpoints,
    RecordingSink,
    assert_same,
    final_state,
    follow_grad_scaler,
    make_trainer,
    tiny_vit,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitaos import attach
from vitaos.engine.precision import determinism
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


def assert_resumes_exactly(build: Callable[..., Any]) -> None:
    """A trainer that takes over the state after three steps ends as the one that went on."""
    with determinism():
        whole = build(checkpoints=(checkpoints := InMemoryCheckpoints()), checkpoint_every=3)
        whole.fit()
        again = build()
        again.load_state_dict(checkpoints.saved[0][1])
        again.fit()
    assert_same(final_state(again), final_state(whole))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_resumes_exactly(world: World, precision: str) -> None:
    assert_resumes_exactly(partial(make_trainer, world, precision=precision, epochs=1))


def test_a_suppressed_fused_step_leaves_no_trace(world: World) -> None:
    weight = torch.nn.Parameter(torch.ones(5, device=world.device))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.full_like(weight, torch.nan)
    optimizer.found_inf = torch.ones((), device=world.device)  # type: ignore[attr-defined]  # GradScaler's protocol
    optimizer.step()
    assert torch.equal(weight, torch.ones_like(weight))
    assert float(optimizer.state[weight]["step"]) == 0


@pytest.mark.parametrize("compiled", [False, True])
def test_resumes_exactly_at_the_tokens_of_imagenet(world: World, compiled: bool) -> None:
    """197 tokens, as DeiT has at 224 px: attention's kernels and their order of summation are those of real runs."""

    def build(**keywords: Any) -> Any:
        vit = attach(tiny_vit(img_size=224, patch_size=16, embed_dim=64), attnscale=True, featscale=True)
        model = nn.Sequential(nn.Upsample(224), vit)  # the miniature's images have 8 px
        return make_trainer(world, model=model, precision="bf16", epochs=1, compile=compiled, **keywords)

    assert_resumes_exactly(build)


def test_ddp_over_nccl_of_one_rank_changes_nothing(world: World, tmp_path: Path) -> None:
    def run() -> Any:
        trainer = make_trainer(world, model=tiny_vit(), epochs=1, accumulate=2, batch_size=6)
        trainer.fit()
        return trainer

    with determinism():
        alone = run()
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
        try:
            distributed = run()
            assert isinstance(distributed.network, DistributedDataParallel)
        finally:
            dist.destroy_process_group()
    assert_same(final_state(distributed), final_state(alone))


def test_the_loss_scale_follows_torchs_grad_scaler(world: World) -> None:
    follow_grad_scaler(world.device)
