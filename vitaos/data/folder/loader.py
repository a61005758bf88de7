"""Loaders over class folders: Pillow in worker processes; works everywhere, for any image format.

Two engines: ``augment="device"`` hands out uint8 random resized crops, ``augment="timm"`` runs timm's whole CPU recipe.
Both are functions of (seed, epoch, position) alone, whatever the number of workers, and start at any step without
replay.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from vitaos.batch import Batch
from vitaos.counter_rng import derive_seed
from vitaos.data.augment.settings import AugmentSettings
from vitaos.data.batches import Announce, BatchRequest, evaluation_requests, training_requests
from vitaos.data.corrupt_images import CorruptImages, OnBad
from vitaos.data.corruptions import Corruption
from vitaos.data.crops import CropSettings, training_crops
from vitaos.data.folder.timm_transform import (
    TimmViews,
    preserve_rng_state,
    seed_rngs,
    timm_views,
)
from vitaos.data.indexed import Images
from vitaos.data.order import TrainOrder, evaluation_indices, evenly_spaced_indices
from vitaos.data.resize import RESIZERS, Resize, crop_and_resize, empty_batch, resize_and_center_crop
from vitaos.data.rng_streams import TIMM
from vitaos.runtime.processes import ignore_requests_to_stop


class _BatchDataset(Dataset[Batch]):
    """Makes whole batches in a worker process; a request holds everything a batch depends on."""

    def __init__(
        self, folder: Images, bad: CorruptImages, *, img_size: int, eval_resize: int, resize: Resize,
        crop: CropSettings | None = None, seed: int = 0, transform: TimmViews | None = None,
        corruption: Corruption | None = None,
    ) -> None:  # fmt: skip
        self._corruption = corruption
        self._folder = folder
        self._bad = bad
        self._img_size = img_size
        self._eval_resize = eval_resize
        self._resize = RESIZERS[resize]
        self._crop = crop
        self._seed = seed
        self._transform = transform

    def __getitem__(self, request: BatchRequest) -> Batch:
        if request.epoch is not None and self._transform is not None:
            return self._by_timm(request, request.epoch)
        images_B3SS, views_BSS3 = empty_batch(len(request.indices), self._img_size)
        targets_B = np.empty(len(request.indices), dtype=np.int64)
        for place, (target, image) in enumerate(self._decode(request.indices)):
            image_HW3 = np.array(image)
            targets_B[place] = target
            if request.epoch is None or self._crop is None:
                resize_and_center_crop(image_HW3, self._eval_resize, views_BSS3[place], self._resize)
                if self._corruption is not None:
                    views_BSS3[place] = self._corruption(views_BSS3[place], int(request.indices[place]))
            else:
                height_1, width_1 = np.array(image_HW3.shape[:1]), np.array(image_HW3.shape[1:2])
                (box,) = training_crops(
                    self._crop, request.positions[place : place + 1], height_1, width_1,
                    seed=self._seed, epoch=request.epoch,
                )  # fmt: skip
                crop_and_resize(image_HW3, box, views_BSS3[place], self._resize)
        return Batch(images_B3SS, torch.from_numpy(targets_B), torch.from_numpy(request.positions))

    def _by_timm(self, request: BatchRequest, epoch: int) -> Batch:
        assert self._transform is not None
        images: list[list[torch.Tensor]] = []
        targets: list[int] = []
        with preserve_rng_state():
            for position, (target, image) in zip(
                request.positions.tolist(), self._decode(request.indices), strict=True
            ):
                seed_rngs(derive_seed(self._seed, epoch, position, TIMM))
                images.append(self._transform(image))
                targets.append(target)
        views = [view for same in zip(*images, strict=True) for view in same]  # all first views, all second ones, ...
        times = len(views) // len(images)
        return Batch(
            torch.stack(views), torch.tensor(targets * times), torch.from_numpy(request.positions).repeat(times)
        )

    def _decode(self, indices_B: NDArray[np.int64]) -> Iterator[tuple[int, Image.Image]]:
        """Target and image for each index; the repeats of repeated augmentation, which follow each other, are read
        once.
        """
        last = -1
        for index in indices_B.tolist():
            if index != last:
                found, image = self._bad.decode(index, self._folder.read)
                last = index
            yield int(self._folder.targets[found]), image


class _Requests(Sampler[BatchRequest]):
    """The requests of the coming pass, set before each iteration of the data loader."""

    def __init__(self) -> None:
        self.start: Callable[[], Iterator[BatchRequest]] = lambda: iter(())

    def __iter__(self) -> Iterator[BatchRequest]:
        return self.start()


def _prepare_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    ignore_requests_to_stop()


def _data_loader(dataset: _BatchDataset, requests: _Requests, workers: int, pin_memory: bool) -> DataLoader[Any]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_prepare_worker,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # the loader draws a seed nobody uses: not from the run's generator
    )


class FolderTrainLoader:
    """Training batches from class folders; see :mod:`vitaos.data` for what a train loader promises.

    Args:
        folder: the images.
        order: who sees which image when.
        crop: the random resized crop.
        img_size: side of the square output.
        resize: how the device engine resizes.
        timm: settings of timm's recipe, or None for the device engine.
        workers: worker processes; 0 decodes in this process.
        pin_memory: hand out page-locked memory.
        on_bad: what to do with a file that will not decode.
    """

    def __init__(
        self, folder: Images, order: TrainOrder, crop: CropSettings, *, img_size: int, resize: Resize = "bicubic",
        timm: AugmentSettings | None = None, workers: int = 0, pin_memory: bool = False, on_bad: OnBad = "fail",
    ) -> None:  # fmt: skip
        transform = timm_views(timm, img_size, crop) if timm is not None else None
        self._order = order
        self.bad = CorruptImages(len(folder), on_bad, str(folder.root))
        self.announce: Announce | None = None
        self._requests = _Requests()
        dataset = _BatchDataset(
            folder, self.bad, img_size=img_size, eval_resize=img_size, resize=resize, crop=crop, seed=order.seed,
            transform=transform,
        )  # fmt: skip
        self._loader: DataLoader[Any] | None = _data_loader(dataset, self._requests, workers, pin_memory)
        self.steps_per_epoch = order.steps_per_epoch
        self.images_per_epoch = order.images_per_epoch
        self.fingerprint = folder.fingerprint()

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Micro-batches of an epoch from a global step on, ``accumulate`` of them for each step."""
        if self._loader is None:
            raise ValueError("this loader is closed")
        self._requests.start = lambda: training_requests(self._order, epoch, start_step, self.announce)
        yield from self._loader

    def close(self) -> None:
        """End the worker processes."""
        self._loader = None


