"""The two parts of a dataset: where they lie, and whether they belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vitaos.data.folder.digits import prepare_digits

Kind = Literal["folder", "ffcv", "digits", "tar", "huggingface"]
KINDS: Final = ("folder", "ffcv", "digits", "tar", "huggingface")
Engine = Literal["ffcv", "folder", "tar", "huggingface"]
ENGINES: Final = ("ffcv", "folder")


@dataclass(frozen=True)
class DataSource:
    """Where the images of a run are.

    Attributes:
        kind: ``tar`` and ``huggingface`` (:mod:`vitaos.data.indexed`), ``folder`` (class folders of images),
            ``ffcv`` (betons written by ``scripts/write_ffcv.py``) or
            ``digits`` (the embedded dataset, written below ``root`` when first used).
        root: folder: holds ``train/`` and ``val/`` (or ``test/``); ffcv: holds ``train.beton`` and ``val.beton``;
            digits: where to write (default: ``~/.cache/vitaos``).
        train, val: either part elsewhere than below ``root``.
        loader: for digits, through which loader.
        prepare: added to the message when data is missing: how to get it.
        classes: the classes that count, all of which must be there; None for all that there are.

    Raises:
        ValueError: an unknown kind or loader.
    """

    kind: Kind
    root: str | Path | None = None
    train: str | Path | None = None
    val: str | Path | None = None
    loader: Engine = "ffcv"
    prepare: str = ""
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_choice("loader", self.loader, ENGINES)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError with the choices unless ``value`` is one of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def resolve_paths(source: DataSource, *, need_train: bool) -> tuple[Path | None, Path, Engine]:
    """Where the parts lie and which engine reads them; writes the digits when they are asked for.

    Args:
        source: where to look.
        need_train: whether the training part must be found too.

    Returns:
        the training part (None where nothing names one), the validation part, and which engine reads them.

    Raises:
        ValueError: nothing names the place of the data.
    """
    root, engine = source.root, source.loader
    if source.kind == "digits":
        root = prepare_digits(root)
        if engine == "ffcv":
            from vitaos.data.ffcv.writer import prepare_digit_betons  # noqa: PLC0415  # FFCV is optional

            root = prepare_digit_betons(root)
    else:
        engine = source.kind
    train, val = (Path(path) if path is not None else None for path in (source.train, source.val))
    if (val is None or (need_train and train is None)) and root is None:
        raise ValueError(
            "where is the data? Give data.root=FOLDER (or the paths of both parts)"
            + (f". {source.prepare}" if source.prepare else "")
        )
    if root is not None:
        root = Path(root)
        if engine == "huggingface":  # one folder holds all splits
            return (root if train is None else train), (root if val is None else val), engine
        suffix = {"ffcv": ".beton", "tar": ".tar"}.get(engine, "")
        if engine == "tar" and not (root / "train.tar").exists() and not (root / "val.tar").exists():
            suffix = ""  # folders of archives
        train = train if train is not None else root / f"train{suffix}"
        if val is None:
            val = root / f"val{suffix}"
            if not val.exists() and (root / f"test{suffix}").exists():
                val = root / f"test{suffix}"
    assert val is not None
    return train, val, engine


def check_classes(
    train_names: list[str], val_names: list[str], expected: int | None, train_path: Path, val_path: Path
) -> None:
    """The classes of both parts must be the same list, and as many as expected.

    Raises:
        ValueError: names the classes that differ.
    """
    if expected is not None and len(train_names) != expected:
        raise ValueError(f"{train_path} holds {len(train_names)} classes, but this data must have {expected}")
    if train_names != val_names:
        only_train = sorted(set(train_names) - set(val_names))[:5]
        only_val = sorted(set(val_names) - set(train_names))[:5]
        raise ValueError(
            f"the classes of {train_path} ({len(train_names)}) and {val_path} ({len(val_names)}) differ: "
            f"only in the first: {only_train}; only in the second: {only_val}"
        )
