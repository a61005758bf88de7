"""What others read the same photographs with, decode + crop + flip: FFCV's own Loader, torchvision, Pillow."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2


@dataclass(frozen=True)
class Images:
    """A batch of them, uint8 (B, 3, S, S), and their classes (B,)."""

    images: Tensor
    targets: Tensor


class _Loader:
    """Batches of images and classes of `loader`, whose threads or processes end with each pass."""

    def __init__(self, loader: Any, batch_size: int) -> None:
        self._loader = loader
        self.images_per_epoch = len(loader) * batch_size

    def epoch(self, _: int) -> Iterator[Images]:
        """One pass over all of them."""
        for images, targets in self._loader:
            yield Images(images, targets)

    def close(self) -> None:
        """Nothing is left to be closed."""


class FfcvOwnLoader(_Loader):
    """``ffcv.loader.Loader`` with FFCV's random crop (area) and flip; numba compiles for it once, here."""

    def __init__(self, path: Path, *, batch_size: int, img_size: int, workers: int) -> None:
        from ffcv.fields.basics import IntDecoder  # noqa: PLC0415 - seconds
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder  # noqa: PLC0415
        from ffcv.loader import Loader, OrderOption  # noqa: PLC0415
        from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage  # noqa: PLC0415

        decoder = RandomResizedCropRGBImageDecoder((img_size, img_size))
        pipelines = {
            "image": [decoder, RandomHorizontalFlip(), ToTensor(), ToTorchImage()],
            "label": [IntDecoder(), ToTensor(), Squeeze()],
        }
        loader = Loader(
            str(path), batch_size=batch_size, num_workers=workers, order=OrderOption.RANDOM, drop_last=True,
            pipelines=pipelines,
        )  # fmt: skip
        super().__init__(loader, batch_size)
        for _ in self.epoch(0):  # compiles
            pass


class TorchvisionLoader(_Loader):
    """``ImageFolder`` in worker processes, ``decode_image`` and transforms on tensors (antialiased)."""

    def __init__(self, root: Path, *, batch_size: int, img_size: int, workers: int) -> None:
        crop = v2.Compose([v2.RandomResizedCrop(img_size, antialias=True), v2.RandomHorizontalFlip()])
        data = ImageFolder(str(root), crop, loader=_read)
        loader: Any = DataLoader(data, batch_size, shuffle=True, num_workers=workers, drop_last=True)
        super().__init__(loader, batch_size)


def _read(path: str) -> Any:
    return decode_image(path, mode=ImageReadMode.RGB)
