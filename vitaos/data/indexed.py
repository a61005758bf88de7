"""Images that are addressed by their number and lie in no class folders: tar archives and Hugging Face datasets.

Both give what :class:`vitaos.data.folder.files.ImageFolder` gives, so that order, crops, resumption and evaluation are
those of class folders.
"""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitaos.data.corrupt_images import CorruptImageError
from vitaos.data.fingerprint import fingerprint
from vitaos.data.folder.decode import decode_image
from vitaos.data.folder.files import ImageFolder
from vitaos.data.folder.scan import IMAGE_SUFFIXES
from vitaos.optional import require

Part = Literal["train", "val"]
_SAMPLED: Final = 2048
_SAMPLED_BYTES: Final = 4096
_SPLITS: Final[dict[Part, tuple[str, ...]]] = {"train": ("train",), "val": ("validation", "val", "valid", "test")}


class IndexedImages(ABC):
    """The images of one part of a dataset.

    Attributes:
        kind: ``tar`` or ``huggingface``.
        root: where it lies, for messages.
        class_names: in the order of the targets.
        names: of the images, in their order.
        targets: (N,) int64.
    """

    kind: str

    def __init__(
        self,
        root: Path,
        class_names: list[str],
        names: list[str],
        targets_N: NDArray[np.int64],
        order_N: NDArray[np.int64],
    ) -> None:
        self.root, self.class_names, self.names, self.targets = root, class_names, names, targets_N
        self._order = order_N  # where the reader holds each image

    def __len__(self) -> int:
        return len(self.targets)

    @abstractmethod
    def _encoded(self, place: int) -> bytes:
        """The file of the image at a place of the reader."""

    def encoded(self, index: int) -> bytes:
        """The file of an image as it is stored."""
        return self._encoded(int(self._order[index]))

    def keep(self, classes: list[int]) -> None:
        """Leave out the images of all classes but these, which are numbered anew in this order."""
        numbers = np.full(len(self.class_names), -1, dtype=np.int64)
        numbers[classes] = np.arange(len(classes))
        kept = np.flatnonzero(numbers[self.targets] >= 0)
        self.class_names = [self.class_names[index] for index in classes]
        self.names = [self.names[index] for index in kept]
        self.targets, self._order = numbers[self.targets[kept]], self._order[kept]

    def path(self, index: int) -> Path:
        """The name of an image as a path; its last part is the file's name."""
        return Path(self.names[index])

    def read(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            CorruptImageError: names the image that cannot be read or is damaged.
        """
        name = f"{self.names[index]} (image {index} of {self.root})"
        try:
            data = self.encoded(index)
        except (OSError, EOFError, ValueError) as error:
            raise CorruptImageError(f"{name} cannot be read: {error}.") from error
        return decode_image(data, name)

    def fingerprint(self) -> dict[str, Any]:
        """Identifies the data whatever its path: names, classes, and the beginnings of up to 2,048 images."""
        digest = hashlib.sha256()
        for index in np.linspace(0, len(self) - 1, min(len(self), _SAMPLED)).astype(np.int64).tolist():
            try:
                data = self.encoded(index)
            except (OSError, EOFError, ValueError):  # which decoding will complain about
                data = b""
            digest.update(b"%d:%b" % (len(data), data[:_SAMPLED_BYTES]))
        names = "\0".join(self.names).encode("utf-8", "surrogateescape")
        return fingerprint(self.kind, self.class_names, self.targets, names, sample=digest.hexdigest())


class TarImages(IndexedImages):
    """A tar archive of class folders, or a folder of archives, one a class (as ImageNet's training archive unpacks to);
    read by timm's reader, in place.

    Classes and images are in the order of class folders: by name.
    """

    kind = "tar"

    def __init__(self, root: Path) -> None:
        from timm.data.readers.reader_image_in_tar import ReaderImageInTar  # noqa: PLC0415  # slow to import

        logging.getLogger("timm.data.readers").setLevel(logging.WARNING)  # it tells each step of a scan
        try:
            # Archives stay closed between two reads: an open one that processes share has one position for all.
            with _all_suffixes():
                self._reader = ReaderImageInTar(str(root), cache_tarfiles=False)
        except (AssertionError, OSError, ValueError) as error:
            raise ValueError(f"{root} holds no images in tar archives: {error}") from error
        _check_one_folder_a_class(root, self._reader.samples)
        found = self._reader.class_idx_to_name
        class_names = sorted(found.values())
        places = {name: place for place, name in enumerate(class_names)}
        targets = np.array([places[found[index]] for index in self._reader.targets.tolist()], dtype=np.int64)
        names = [f"{archive or ''}/{member.name}".lstrip("/") for member, archive, _ in self._reader.samples]
        # timm's order depends on that of the folder's listing where archives hold files of the same name.
        order = np.array(sorted(range(len(names)), key=lambda index: (targets[index], names[index])))
        super().__init__(root, class_names, [names[index] for index in order], targets[order], order)

    def _encoded(self, place: int) -> bytes:
        with self._reader[place][0] as file:
            data: bytes = file.read()
        return data


@contextmanager
def _all_suffixes() -> Iterator[None]:
    """Let timm see the images that class folders hold, too, and not its own three suffixes alone."""
    from timm.data.readers import img_extensions  # noqa: PLC0415  # slow to import

    before = img_extensions.get_img_extensions()
    img_extensions.add_img_extensions(IMAGE_SUFFIXES)
    try:
        yield
    finally:
        img_extensions.set_img_extensions(before)


def _check_one_folder_a_class(root: Path, samples: Any) -> None:
    """Refuse folders of images within each other, or of one name at two places: timm's reader takes the innermost name
    for the class, so that one would be a class of its own, or two one.

    Raises:
        ValueError: naming two such folders.
    """
    folders: dict[tuple[str, str], set[str]] = {}
    for member, archive, inner in samples:
        holder = (archive or "", inner.name if inner is not None else "")
        folders.setdefault(holder, set()).add(str(PurePosixPath(member.path).parent))
    for inside in folders.values():
        by_name: dict[str, str] = {}
        for folder in sorted(inside):
            place = PurePosixPath(folder)
            parents = (str(parent) for parent in place.parents)
            other = by_name.get(place.name) or next((name for name in parents if name in inside), None)
            if other is not None:
                raise ValueError(
                    f"{root}: {other} and {folder} in an archive both hold images; expected one folder a class, with "
                    "its images directly in it (docs/data.md)"
                )
            by_name[place.name] = folder


class HuggingFaceImages(IndexedImages):
    """A part of a Hugging Face dataset in a local folder: what ``save_to_disk`` wrote, or Parquet, Arrow or image files
    that ``load_dataset`` reads. Nothing is downloaded.

    The images are in the dataset's own order; its one ``Image`` column and its one ``ClassLabel`` column are used
    (without one: a column ``label`` of whole numbers).
    """

    kind = "huggingface"

    def __init__(self, root: Path, part: Part, *, holds_both: bool = False) -> None:
        import datasets  # noqa: PLC0415  # optional, and takes a second to import

        data = _load(root, part, holds_both=holds_both)
        image, label = _columns(data, root)
        features = data.features[label]
        self._image = image
        self._data = data.cast_column(image, datasets.Image(decode=False))
        given = np.asarray(data[label][:], dtype=np.int64)
        if isinstance(features, datasets.ClassLabel):
            class_names, targets = [str(name) for name in features.names], given
        else:
            values, targets = np.unique(given, return_inverse=True)
            class_names = [str(value) for value in values.tolist()]
        if len(targets) == 0 or targets.min() < 0:
            raise ValueError(f"{root} ({part}): no image, or images without a label (-1)")
        names = [str(index) for index in range(len(targets))]
        super().__init__(root, class_names, names, targets.astype(np.int64), np.arange(len(targets)))

    def _encoded(self, place: int) -> bytes:
        found = self._data[place][self._image]
        if found["bytes"] is not None:
            data: bytes = found["bytes"]
            return data
        return Path(found["path"]).read_bytes()


Images = ImageFolder | IndexedImages
"""Images that Pillow decodes, wherever they lie."""


def open_indexed(kind: str, path: Path, part: Part, *, holds_both: bool = False, prepare: str = "") -> IndexedImages:
    """One part of a dataset.

    Args:
        kind: ``tar`` or ``huggingface``.
        path: the archive or folder of archives; the folder of the Hugging Face dataset.
        part: which split of a Hugging Face dataset: ``train``, or ``validation``, ``val``, ``valid`` or ``test``.
        holds_both: the path is to hold both parts: a Hugging Face dataset of one split must then say which it is.
        prepare: what to do when it is missing, added to the message.

    Raises:
        ValueError: nothing is there, or it is no such dataset.
    """
    if not path.exists():
        raise ValueError(f"data {path} does not exist. {prepare}".strip())
    return TarImages(path) if kind == "tar" else HuggingFaceImages(path, part, holds_both=holds_both)


def _load(root: Path, part: Part, *, holds_both: bool) -> Any:
    require("datasets", "data.kind=huggingface", extra="huggingface")
    import datasets  # noqa: PLC0415

    if not root.is_dir():
        raise ValueError(
            f"{root} is no folder: a Hugging Face dataset is read from one (save_to_disk, or Parquet files)"
        )
    saved = (root / "dataset_dict.json").exists() or (root / "state.json").exists()
    try:
        found = datasets.load_from_disk(str(root)) if saved else datasets.load_dataset(str(root))
    except Exception as error:  # whatever the library says of a folder that is none of its datasets
        raise ValueError(f"{root} is no Hugging Face dataset: {error}") from error
    if not isinstance(found, datasets.DatasetDict):
        if holds_both and str(found.split) not in _SPLITS[part]:
            raise ValueError(
                f"{root} holds one split ({found.split or 'without a name'}), and {part} images were looked for in it: "
                "name the folder of each part, data.train=DIR data.val=DIR"
            )
        return found
    split = next((name for name in _SPLITS[part] if name in found), None)
    if split is None:
        raise ValueError(f"{root} has the splits {', '.join(found)}; expected one of {', '.join(_SPLITS[part])}")
    return found[split]


def _columns(data: Any, root: Path) -> tuple[str, str]:
    import datasets  # noqa: PLC0415

    images = [name for name, kind in data.features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in data.features.items() if isinstance(kind, datasets.ClassLabel)]
    if not labels and str(getattr(data.features.get("label"), "dtype", "")).startswith(("int", "uint")):
        labels = ["label"]
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{root} has {len(images)} Image and {len(labels)} ClassLabel columns ({', '.join(data.features)}): "
            "expected one of each; remove or cast the others (datasets: remove_columns, cast_column)"
        )
    return images[0], labels[0]
