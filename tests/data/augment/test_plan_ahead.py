"""Plans made in a thread are those made when they are asked for."""

import numpy as np
import pytest
import torch
from flat_settings import device_augment

from vitaos.data.augment import plan_ahead
from vitaos.data.augment.gpu_plan import GpuPlan
from vitaos.data.augment.plan_ahead import PlanAhead
from vitaos.data.batches import training_requests
from vitaos.data.order import TrainOrder


def arrays(plan: GpuPlan) -> list[object]:
    return [array.tolist() for array in plan.parcel.on(torch.device("cpu"))]


def test_an_announced_plan_is_the_plan() -> None:
    transform = device_augment(img_size=32, num_classes=10, seed=4, erasing=0.5)
    positions = np.arange(40, 60)
    expected = arrays(transform.plan(3, positions))
    transform.announce(3, positions)
    transform.announce(4, positions)
    assert arrays(transform._plans.get(3, positions)) == expected
    assert arrays(transform._plans.get(3, positions.copy())) == expected, "asked for a second time"
    assert arrays(transform._plans.get(4, positions)) != expected


def test_the_loaders_announce_what_they_make() -> None:
    told: list[tuple[int, list[int]]] = []
    order = TrainOrder(20, 4, 2, 0, 1, 0, 1)
    requests = list(training_requests(order, 1, 1, lambda epoch, positions: told.append((epoch, positions.tolist()))))
    assert told == [(request.epoch, request.positions.tolist()) for request in requests]


def test_plans_that_nobody_asks_for_are_dropped_and_errors_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_ahead, "_MOST_KEPT", 2)

    def make(epoch: int, _: object) -> int:
        if epoch == 9:
            raise ValueError("nine")
        return epoch

    plans = PlanAhead(make)
    for epoch in range(10):
        plans.announce(epoch, np.arange(3))
    assert len(plans._plans) == 2
    assert plans.get(8, np.arange(3)) == 8
    with pytest.raises(ValueError, match="nine"):
        plans.get(9, np.arange(3))
    assert not plans._plans
