"""Prepare ImageNet-1k from its archives: ``python scripts/prepare_imagenet.py root=/data/imagenet``.

Put ``ILSVRC2012_img_train.tar``, ``ILSVRC2012_img_val.tar`` and ``ILSVRC2012_devkit_t12.tar.gz`` of image-net.org into
``root`` first. torchvision checks them and unpacks them into ``root/train/<class>/`` and ``root/val/<class>/``, which
``data=imagenet data.root=...`` reads. About 300 GB are needed while it runs; the archives may be deleted after.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from vitaos import cli
from vitaos.config import key

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


@dataclass
class PrepareConfig:
    """Where the archives lie and the class folders come."""

    root: str | None = key(None, "folder that holds the archives", is_path=True)


COMMAND = cli.Command("prepare_imagenet", PrepareConfig, __doc__)
if __name__ == "__main__":
    COMMAND.check()  # --help and mistakes are answered before torch is imported below

from torchvision.datasets import imagenet


def main(config: PrepareConfig) -> None:
    """Unpack what is not unpacked yet."""
    if config.root is None:
        raise ValueError("root=DIR is missing: the folder that holds the archives of image-net.org")
    root = Path(config.root)
    missing = [name for name in (*ARCHIVES.values(), DEVKIT) if not (root / name).is_file()]
    if missing:
        raise ValueError(f"{root} lacks {', '.join(missing)}: download them from image-net.org (an account is needed)")
    unpack(root)


def unpack(root: Path) -> None:
    """Check and unpack the archives of `root`; a part whose folder is there already is left alone.

    Raises:
        ValueError: an archive is damaged, or a part was left half unpacked.
    """
    try:
        imagenet.parse_devkit_archive(str(root))
        for part, parse in (("train", imagenet.parse_train_archive), ("val", imagenet.parse_val_archive)):
            folder = root / part
            if folder.exists():
                print(f"{folder} is there already; delete it to unpack it again")
                continue
            print(f"unpacking {ARCHIVES[part]} into {folder} (this takes a while) ...", flush=True)
            working = f".{part}.partial"
            shutil.rmtree(root / working, ignore_errors=True)
            try:
                parse(str(root), folder=working)
            except OSError as error:  # a full disk most often, on which the next thing needs room
                shutil.rmtree(root / working, ignore_errors=True)
                raise ValueError(
                    f"{root / working}: {error.strerror or error}; what was unpacked is removed"
                ) from error
            (root / working).rename(folder)
            print(f"{folder}: {sum(1 for _ in folder.iterdir())} classes")
    except RuntimeError as error:
        raise ValueError(f"an archive in {root} is damaged: {error}") from error


if __name__ == "__main__":
    COMMAND.run(main)
