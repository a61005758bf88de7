"""Lists of classes: which of a dataset's belong to it, by name, as ImageNet-100's among ImageNet's."""

import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from vitaos.data.indexed import Images, IndexedImages
from vitaos.suggest import did_you_mean

_HERE: Final = Path(__file__).parent / "class_lists"
_OF_TIMM: Final = (
    *("imagenet", "imagenet12k", "imagenet21k_miil", "imagenet21k_miil_w21", "imagenet22k", "mini_imagenet"),
    *("imagenet_a", "imagenet_r"),
)
"""Lists that timm ships."""


def read_classes(source: str) -> list[str]:
    """The names of a list of classes.

    Args:
        source: a list by its name (``vitaos/data/class_lists``, timm's), or a text file with a name a line.

    Raises:
        ValueError: there is no such list or file, or it names a class twice or none.
    """
    own = sorted(path.stem for path in _HERE.glob("*.txt"))
    if source in own:
        text = (_HERE / f"{source}.txt").read_text(encoding="utf-8")
    elif source in _OF_TIMM:
        content = pkgutil.get_data("timm.data", f"_info/{source}_synsets.txt")
        assert content is not None
        text = content.decode()
    elif Path(source).is_file():
        text = Path(source).read_text(encoding="utf-8", errors="surrogateescape")
    else:
        known = [*own, *_OF_TIMM]
        raise ValueError(
            f"data.classes={source}: no such file and no such list{did_you_mean(source, known)} Lists: "
            f"{', '.join(known)}"
        )
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"data.classes={source}: expected each class once, a name a line; found {len(names)} lines")
    return names


def keep_classes(images: Images, wanted: Sequence[str]) -> Images:
    """The images of these classes alone, in the order that the dataset has.

    Raises:
        ValueError: the dataset lacks some of them.
    """
    check_present(images.class_names, wanted, images.root)
    chosen = set(wanted)
    kept = [index for index, name in enumerate(images.class_names) if name in chosen]
    if len(kept) == len(images.class_names):
        return images
    if isinstance(images, IndexedImages):
        images.keep(kept)
        return images
    numbers = np.full(len(images.class_names), -1, dtype=np.int64)
    numbers[kept] = np.arange(len(kept))
    mask = numbers[images.targets] >= 0
    names = [images.class_names[index] for index in kept]
    return replace(images, class_names=names, files=images.files[mask], targets=numbers[images.targets[mask]])


def check_present(found: Sequence[str], wanted: Sequence[str], where: str | Path) -> None:
    """Refuse data that lacks classes of a list, naming some."""
    missing = sorted(set(wanted) - set(found))
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise ValueError(
            f"{where} has {len(found)} classes and lacks {len(missing)} of the {len(wanted)} of data.classes: "
            f"{', '.join(missing[:5])}{more}"
        )
