"""ImageNet and its relatives: which answers of a model count on V2, A, R and Sketch, and the reassessed labels."""

import json
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SUBSETS: Final = {"a": "imagenet_a", "r": "imagenet_r"}  # the 200 classes of each, as timm ships them

_LAYOUTS: Final = {
    "v2": "imagenetv2-matched-frequency-format-val, with the folders 0 to 999",
    "a": "imagenet-a, with its 200 folders n01498041, ...",
    "r": "imagenet-r, with its 200 folders n01443537, ...",
    "sketch": "sketch, with its 1,000 folders n01440764, ...",
    "c": "gaussian_noise/1/n01440764/*.JPEG, ...; all 15 corruptions at 5 severities",
}


@dataclass(frozen=True)
class Classes:
    """How the model's answers meet the classes of the images.

    Attributes:
        answers: classes that the model knows.
        classes: classes of the images.
        indices: which answers belong to the classes of the images, in their order; None for all, in the same order.
    """

    answers: int
    classes: int
    indices: list[int] | None


def match_classes(dataset: str, known: list[str] | None, names: Sequence[str], checkpoint: Path) -> Classes:
    """Which answers of the model belong to which class of the images.

    Args:
        dataset: ``val``, ``real``, ``v2``, ``a``, ``r``, ``sketch`` or ``c`` (one of its folders).
        known: what the model's answers mean, in their order; None where the checkpoint does not hold them (for
            ImageNet's relatives that is taken to be ImageNet's order).
        names: the images' class folders, in the order of their labels.
        checkpoint: named in complaints.

    Raises:
        ValueError: the images are of classes that the model does not know.
    """
    if dataset in {"val", "real", "c"}:
        if known is not None and list(names) != known:
            raise ValueError(_describe_mismatch(checkpoint, known, names))
        return Classes(len(names), len(names), None)
    known = known or _synsets("imagenet")
    if dataset == "v2" and all(name.isdigit() for name in names):
        names = _by_number(names)
        if len(known) == len(names) and not set(known) & set(names):
            known = _synsets("imagenet")  # named otherwise, as in words
        elif set(known) != set(names):
            raise ValueError(f"dataset=v2: {checkpoint} does not answer ImageNet's 1,000 classes")
    expected = _synsets(_SUBSETS[dataset]) if dataset in _SUBSETS else known
    if sorted(names) != sorted(expected):
        raise ValueError(
            f"dataset={dataset}: expected its {len(expected)} classes, found {len(names)} class folders"
            f"{_some(set(names) - set(expected), ', among them unknown ')}"
        )
    if strange := set(names) - set(known):
        raise ValueError(f"dataset={dataset}: {checkpoint} does not answer its classes{_some(strange, ': ')}, ...")
    places = {name: index for index, name in enumerate(known)}
    return Classes(len(known), len(names), [places[name] for name in names])


def _by_number(names: Sequence[str]) -> list[str]:
    """The WordNet numbers of ImageNetV2's folders 0 to 999, which count in ImageNet's order."""
    order, numbers = _synsets("imagenet"), [int(name) for name in names]
    if sorted(numbers) != list(range(len(order))):
        missing, strange = set(range(len(order))) - set(numbers), set(numbers) - set(range(len(order)))
        raise ValueError(
            f"dataset=v2: expected the folders 0 to {len(order) - 1}, found {len(names)}"
            f"{_some(missing, ', without ')}{_some(strange, ', among them ')}"
        )
    return [order[number] for number in numbers]


def layout(dataset: str) -> str | None:
    """What to do where the images of one of ImageNet's relatives are not found; None for ImageNet's own."""
    if dataset not in _LAYOUTS:
        return None
    return (
        f"dataset={dataset} reads the folder of class folders that its archive unpacks to ({_LAYOUTS[dataset]}): give "
        "its path as data=imagenet data.val=FOLDER"
    )


def real_labels(names: list[str] | None, path: str | None = None) -> list[list[int]]:
    """The reassessed labels ("ReaL", Beyer et al. 2020) of each image, by its file name.

    Args:
        names: file names of the images by dataset index; None where the data does not keep them.
        path: the labels' JSON file; by default the one that timm ships.

    Raises:
        ValueError: the names are not known, or not those of ImageNet's validation images.
    """
    if names is None:
        raise ValueError("dataset=real needs the names of the image files, which FFCV files lack: use data=imagenet")
    text = Path(path).read_text(encoding="utf-8") if path else _shipped("imagenet_real_labels.json")
    labels = {f"ILSVRC2012_val_{index + 1:08d}": accepted for index, accepted in enumerate(json.loads(text))}
    stems = [Path(name).stem for name in names]
    unknown = [stem for stem in stems if stem not in labels]
    if unknown:
        raise ValueError(
            f"dataset=real needs the file names of ImageNet's validation images (ILSVRC2012_val_00000001 ...), "
            f"but {len(unknown)} of {len(stems)} are others{_some(unknown, ': ')}"
        )
    return [labels[stem] for stem in stems]


def _describe_mismatch(path: Path, known: Sequence[str], names: Sequence[str]) -> str:
    if len(known) != len(names):
        return (
            f"{path} was trained on {len(known)} classes, the images are of {len(names)}: evaluate on its own data, or "
            "fine-tune it on these (train.py init=FILE)"
        )
    different = [f"{one!r} / {other!r}" for one, other in zip(known, names, strict=True) if one != other]
    return f"{path} and the images have other class names ({different[0]}, {len(different)} in all)"


def _some(names: Any, lead: str) -> str:
    few = sorted(names)[:3]
    return lead + ", ".join(map(str, few)) if few else ""


def _synsets(which: str) -> list[str]:
    return _shipped(f"{which}_synsets.txt").split()


def _shipped(name: str) -> str:
    """A file of timm's about ImageNet."""
    content = pkgutil.get_data("timm.data", f"_info/{name}")
    assert content is not None
    return content.decode("utf-8")
