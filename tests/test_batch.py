"""Where the parts of a batch lie while a step works on it."""

import torch

from vitaos.batch import Batch


def test_positions_stay_on_the_host() -> None:
    batch = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 0]), torch.tensor([7, 9]))
    moved = batch.on(torch.device("meta"))
    assert (moved.images.device.type, moved.targets.device.type) == ("meta", "meta")
    assert moved.positions is batch.positions