class FolderEvalLoader:
    """This rank's share of an evaluation, every image once, uint8 center crops; positions are dataset indices."""

    def __init__(
        self, folder: Images, *, rank: int, world: int, batch_size: int, img_size: int, eval_resize: int,
        resize: Resize = "bicubic", workers: int = 0, pin_memory: bool = False, on_bad: OnBad = "fail",
        corruption: Corruption | None = None,
    ) -> None:  # fmt: skip
        self.class_names = folder.class_names
        self.fingerprint = folder.fingerprint()
        self.num_images = len(folder)
        self._folder = folder
        self._indices = evaluation_indices(len(folder), rank, world)
        self._batch_size = batch_size
        self._requests = _Requests()
        bad = CorruptImages(len(folder), on_bad, str(folder.root), evaluation=True)
        dataset = _BatchDataset(
            folder, bad, img_size=img_size, eval_resize=eval_resize, resize=resize, corruption=corruption
        )
        self._loader: DataLoader[Any] | None = _data_loader(dataset, self._requests, workers, pin_memory)

    def __iter__(self) -> Iterator[Batch]:
        return self._batches(self._indices)

    def evenly_spaced(self, images: int) -> Iterator[Batch]:
        """That many images at even distances over the whole dataset, whatever this rank's share."""
        return self._batches(evenly_spaced_indices(self.num_images, images))

    def _batches(self, indices: NDArray[np.int64]) -> Iterator[Batch]:
        if self._loader is None:
            raise ValueError("this loader is closed")
        self._requests.start = lambda: evaluation_requests(indices, self._batch_size)
        return iter(self._loader)

    def file_names(self) -> list[str]:
        """Name of the file of every image of the dataset, by index."""
        return [self._folder.path(index).name for index in range(self.num_images)]

    def close(self) -> None:
        """End the worker processes."""
        self._loader = None
