"""The order of an epoch: the same global steps for every split, repeated augmentation as timm deals it, any start."""

from itertools import islice

import numpy as np
import pytest
import torch
from timm.data.distributed_sampler import RepeatAugSampler

from vitaos.data.order import TrainOrder, evaluation_indices, evenly_spaced_indices

GLOBAL_BATCH = 24


def global_steps(num_images: int, world: int, accumulate: int, repeats: int) -> list[dict[int, int]]:
    """For each global step of an epoch: position -> image, gathered from all ranks."""
    batch_size = GLOBAL_BATCH // (world * accumulate)
    steps: dict[int, dict[int, int]] = {}
    for rank in range(world):
        order = TrainOrder(num_images, batch_size, accumulate, rank, world, seed=5, repeats=repeats)
        for micro in order.micro_batches(epoch=2):
            assert len(micro.positions) == batch_size
            pairs = zip(micro.positions.tolist(), micro.indices.tolist(), strict=True)
            steps.setdefault(micro.step, {}).update(pairs)
    return [steps[step] for step in sorted(steps)]


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (3, 1), (4, 1), (1, 3), (2, 4), (3, 2)])
def test_global_steps_do_not_depend_on_the_split(world: int, accumulate: int, repeats: int) -> None:
    single = global_steps(1001, 1, 1, repeats)
    assert [len(step) for step in single] == [GLOBAL_BATCH] * len(single)
    assert global_steps(1001, world, accumulate, repeats) == single


def test_a_plain_epoch_sees_each_image_once() -> None:
    order = TrainOrder(1001, 10, seed=1)
    seen = np.concatenate([micro.indices for micro in order.micro_batches(0)])
    assert (order.images_per_epoch, order.steps_per_epoch, len(seen)) == (1001, 100, 1000)
    assert len(np.unique(seen)) == 1000
    assert not np.array_equal(seen, order.indices(1))
    assert not np.array_equal(seen, TrainOrder(1001, 10, seed=2).indices(0))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_repeats_are_dealt_as_timm_deals_them(world: int) -> None:
    num_images = 1003
    dealt = {}
    for rank in range(world):
        sampler = RepeatAugSampler(torch.arange(num_images), num_replicas=world, rank=rank)
        sampler.set_epoch(3)
        dealt[rank] = list(sampler)
    timm_epoch = np.array([dealt[place % world][place // world] for place in range(world * len(dealt[0]))])
    order = TrainOrder(num_images, 1, rank=0, world=world, repeats=3)
    assert order.images_per_epoch == len(timm_epoch)
    shuffle = timm_epoch[::3]
    assert np.array_equal(np.repeat(shuffle, 3)[: len(timm_epoch)], timm_epoch)
    ours = order.indices(0)
    assert np.array_equal(np.repeat(ours[::3], 3)[: len(ours)], ours)
    assert len(np.unique(ours)) == len(np.unique(timm_epoch))
    for rank in range(world):
        micros = TrainOrder(num_images, 1, rank=rank, world=world, repeats=3).micro_batches(0)
        assert [int(micro.indices[0]) for micro in micros] == ours[rank::world].tolist()


def test_small_datasets_keep_all_their_images_with_repeats() -> None:
    assert TrainOrder(200, 8, repeats=3).images_per_epoch == 200
    assert TrainOrder(300, 8, repeats=3).images_per_epoch == 256


def test_any_step_is_a_start() -> None:
    order = TrainOrder(500, 7, accumulate=3, rank=1, world=2, seed=9, repeats=3)
    whole = list(order.micro_batches(4))
    for start in (0, 1, order.steps_per_epoch - 1, order.steps_per_epoch):
        late = list(order.micro_batches(4, start))
        assert len(late) == len(whole) - 3 * start
        for resumed, uninterrupted in zip(late, islice(whole, 3 * start, None), strict=True):
            assert resumed.step == uninterrupted.step
            assert np.array_equal(resumed.positions, uninterrupted.positions)
            assert np.array_equal(resumed.indices, uninterrupted.indices)
    with pytest.raises(ValueError, match=r"step 13 does not exist.*6 steps"):
        next(order.micro_batches(4, 13))


def test_impossible_numbers_are_named() -> None:
    with pytest.raises(ValueError, match=r"batch_size 64 x accumulate 2 x 4 process.*= 512 .* only 500.*lower"):
        TrainOrder(500, 64, accumulate=2, world=4)
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.1"):
        TrainOrder(500, 1, rank=2, world=2)
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        TrainOrder(500, 1, repeats=0)


def test_spread_images_stand_at_even_distances() -> None:
    assert evenly_spaced_indices(1000, 4).tolist() == [0, 250, 500, 750]
    assert evenly_spaced_indices(7, 5).tolist() == [0, 1, 2, 4, 5]
    assert evenly_spaced_indices(3, 64).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("num_images", "world"), [(1, 1), (7, 3), (2, 5), (1000, 8)])
def test_evaluation_shares_count_each_image_once(num_images: int, world: int) -> None:
    shares = [evaluation_indices(num_images, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(num_images))
