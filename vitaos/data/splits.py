"""The two parts of a dataset: where they lie, and whether they belong together."""

from pathlib import Path
from typing import Literal

from vitaos.data.folder.digits import prepare_digits


def resolve_paths(
    kind: str, loader: Literal["ffcv", "folder"], root: str | Path | None, train_path: str | Path | None,
    val_path: str | Path | None, *, need_train: bool, prepare: str,
) -> tuple[Path | None, Path, Literal["ffcv", "folder"]]:  # fmt: skip
    """Where the parts lie and which engine reads them; writes the digits when they are asked for.

    Args:
        kind, loader, root, train_path, val_path, prepare: as :func:`vitaos.data.build_loaders` has them.
        need_train: whether the training part must be found too.

    Returns:
        the training part (None where nothing says), the validation part, and ``ffcv`` or ``folder``.

    Raises:
        ValueError: nothing says where the data is.
    """
    if kind == "digits":
        engine = loader
        root = prepare_digits(root if root is not None else Path.home() / ".cache" / "vitaos")
        if engine == "ffcv":
            from vitaos.data.ffcv.writer import prepare_digit_betons  # noqa: PLC0415  # FFCV is optional

            root = prepare_digit_betons(root)
    else:
        engine = "ffcv" if kind == "ffcv" else "folder"
    train, val = (Path(path) if path is not None else None for path in (train_path, val_path))
    if (val is None or (need_train and train is None)) and root is None:
        raise ValueError(
            "where is the data? Give data.root=FOLDER (or the paths of both parts)"
            + (f". {prepare}" if prepare else "")
        )
    if root is not None:
        root = Path(root)
        suffix = ".beton" if engine == "ffcv" else ""
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
