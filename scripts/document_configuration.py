"""Write docs/configuration.md from what the keys say of themselves: ``python scripts/document_configuration.py``."""

import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.prepare_imagenet import PrepareConfig
from scripts.report import ReportConfig
from scripts.write_ffcv import WriteConfig
from vitaos import overrides
from vitaos.assembly.schemas import ANALYZE_SCHEMA, EVAL_SCHEMA, EXPORT_SCHEMA, TRAIN_SCHEMA
from vitaos.command_help import describe_values, plain
from vitaos.config import LOCAL, PER_START, declared_fields, section_of

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
COMMANDS: Final[dict[str, tuple[str, type[Any]]]] = {
    "train": ("train.py", TRAIN_SCHEMA),
    "eval": ("eval.py", EVAL_SCHEMA),
    "analyze": ("scripts/analyze.py", ANALYZE_SCHEMA),
    "export": ("scripts/export.py", EXPORT_SCHEMA),
    "report": ("scripts/report.py", ReportConfig),
    "write_ffcv": ("scripts/write_ffcv.py", WriteConfig),
    "prepare_imagenet": ("scripts/prepare_imagenet.py", PrepareConfig),
}
HEAD: Final = """# Configuration

Written by `python scripts/document_configuration.py` from what the keys say of themselves in `vitaos/config/`; a test
holds it current.

Every key is set as `key=value`, in any order: `python train.py model=deit_s24 attnscale=true recipe.lr=1e-3`. `--help`
shows the same with the values that a command line stands for, `--cfg job` prints the whole configuration, `-m key=a,b`
runs each value. A group (`model=deit_s24`) chooses a file of `configs/`, or of your own `configs/` or `--config-dir
DIR`; of recipe, model and data the later one may bring the earlier ones' defaults, which the command line overrides.
Numbers are finite; `~` in a path is the home folder; `null` is no value.

"Part of the run" says whether the key belongs to what a run is: "yes", and another value is another run with another
name; "may change" and "no", and it may be another when the run goes on. Runs that differ in a "no" are still compared.
"""
RUN_PART: Final = {None: "yes", PER_START: "may change", LOCAL: "no"}


def text() -> str:
    """The whole document."""
    sections: dict[str, type[Any]] = {}
    parts = [HEAD]
    for name, (path, schema) in COMMANDS.items():
        parts.append("\n".join([f"## {path}", "", *_groups(name), *_table(schema, "", is_run=name == "train")]))
        if name == "train":
            for key, kind in declared_fields(schema):
                if section := section_of(kind):
                    sections[key.name] = section
                    title = f"### {key.name}: {key.metadata['help']}"
                    is_run = key.metadata.get("mark") is None
                    parts.append("\n".join([title, "", *_table(section, f"{key.name}.", is_run=is_run)]))
        elif inner := [f"`{key.name}`" for key, kind in declared_fields(schema) if section_of(kind)]:
            parts.append(f"{', '.join(inner)}: the keys of the sections above.")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _groups(name: str) -> Iterator[str]:
    groups = overrides.groups_of(name)
    if groups:
        yield from ("| group | choices |", "|---|---|")
        yield from (f"| `{group}` | {', '.join(overrides.own_choices_of(group))} |" for group in groups)
        yield ""


def _table(schema: type[Any], prefix: str, *, is_run: bool) -> Iterator[str]:
    extra = " part of the run |" if is_run else ""
    yield f"| key | default | values | meaning |{extra}"
    yield f"|---|---|---|---|{'---|' if is_run else ''}"
    for key, kind in declared_fields(schema):
        if section_of(kind):
            continue
        cells = [f"`{prefix}{key.name}`", f"`{plain(_default(key))}`", _values(key, kind)]
        cells.append(key.metadata.get("help", ""))
        if is_run:
            cells.append(RUN_PART[key.metadata.get("mark")])
        yield f"| {' | '.join(cell.replace(' | ', ', ').replace('|', chr(92) + '|') for cell in cells)} |"


def _default(key: Field[Any]) -> Any:
    return key.default if key.default_factory is MISSING else key.default_factory()


def _values(key: Field[Any], kind: Any) -> str:
    if key.metadata.get("technique"):
        return "true, false, mapping of options"
    return describe_values(key) or _kind(kind)


def _kind(kind: Any) -> str:
    """The type of a key without a range, in a word."""
    words = {"dict": "mapping", "list": "list", "bool": "true, false", "float": "number", "int": "whole number"}
    name = kind.__name__ if kind is bool or kind is float or kind is int else str(kind)
    return next((said for word, said in words.items() if word in name), "text" if "str" in name else "any")


if __name__ == "__main__":
    DOCUMENT.write_text(text(), encoding="utf-8")
    print(DOCUMENT)
