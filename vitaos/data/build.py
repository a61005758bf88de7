"""From plain settings to loaders: the one place that knows every kind of data."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from vitaos.batch import Batch
from vitaos.data.augment.settings import DEIT_AUGMENT, AugmentSettings
from vitaos.data.corrupt_images import OnBad
from vitaos.data.crops import CropSettings, center_crop
from vitaos.data.folder.files import ImageFolder, scan_folder
from vitaos.data.folder.loader import FolderEvalLoader, FolderTrainLoader
from vitaos.data.order import TrainOrder
from vitaos.data.resize import RESIZES, Resize
from vitaos.data.splits import check_classes, resolve_paths

Kind = Literal["folder", "ffcv", "digits"]
KINDS: Final = ("folder", "ffcv", "digits")


class TrainLoader(Protocol):
    """What every training loader promises.

    ``epoch(epoch, start_step)`` yields micro-batches, ``accumulate`` of them for each global step, in fresh CPU
    tensors that are never overwritten, from a global step on without replaying what came before.
    """

    steps_per_epoch: int
    images_per_epoch: int
    fingerprint: dict[str, Any]

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


def build_loaders(
    *,
    kind: Kind,
    img_size: int,
    batch_size: int,
    root: str | Path | None = None,
    train_path: str | Path | None = None,
    val_path: str | Path | None = None,
    loader: Literal["ffcv", "folder"] = "ffcv",
    eval_resize: int | None = None,
    eval_batch_size: int | None = None,
    accumulate: int = 1,
    rank: int = 0,
    world: int = 1,
    seed: int = 0,
    repeats: int = 1,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    resize: Resize = "bicubic",
    augment: Literal["device", "timm"] = "device",
    settings: AugmentSettings = DEIT_AUGMENT,
    workers: int | None = None,
    prefetch: int = 2,
    in_memory: bool = False,
    pin_memory: bool = False,
    on_bad: OnBad | None = None,
    expected_classes: int | None = None,
    prepare: str = "",
) -> Loaders:
    """Build the training and evaluation loaders of a run.

    Args:
        kind: ``folder`` (class folders of images), ``ffcv`` (betons written by ``scripts/write_ffcv.py``) or
            ``digits`` (the embedded dataset, written below ``root`` when first used).
        img_size: side of the square images.
        batch_size: images per process and micro-batch.
        root: folder: holds ``train/`` and ``val/`` (or ``test/``); ffcv: holds ``train.beton`` and ``val.beton``;
            digits: where to write (default: ``~/.cache/vitaos``).
        train_path, val_path: either part elsewhere than below ``root``.
        loader: for digits, through which loader.
        eval_resize: shorter side before the centre crop in evaluation; default: ``img_size`` / 0.875, as timm and
            DeiT do.
        eval_batch_size: default: ``batch_size``.
        accumulate: micro-batches per optimiser step.
        rank, world: this process and how many there are.
        seed: seed of the order and of every per-image draw.
        repeats: repeated augmentation (3 in the DeiT recipes), 1 for none.
        crop_scale, crop_ratio: random resized crop: share of the area, width over height.
        resize: ``bicubic`` (the recipes', antialiased as Pillow does) or ``area``.
        augment: ``device``: uint8 crops, the rest of the recipe runs on the device; ``timm`` (class folders only):
            workers run timm's CPU transforms and hand out normalised float32.
        settings: what happens to an image after its crop, for ``augment="timm"`` alone.
        workers: worker processes (folder) or threads (ffcv); default: this rank's share of the cores it may use.
        prefetch: ffcv: batches made ahead of the one in use.
        in_memory: ffcv: read the betons into memory instead of mapping the files.
        pin_memory: hand out page-locked memory (needs CUDA).
        on_bad: an image that will not decode: ``fail`` or ``skip`` (counted, reported, replaced by the next good one;
            more than a thousandth of a dataset stops the run). Default: ``skip`` for ffcv, whose images were checked
            when written, ``fail`` for folders.
        expected_classes: refuse data with another number of classes.
        prepare: added to the message when data is missing: how to get it.

    Raises:
        ValueError: names what is missing or wrong and what would be right.
    """
    _check(kind, loader, augment, resize, scale=crop_scale, ratio=crop_ratio)
    _check_counts(img_size=img_size, batch_size=batch_size, repeats=repeats, prefetch=prefetch)
    train_path, val_path, engine = resolve_paths(
        kind, loader, root, train_path, val_path, need_train=True, prepare=prepare
    )
    assert train_path is not None
    if engine == "ffcv" and augment == "timm":
        raise ValueError(
            "augment=timm runs on class folders alone: choose data=imagefolder, or augment=device with FFCV"
        )
    workers = _workers(workers)
    crop = CropSettings(crop_scale, crop_ratio, seed)
    order_settings = {
        "batch_size": batch_size, "accumulate": accumulate, "rank": rank, "world": world, "seed": seed,
        "repeats": repeats,
    }  # fmt: skip
    val = build_eval_loader(
        kind=engine, path=val_path, img_size=img_size, eval_resize=eval_resize,
        batch_size=batch_size if eval_batch_size is None else eval_batch_size, rank=rank, world=world, resize=resize,
        workers=workers, prefetch=prefetch, in_memory=in_memory, pin_memory=pin_memory, on_bad=on_bad, prepare=prepare,
    )  # fmt: skip
    train: TrainLoader
    if engine == "ffcv":
        from vitaos.data.ffcv.loader import FfcvTrainLoader  # noqa: PLC0415
        from vitaos.data.ffcv.reader import open_beton  # noqa: PLC0415  # FFCV is optional

        beton = open_beton(train_path, in_memory=in_memory, prepare=prepare)
        class_names = beton.class_names
        train = FfcvTrainLoader(
            beton, TrainOrder(len(beton), **order_settings), crop, img_size=img_size, resize=resize,
            workers=workers, prefetch=prefetch, pin_memory=pin_memory, on_bad=on_bad or "skip",
        )  # fmt: skip
    else:
        folder = scan_folder(train_path, on_bad=on_bad or "fail", prepare=prepare)
        class_names = folder.class_names
        train = FolderTrainLoader(
            folder, TrainOrder(len(folder), **order_settings), crop, img_size=img_size, resize=resize,
            timm=settings if augment == "timm" else None, workers=workers, pin_memory=pin_memory,
            on_bad=on_bad or "fail",
        )  # fmt: skip
    check_classes(class_names, val.class_names, expected_classes, train_path, val_path)
    return Loaders(train, val, class_names)


def build_eval_loader(
    *,
    kind: Kind,
    img_size: int,
    batch_size: int,
    path: str | Path | None = None,
    root: str | Path | None = None,
    loader: Literal["ffcv", "folder"] = "ffcv",
    eval_resize: int | None = None,
    rank: int = 0,
    world: int = 1,
    resize: Resize = "bicubic",
    workers: int | None = None,
    prefetch: int = 2,
    in_memory: bool = False,
    pin_memory: bool = False,
    on_bad: OnBad | None = None,
    prepare: str = "",
) -> EvalLoader:
    """Build an evaluation loader alone; arguments as :func:`build_loaders`, ``path`` being the folder or beton to
    evaluate.

    The default of ``on_bad`` is ``fail`` for every kind: a replaced image would be another image's score.
    """
    _check(kind, loader, "device", resize)
    _check_counts(img_size=img_size, batch_size=batch_size, prefetch=prefetch)
    _, val_path, engine = resolve_paths(kind, loader, root, None, path, need_train=False, prepare=prepare)
    workers = _workers(workers)
    eval_resize = int(img_size / 0.875) if eval_resize is None else eval_resize
    center_crop(eval_resize, eval_resize, eval_resize, img_size)
    if engine == "ffcv":
        from vitaos.data.ffcv.loader import FfcvEvalLoader  # noqa: PLC0415
        from vitaos.data.ffcv.reader import open_beton  # noqa: PLC0415  # FFCV is optional

        return FfcvEvalLoader(
            open_beton(val_path, in_memory=in_memory, prepare=prepare), rank=rank, world=world, batch_size=batch_size,
            img_size=img_size, eval_resize=eval_resize, resize=resize, workers=workers, prefetch=prefetch,
            pin_memory=pin_memory, on_bad=on_bad or "fail",
        )  # fmt: skip
    folder: ImageFolder = scan_folder(val_path, on_bad=on_bad or "fail", prepare=prepare)
    return FolderEvalLoader(
        folder, rank=rank, world=world, batch_size=batch_size, img_size=img_size, eval_resize=eval_resize,
        resize=resize, workers=workers, pin_memory=pin_memory, on_bad=on_bad or "fail",
    )  # fmt: skip


def default_workers() -> int:
    """This process's share of the cores it may use: those of its affinity mask over the processes of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _workers(workers: int | None) -> int:
    if workers is None:
        return default_workers()
    if workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    return workers


def _check(
    kind: str, loader: str, augment: str, resize: str, *, scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
) -> None:  # fmt: skip
    for name, value, choices in (
        ("kind", kind, KINDS),
        ("loader", loader, ("ffcv", "folder")),
        ("augment", augment, ("device", "timm")),
        ("resize", resize, RESIZES),
    ):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(
            f"crop_scale must lie in (0, 1] and crop_ratio above 0, each in order; got {scale} and {ratio}"
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
