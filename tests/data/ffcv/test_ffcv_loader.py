"""The FFCV loader: the same pixels for every split and history; errors arrive, nothing is stale or overwritten."""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ffcv", reason="FFCV is not installed")

from vitaos.batch import Batch
from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.crops import CropSettings, training_crops
from vitaos.data.ffcv.loader import FfcvEvalLoader, FfcvTrainLoader
from vitaos.data.ffcv.reader import Beton, open_beton
from vitaos.data.order import TrainOrder, evenly_spaced_indices

CROP = CropSettings()
SEED = 7


def train_loader(beton: Beton, *, batch_size: int = 6, world: int = 1, rank: int = 0, accumulate: int = 1,
                 repeats: int = 1, **settings: Any) -> FfcvTrainLoader:  # fmt: skip
    order = TrainOrder(len(beton), batch_size, accumulate, rank, world, seed=SEED, repeats=repeats)
    return FfcvTrainLoader(beton, order, CROP, img_size=48, **settings)


def eval_loader(beton: Beton, **settings: Any) -> FfcvEvalLoader:
    return FfcvEvalLoader(
        beton, **{"rank": 0, "world": 1, "batch_size": 4, "img_size": 48, "eval_resize": 56, **settings}
    )


def same(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def beton(photo_betons: Path) -> Beton:
    return open_beton(photo_betons / "train.beton")


@pytest.fixture
def damage(photo_betons: Path, tmp_path: Path) -> Iterator[Any]:
    """Flips bytes inside the JPEG of records of a copy of val.beton and opens it (the cheap check cannot see it)."""

    def flip(*records: int) -> Beton:
        for suffix in ("", ".json"):
            shutil.copy(photo_betons / f"val.beton{suffix}", tmp_path / f"val.beton{suffix}")
        whole = open_beton(tmp_path / "val.beton")
        with (tmp_path / "val.beton").open("r+b") as file:
            for record in records:
                file.seek(int(whole._starts[record]) + 200)
                file.write(b"\xff\xd9" * 400)
        return open_beton(tmp_path / "val.beton")

    return flip


def test_threads_and_interruptions_change_nothing(beton: Beton) -> None:
    one, three = train_loader(beton, accumulate=2, workers=1), train_loader(beton, accumulate=2, workers=3, prefetch=4)
    whole = list(one.epoch(2))
    assert len(whole) == 2 * one.steps_per_epoch == 8
    assert whole[0].images.shape == (6, 3, 48, 48)
    assert whole[0].images.dtype == torch.uint8
    abandoned = three.epoch(0)
    next(abandoned)
    assert same(whole, three.epoch(2))
    for step in range(5):
        assert same(whole[2 * step :], three.epoch(2, start_step=step))
    assert not same(whole, three.epoch(1))
    one.close(), three.close()


def test_in_memory_is_the_same(beton: Beton, photo_betons: Path) -> None:
    memory = open_beton(photo_betons / "train.beton", in_memory=True)
    assert same(train_loader(beton).epoch(0), train_loader(memory).epoch(0))


@pytest.mark.parametrize("repeats", [1, 3])
def test_the_pixels_of_a_global_step_do_not_depend_on_the_ranks(beton: Beton, repeats: int) -> None:
    def steps(world: int, accumulate: int) -> list[dict[int, tuple[int, bytes]]]:
        size = 12 // (world * accumulate)
        found: list[dict[int, tuple[int, bytes]]] = []
        for rank in range(world):
            loader = train_loader(
                beton, batch_size=size, world=world, rank=rank, accumulate=accumulate, repeats=repeats, workers=2
            )
            for number, batch in enumerate(loader.epoch(1)):
                step = number // accumulate
                found += [{} for _ in range(step + 1 - len(found))]
                for position, target, image in zip(batch.positions, batch.targets, batch.images, strict=True):
                    found[step][int(position)] = (int(target), image.numpy().tobytes())
            loader.close()
        return found

    single = steps(1, 1)
    assert len(single) == 4
    assert all(len(step) == 12 for step in single)
    for world, accumulate in ((2, 1), (3, 2), (4, 1), (1, 3)):
        assert steps(world, accumulate) == single


def test_crops_are_those_of_pillow_within_a_gray_level(beton: Beton, photo_folder: Path) -> None:
    files = sorted((photo_folder / "train").glob("*/*.jpg"))
    differences = []
    loader = train_loader(beton)
    for batch in loader.epoch(0):
        indices = loader._order.indices(0)[batch.positions]
        boxes = training_crops(
            CROP, batch.positions.numpy(), beton.heights[indices], beton.widths[indices], seed=SEED, epoch=0
        )
        for image, index, box in zip(batch.images, indices, boxes.tolist(), strict=True):
            top, left, height, width = box
            cut = Image.open(files[index]).convert("RGB").crop((left, top, left + width, top + height))
            theirs = np.asarray(cut.resize((48, 48), Image.Resampling.BICUBIC)).astype(int)
            differences.append(np.abs(image.permute(1, 2, 0).numpy().astype(int) - theirs).mean())
    assert len(differences) == 48
    assert np.mean(differences) < 1.0


def test_the_area_resize_is_ffcvs(beton: Beton) -> None:
    bicubic, area = (train_loader(beton, resize=resize) for resize in ("bicubic", "area"))
    for one, other in zip(bicubic.epoch(0), area.epoch(0), strict=True):
        difference = (one.images.float() - other.images.float()).abs().mean()
        assert 0.1 < difference < 12
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    means = image.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(beton.area(image, 4, 4) - means).max() <= 0.5


def test_repeats_in_a_batch_are_decoded_once(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = Beton.image

    def counted(self: Beton, index: int) -> Any:
        decoded.append(index)
        return original(self, index)

    monkeypatch.setattr(Beton, "image", counted)
    loader = train_loader(beton, repeats=3, workers=2)
    views = [batch.images for batch in loader.epoch(0)]
    assert len(decoded) == 8 * 2
    assert not torch.equal(views[0][0], views[0][1])


def test_a_slow_consumer_keeps_what_it_was_given(beton: Beton) -> None:
    loader = train_loader(beton, workers=2, prefetch=1)
    held, copies = [], []
    for batch in loader.epoch(0):
        held.append(batch)
        copies.append(Batch(*(part.clone() for part in batch)))
        time.sleep(0.02)
    list(loader.epoch(1))
    assert same(held, copies)
    assert len({batch.images.data_ptr() for batch in held}) == len(held)


@pytest.mark.parametrize(("num_workers", "world"), [(1, 1), (2, 3), (1, 9)])
def test_an_evaluation_counts_each_image_once(photo_betons: Path, num_workers: int, world: int) -> None:
    val = open_beton(photo_betons / "val.beton")
    loaders = [eval_loader(val, rank=rank, world=world, workers=num_workers) for rank in range(world)]
    batches = [batch for loader in loaders for batch in loader]
    positions = torch.cat([batch.positions for batch in batches])
    assert sorted(positions.tolist()) == list(range(7))
    assert torch.equal(torch.cat([batch.targets for batch in batches]), torch.from_numpy(val.targets)[positions])
    assert {loader.num_images for loader in loaders} == {7}


def test_spread_images_are_the_datasets_and_not_this_ranks(beton: Beton) -> None:
    whole = torch.cat([batch.images for batch in eval_loader(beton)])
    loader = eval_loader(beton, rank=1, world=2, workers=2)
    for _ in range(2):
        some = list(loader.evenly_spaced(10))
        positions = torch.cat([batch.positions for batch in some])
        assert positions.tolist() == evenly_spaced_indices(len(beton), 10).tolist()
        assert torch.equal(torch.cat([batch.images for batch in some]), whole[positions])
    share = torch.cat([batch.positions for batch in loader])
    assert share.tolist() == list(range(1, len(beton), 2))
    loader.close()


def test_a_failing_thread_is_an_error_that_names_the_record(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Beton.image

    def failing(self: Beton, index: int) -> Any:
        if index == 20:
            raise OSError("the disk is gone")
        return original(self, index)

    monkeypatch.setattr(Beton, "image", failing)
    loader = train_loader(beton, workers=2)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"record 20 of .*train\.beton failed: the disk is gone"):
        list(chain.from_iterable(loader.epoch(epoch) for epoch in range(3)))
    assert time.monotonic() - start < 5
    monkeypatch.setattr(Beton, "image", original)
    assert len(list(loader.epoch(0))) == 8  # the loader itself is whole
    loader.close()


def test_a_record_that_will_not_decode_is_replaced_and_reported(damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    val = damage(3)
    loader = train_loader(val, batch_size=7, on_bad="skip", workers=2)
    (batch,) = loader.epoch(0)
    indices = loader._order.indices(0)
    place, neighbor = int(np.flatnonzero(indices == 3)[0]), 4
    assert loader._pool.bad.indices == [3]
    assert "image 3 replaced" in caplog.text
    assert batch.targets[place] == val.targets[neighbor]
    box = training_crops(CROP, np.array([place]), val.heights[[neighbor]], val.widths[[neighbor]], seed=SEED, epoch=0)[
        0
    ]
    expected = np.empty((48, 48, 3), dtype=np.uint8)
    from vitaos.data.resize import bicubic, crop_and_resize  # noqa: PLC0415  # beside its only use

    crop_and_resize(val.image(neighbor), box, expected, bicubic)
    assert np.array_equal(batch.images[place].permute(1, 2, 0).numpy(), expected)
    others = [number for number in range(7) if number != place]
    whole = next(train_loader(damage(), batch_size=7).epoch(0))
    assert torch.equal(batch.images[others], whole.images[others])
    assert not torch.equal(batch.images[place], whole.images[place])


def test_too_many_bad_records_stop_the_run(damage: Any) -> None:
    with pytest.raises(CorruptImageError, match=r"2 of 7 images do not decode, more than 0\.1%.*record"):
        list(train_loader(damage(2, 5), batch_size=7, on_bad="skip", workers=2).epoch(0))
    with pytest.raises(
        CorruptImageError, match=r"record 2 of .*val\.beton is not a readable JPEG.*Repair it, or remove it"
    ):
        list(eval_loader(damage(2)))


def test_a_stream_of_another_size_is_bad_too(photo_betons: Path) -> None:
    val = open_beton(photo_betons / "val.beton")
    val.heights = val.heights.copy()
    val.heights[1] += 1
    with pytest.raises(CorruptImageError, match="record 1"):
        val.image(1)


def test_threads_do_not_pile_up(beton: Beton) -> None:
    before = set(threading.enumerate())
    loader = train_loader(beton, workers=3)
    for epoch in range(5):
        iterator = loader.epoch(epoch)
        next(iterator)
        del iterator
        list(loader.epoch(epoch))
        assert len(set(threading.enumerate()) - before) <= 3
    loader.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(ValueError, match="closed"):
        next(loader.epoch(0))
