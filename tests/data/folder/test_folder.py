"""Class folders: every kind of image, every kind of wrong folder, and the same pixels whatever the workers."""

import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vitaos.batch import Batch
from vitaos.data import DataSource, ReadSettings, build_loaders
from vitaos.data.augment.settings import AugmentSettings
from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.crops import CropSettings
from vitaos.data.folder.decode import read_image
from vitaos.data.folder.files import ImageFolder
from vitaos.data.folder.loader import FolderEvalLoader, FolderTrainLoader
from vitaos.data.folder.scan import scan_folder
from vitaos.data.folder.timm_transform import timm_transform
from vitaos.data.order import TrainOrder, evenly_spaced_indices

CROP = CropSettings()
SEED = 11
TIMM = AugmentSettings(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def same(left: Iterable[Batch], right: Iterable[Batch]) -> bool:
    """Whether two passes gave the same batches."""
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def train_loader(
    root: Path, *, timm: AugmentSettings | None = None, workers: int = 0, repeats: int = 1
) -> FolderTrainLoader:
    folder = scan_folder(root / "train")
    order = TrainOrder(len(folder), 5, accumulate=2, seed=SEED, repeats=repeats)
    return FolderTrainLoader(folder, order, CROP, img_size=32, timm=timm, workers=workers)


def copied(source: Path, to: Path) -> Path:
    """A folder of our own to damage: two classes of two images."""
    for name in ("china", "flower"):
        (to / name).mkdir(parents=True)
        for number in range(2):
            (to / name / f"{number}.jpg").write_bytes((source / "train" / name / f"{number:02d}.jpg").read_bytes())
    return to


KINDS: dict[str, Callable[[Image.Image, Path], None]] = {
    "gray.jpg": lambda image, path: image.convert("L").save(path),
    "cmyk.jpg": lambda image, path: image.convert("CMYK").save(path),
    "palette.png": lambda image, path: image.quantize(64).save(path),
    "alpha.png": lambda image, path: image.convert("RGBA").save(path),
    "bit.png": lambda image, path: image.convert("1").save(path),
    "sixteen.png": lambda image, path: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(
        path
    ),
    "animated.gif": lambda image, path: image.save(path),
    "web.webp": lambda image, path: image.save(path),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_becomes_rgb(kind: str, tmp_path: Path, photographs: list[np.ndarray]) -> None:
    image = Image.fromarray(photographs[0][:80, :90])
    KINDS[kind](image, tmp_path / kind)
    found = read_image(tmp_path / kind)
    assert (found.mode, found.size) == ("RGB", (90, 80))
    reference = image.convert("L").convert("RGB") if kind in ("gray.jpg", "sixteen.png") else image
    if kind == "bit.png":
        return
    assert np.abs(np.asarray(found).astype(int) - np.asarray(reference).astype(int)).mean() < 12


@pytest.mark.parametrize("engine", [None, TIMM], ids=["device", "timm"])
def test_workers_and_interruptions_change_nothing(photo_folder: Path, engine: AugmentSettings | None) -> None:
    here, workers = train_loader(photo_folder, timm=engine), train_loader(photo_folder, timm=engine, workers=2)
    whole = list(here.epoch(3))
    assert len(whole) == 2 * here.steps_per_epoch == 10
    assert whole[0].images.dtype == (torch.uint8 if engine is None else torch.float32)
    next(iter(workers.epoch(0)))  # an abandoned pass
    assert same(whole, workers.epoch(3))
    assert same(whole[6:], workers.epoch(3, start_step=3))
    assert same(whole[4:], here.epoch(3, start_step=2))
    assert not same(whole, here.epoch(4))
    workers.close()


def test_the_pixels_of_a_global_step_do_not_depend_on_the_ranks(photo_folder: Path) -> None:
    folder = scan_folder(photo_folder / "train")

    def views(world: int) -> dict[int, torch.Tensor]:
        found = {}
        for rank in range(world):
            order = TrainOrder(len(folder), 12 // world, rank=rank, world=world, seed=1)
            for batch in FolderTrainLoader(folder, order, CROP, img_size=32).epoch(0):
                found.update(zip(batch.positions.tolist(), batch.images, strict=True))
        return found

    single = views(1)
    for world in (2, 3):
        split = views(world)
        assert split.keys() == single.keys()
        assert all(torch.equal(split[position], single[position]) for position in single)


def test_timm_leaves_the_process_wide_generators_alone(photo_folder: Path) -> None:
    loader = train_loader(photo_folder, timm=TIMM)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = (random.random(), np.random.rand(), torch.rand(1))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    list(loader.epoch(0))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected


def test_timms_posterise_reaches_zero_bits(photographs: list[np.ndarray]) -> None:
    image = Image.fromarray(photographs[1][:64, :64])
    transform = timm_transform(TIMM, 32, CROP)
    randaugment = next(stage for stage in transform.transforms if hasattr(stage, "ops"))  # type: ignore[attr-defined]
    posterise = next(op.aug_fn for op in randaugment.ops if op.name == "PosterizeIncreasing")
    assert not np.asarray(posterise(image, 0)).any()
    assert np.array_equal(np.asarray(posterise(image, 3)), np.asarray(ImageOps.posterize(image, 3)))
    assert posterise(image, 8) is image


@pytest.mark.parametrize("wrong", ["rand-m9-inc", "rand-m9-q3", "foo"])
def test_timms_engine_refuses_what_the_devices_does(photo_folder: Path, wrong: str) -> None:
    with pytest.raises(ValueError, match=f"randaugment='{wrong}'"):
        build_loaders(
            DataSource("folder", photo_folder),
            ReadSettings(img_size=32, workers=0),
            batch_size=4,
            timm=AugmentSettings(randaugment=wrong),
        )


def test_an_infinite_spread_is_uniform_in_timms_engine_too() -> None:
    transform = timm_transform(replace(TIMM, randaugment="rand-m9-mstdinf-inc1"), 32, CROP)
    spreads = [op.magnitude_std for stage in transform.transforms for op in getattr(stage, "ops", ())]  # type: ignore[attr-defined]  # a Compose
    assert len(spreads) == 15
    assert set(spreads) == {float("inf")}


def test_repeats_are_decoded_once(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = train_loader(photo_folder, repeats=3)
    read: list[int] = []
    original = ImageFolder.read
    monkeypatch.setattr(ImageFolder, "read", lambda self, index: read.append(index) or original(self, index))
    batches = list(loader.epoch(0))
    assert len(batches) == 10
    groups = [
        len(set(indices.tolist())) for indices in np.split(TrainOrder(51, 5, 2, seed=11, repeats=3).indices(0), 10)
    ]
    assert len(read) == sum(groups) < 30


def test_an_evaluation_counts_each_image_once(photo_folder: Path) -> None:
    folder = scan_folder(photo_folder / "val")
    for world in (1, 3, 9):
        loaders = [
            FolderEvalLoader(folder, rank=rank, world=world, batch_size=2, img_size=32, eval_resize=36)
            for rank in range(world)
        ]
        batches = [batch for loader in loaders for batch in loader]
        positions = torch.cat([batch.positions for batch in batches])
        targets = torch.cat([batch.targets for batch in batches])
        assert sorted(positions.tolist()) == list(range(len(folder)))
        assert torch.equal(targets, torch.from_numpy(folder.targets)[positions])
        assert all(len(batch.targets) for batch in batches)
        assert {loader.num_images for loader in loaders} == {len(folder)}


def test_wrong_folders_are_explained(photo_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere does not exist\. Type this"):
        scan_folder(tmp_path / "nowhere", prepare="Type this")
    with pytest.raises(ValueError, match="holds no class folders"):
        scan_folder(tmp_path)
    root = copied(photo_folder, tmp_path / "data")
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match=r"1 class folder\(s\).*hold no image: empty"):
        scan_folder(root)
    (root / "empty").rmdir()
    (root / "china" / "notes.txt").write_text("not an image")
    (root / "flower" / "page.jpg").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"2 file\(s\).*are not images: china/notes.txt, flower/page.jpg"):
        scan_folder(root)
    assert len(scan_folder(root, on_bad="skip")) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_spread_images_are_the_datasets_and_not_this_ranks(photo_folder: Path, workers: int) -> None:
    folder = scan_folder(photo_folder / "train")
    settings = {"batch_size": 4, "img_size": 32, "eval_resize": 36}
    loader = FolderEvalLoader(folder, rank=1, world=2, workers=workers, **settings)  # type: ignore[arg-type]
    for _ in range(2):
        some = list(loader.evenly_spaced(6))
        positions = torch.cat([batch.positions for batch in some]).tolist()
        assert positions == evenly_spaced_indices(len(folder), 6).tolist()
        assert torch.cat([batch.targets for batch in some]).tolist() == [int(folder.targets[at]) for at in positions]
    assert torch.cat([batch.positions for batch in loader]).tolist() == list(range(1, len(folder), 2))
    loader.close()


def test_a_damaged_file_stops_or_is_replaced(photo_folder: Path, tmp_path: Path) -> None:
    root = copied(photo_folder, tmp_path)
    damaged = root / "china" / "1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    folder = scan_folder(root)
    for workers in (0, 1):
        loader = FolderEvalLoader(folder, rank=0, world=1, batch_size=4, img_size=32, eval_resize=32, workers=workers)
        with pytest.raises(CorruptImageError, match=r"china/1.jpg is not a readable image.*Repair it, or remove it"):
            list(loader)
        loader.close()
    loader = FolderEvalLoader(folder, rank=0, world=1, batch_size=4, img_size=32, eval_resize=32, on_bad="skip")
    (batch,) = loader
    assert batch.targets.tolist() == [0, 1, 1, 1]
    assert torch.equal(batch.images[1], batch.images[2])
    second = root / "flower" / "0.jpg"
    second.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(CorruptImageError, match=r"2 of 4 images do not decode, more than 0\.1%.*flower/0.jpg"):
        list(loader)


def test_a_closed_loader_says_so_and_leaves_no_threads(photo_folder: Path) -> None:
    threads = threading.active_count()
    loader = train_loader(photo_folder, workers=1)
    list(loader.epoch(0))
    loader.close()
    with pytest.raises(ValueError, match="closed"):
        next(iter(loader.epoch(0)))
    deadline = time.monotonic() + 30
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)  # a queue's thread ends by itself, a little later
    assert threading.active_count() <= threads


def test_bad_images_are_counted_over_all_workers(photo_folder: Path, tmp_path: Path) -> None:
    root = copied(photo_folder, tmp_path)
    for name in ("china", "flower"):
        (root / name / "0.jpg").write_bytes(b"\xff\xd8\xff")
    loader = FolderEvalLoader(
        scan_folder(root), rank=0, world=1, batch_size=2, img_size=32, eval_resize=32, workers=2, on_bad="skip"
    )  # each worker meets one of the two
    with pytest.raises(CorruptImageError, match="2 of 4 images do not decode"):
        list(loader)
    loader.close()
