"""From plain settings to loaders: the one place that knows every kind of data."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vitaos.batch import Batch
from vitaos.data.augment.settings import AugmentSettings
from vitaos.data.batches import Announce
from vitaos.data.classes import check_present, keep_classes
from vitaos.data.corrupt_images import CorruptImages, OnBad
from vitaos.data.corruptions import Corruption
from vitaos.data.crops import CropSettings, center_crop
from vitaos.data.folder.loader import FolderEvalLoader, FolderTrainLoader
from vitaos.data.folder.scan import Once, by_itself, scan_folder
from vitaos.data.indexed import Images, Part, open_indexed
from vitaos.data.order import TrainOrder
from vitaos.data.resize import RESIZES, Resize
from vitaos.data.sizes import SizedTrainLoader, Sizes
from vitaos.data.splits import DataSource, Engine, check_choice, check_classes, resolve_paths
from vitaos.runtime.processes import usable_cores


class TrainLoader(Protocol):
    """What every training loader promises.

    ``epoch(epoch, start_step)`` yields micro-batches, ``accumulate`` of them for each global step, in fresh CPU
    tensors that are never overwritten, from a global step on without replaying what came before.
    """

    steps_per_epoch: int
    images_per_epoch: int
    fingerprint: dict[str, Any]
    bad: CorruptImages
    announce: Announce | None
    """Called, where it is set, for every batch before the batch is made."""

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]: ...

    def close(self) -> None: ...


class EvalLoader(Protocol):
    """What every evaluation loader promises: this rank's share, each image once across ranks, no padding, possibly
    empty.

    Images are uint8; ``positions`` are dataset indices; ``num_images`` counts the whole dataset.
    """

    num_images: int
    class_names: list[str]
    fingerprint: dict[str, Any]

    def file_names(self) -> list[str] | None:
        """Names of the files by dataset index, where they are known."""

    def __iter__(self) -> Iterator[Batch]: ...

    def evenly_spaced(self, images: int) -> Iterator[Batch]:
        """That many images at even distances over the whole dataset, whatever this rank's share."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Loaders:
    """The data of a run: both loaders and the names of the classes, in the order of the targets."""

    train: TrainLoader
    val: EvalLoader
    class_names: list[str]

    @property
    def num_classes(self) -> int:
        """How many classes the data has."""
        return len(self.class_names)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Which data this is, whatever its path: ``{"train": ..., "val": ...}``."""
        return {"train": self.train.fingerprint, "val": self.val.fingerprint}

    def close(self) -> None:
        """End all workers."""
        self.train.close()
        self.val.close()


@dataclass(frozen=True)
class ReadSettings:
    """How images are read, in training and evaluation alike.

    Attributes:
        img_size: side of the square images.
        resize: ``bicubic`` (the recipes', antialiased as Pillow does) or ``area``.
        workers: worker processes (folder) or threads (ffcv); default: this rank's share of the cores it may use.
        prefetch: ffcv: batches made ahead of the one in use.
        in_memory: ffcv: read the betons into memory instead of mapping the files.
        pin_memory: hand out page-locked memory (needs CUDA).
        own_process: ffcv: the threads that train from it work in a process of their own, beside this interpreter.
        on_bad: an image that will not decode: ``fail`` or ``skip`` (counted, reported, replaced by the next good one;
            more than a thousandth of a dataset stops the run). Default: ``skip`` where ffcv trains, whose images were
            checked when written, else ``fail``: in evaluation a replaced image would be another image's score.
        once: how the processes of one machine share what one of them can do for all; default: each for itself.

    Raises:
        ValueError: names the setting that is wrong.
    """

    img_size: int
    resize: Resize = "bicubic"
    workers: int | None = None
    prefetch: int = 2
    in_memory: bool = False
    pin_memory: bool = False
    own_process: bool = False
    on_bad: OnBad | None = None
    once: Once = by_itself

    def __post_init__(self) -> None:
        check_choice("resize", self.resize, RESIZES)
        _check_counts(img_size=self.img_size, prefetch=self.prefetch)


def build_loaders(
    source: DataSource,
    read: ReadSettings,
    *,
    batch_size: int,
    eval_batch_size: int | None = None,
    eval_resize: int | None = None,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
    repeats: int = 1,
    crop: CropSettings = CropSettings(),  # noqa: B008  # frozen
    timm: AugmentSettings | None = None,
    sizes: Sizes = (),
    expected_classes: int | None = None,
) -> Loaders:
    """Build the training and evaluation loaders of a run.

    Args:
        source: where the images are.
        read: how they are read.
        batch_size: images per process and micro-batch.
        eval_batch_size: default: ``batch_size``.
        eval_resize: shorter side before the center crop in evaluation; default: ``img_size`` / 0.875, as timm and
            DeiT do.
        accumulate: micro-batches per optimizer step.
        rank, world: this process and how many there are.
        seed: seed of the order and of every per-image draw.
        repeats: repeated augmentation (3 in the DeiT recipes), 1 for none.
        crop: the random resized crop of training.
        timm: for class folders: workers run timm's CPU transforms with these settings and hand out normalized float32.
            None: uint8 crops, and the rest of the recipe runs on the device.
        sizes: side of the training images by epoch, (first epoch, pixels) pairs; none: `read.img_size` throughout.
        expected_classes: refuse data with another number of classes.

    Raises:
        ValueError: names what is missing or wrong and what would be right.
    """
    _check_counts(batch_size=batch_size, repeats=repeats)
    train_path, val_path, engine = resolve_paths(source, need_train=True)
    assert train_path is not None
    if engine == "ffcv" and timm is not None:
        raise ValueError(
            "augment=timm runs on class folders alone: choose data=imagefolder, or augment=device with FFCV"
        )
    workers = _worker_count(read.workers)
    val = build_eval_loader(
        DataSource(engine, val=val_path, prepare=source.prepare, classes=source.classes), read,
        batch_size=batch_size if eval_batch_size is None else eval_batch_size, eval_resize=eval_resize,
        rank=rank, world=world,
    )  # fmt: skip

    def order(num_images: int) -> TrainOrder:
        return TrainOrder(num_images, batch_size, accumulate, rank, world, seed, repeats)

    make: Callable[[int], TrainLoader]
    if engine == "ffcv":
        from vitaos.data.ffcv.loader import FfcvTrainLoader  # noqa: PLC0415
        from vitaos.data.ffcv.reader import open_beton  # noqa: PLC0415  # FFCV is optional

        # Where another process decodes, that one reads it into memory.
        in_memory = read.in_memory and not read.own_process
        beton = open_beton(train_path, in_memory=in_memory, prepare=source.prepare)
        class_names = beton.class_names
        _check_written_classes(class_names, source.classes, train_path)
        make = lambda size: FfcvTrainLoader(  # noqa: E731
            beton, order(len(beton)), crop, img_size=size, resize=read.resize, workers=workers,
            prefetch=read.prefetch, pin_memory=read.pin_memory, on_bad=read.on_bad or "skip",
            own_process=read.own_process, in_memory=read.in_memory,
        )  # fmt: skip
    else:
        folder = _open_images(engine, train_path, "train", source, read)
        class_names = folder.class_names
        make = lambda size: FolderTrainLoader(  # noqa: E731
            folder, order(len(folder)), crop, img_size=size, resize=read.resize, timm=timm,
            workers=workers, pin_memory=read.pin_memory, on_bad=read.on_bad or "fail",
        )  # fmt: skip
    train = SizedTrainLoader(make, sizes) if sizes else make(read.img_size)
    check_classes(class_names, val.class_names, expected_classes, train_path, val_path)
    return Loaders(train, val, class_names)


def build_eval_loader(
    source: DataSource,
    read: ReadSettings,
    *,
    batch_size: int,
    eval_resize: int | None = None,
    rank: int = 0,
    world: int = 1,
    part: Literal["train", "val"] = "val",
    corruption: Corruption | None = None,
) -> EvalLoader:
    """Build an evaluation loader alone; arguments as :func:`build_loaders`.

    Args:
        part: which part is read: the training part too may be looked at without augmentation.
        corruption: what is done to every image after it is cut out; class folders alone.
    """
    _check_counts(batch_size=batch_size)
    train_path, val_path, engine = resolve_paths(source, need_train=part == "train")
    if part == "train":
        assert train_path is not None
        val_path = train_path
    if corruption is not None and engine == "ffcv":
        raise ValueError("corrupt=true makes its images from class folders, not from FFCV files: use data=imagenet")
    workers = _worker_count(read.workers)
    eval_resize = int(read.img_size / 0.875) if eval_resize is None else eval_resize
    center_crop(eval_resize, eval_resize, eval_resize, read.img_size)
    on_bad = read.on_bad or "fail"
    if engine == "ffcv":
        from vitaos.data.ffcv.loader import FfcvEvalLoader  # noqa: PLC0415
        from vitaos.data.ffcv.reader import open_beton  # noqa: PLC0415  # FFCV is optional

        beton = open_beton(val_path, in_memory=read.in_memory, prepare=source.prepare)
        _check_written_classes(beton.class_names, source.classes, val_path)
        return FfcvEvalLoader(
            beton, rank=rank, world=world,
            batch_size=batch_size, img_size=read.img_size, eval_resize=eval_resize, resize=read.resize,
            workers=workers, prefetch=read.prefetch, pin_memory=read.pin_memory, on_bad=on_bad,
        )  # fmt: skip
    return FolderEvalLoader(
        _open_images(engine, val_path, part, source, read), rank=rank, world=world, batch_size=batch_size,
        img_size=read.img_size, eval_resize=eval_resize, resize=read.resize, workers=workers,
        pin_memory=read.pin_memory, on_bad=on_bad, corruption=corruption,
    )  # fmt: skip


def _open_images(engine: Engine, path: Path, part: Part, source: DataSource, read: ReadSettings) -> Images:
    """The images of one part that Pillow decodes: class folders, tar archives or a Hugging Face dataset."""
    images: Images
    if engine == "folder":
        images = scan_folder(path, on_bad=read.on_bad or "fail", prepare=source.prepare, once=read.once)
    else:
        holds_both = source.train is None and source.val is None
        images = open_indexed(engine, path, part, holds_both=holds_both, prepare=source.prepare)
    return images if source.classes is None else keep_classes(images, source.classes)


def _check_written_classes(names: list[str], wanted: tuple[str, ...] | None, path: Path) -> None:
    """An FFCV file holds what was written into it: its classes are the list's, no more and no fewer."""
    if wanted is None:
        return
    check_present(names, wanted, path)
    if len(names) != len(wanted):
        raise ValueError(
            f"{path} holds {len(names)} classes, data.classes names {len(wanted)} of them: write a file of those, or "
            "read class folders (data.kind=folder)"
        )


def default_workers() -> int:
    """This process's share of the cores it may use: those of its affinity mask over the processes of this machine."""
    return max(1, usable_cores() // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _worker_count(workers: int | None) -> int:
    if workers is None:
        return default_workers()
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    return workers


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
