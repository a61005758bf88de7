"""Buffers packed into few blocks: each as its source, with a storage of its own, and little memory beside."""

from typing import Any

import pytest
import torch

from vitaos.checkpoint.pinned import pinned_like


def test_buffers_are_like_their_sources_and_do_not_overlap() -> None:
    sources = {
        "weight": torch.empty(300, 200),
        "half": torch.empty(7, 5, dtype=torch.bfloat16),
        "step": torch.zeros(()),
        "flags": torch.zeros(3, dtype=torch.bool),
        "count": torch.zeros(2, dtype=torch.int64),
        "images": torch.empty(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "nothing": torch.empty(0, 4),
    }
    buffers = pinned_like(sources, pin=False)
    assert set(buffers) == set(sources)
    for number, (name, buffer) in enumerate(buffers.items()):
        source = sources[name]
        assert (buffer.shape, buffer.stride(), buffer.dtype) == (source.shape, source.stride(), source.dtype)
        assert buffer.untyped_storage().nbytes() == source.untyped_storage().nbytes(), (
            "torch.save writes whole storages"
        )
        buffer.fill_(number % 2 if buffer.dtype == torch.bool else number)
    for number, buffer in enumerate(buffers.values()):
        assert (buffer == (number % 2 if buffer.dtype == torch.bool else number)).all()


def test_a_training_state_locks_little_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {
        f"{block}.{name}": torch.empty(*shape, device="meta") for block in range(12) for name, shape in BLOCK.items()
    }
    needed = sum(tensor.numel() * 4 for tensor in model.values())
    locked: list[int] = []
    empty = torch.empty

    def counted(*shape: Any, **keywords: Any) -> torch.Tensor:
        if keywords.pop("pin_memory", False):
            locked.append(shape[0])
        return empty(*shape, **keywords)

    monkeypatch.setattr(torch, "empty", counted)
    assert len(pinned_like(model)) == len(model)
    assert all(size & (size - 1) == 0 for size in locked), "torch rounds up to powers of two"
    assert sum(locked) < 1.05 * needed


BLOCK = {"qkv": (576, 192), "proj": (192, 192), "fc1": (768, 192), "fc2": (192, 768), "norm": (192,), "bias": (768,)}
