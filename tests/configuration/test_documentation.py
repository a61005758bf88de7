"""Every key explains itself, in --help and in docs/configuration.md."""

from dataclasses import is_dataclass

import pytest

from scripts import document_configuration as document
from vitaos import cli, overrides
from vitaos.assembly.schemas import EVAL_SCHEMA
from vitaos.command_help import help_text
from vitaos.config import declared_fields, section_of


@pytest.mark.parametrize("command", document.COMMANDS)
def test_every_key_says_what_it_means(command: str) -> None:
    schema = document.COMMANDS[command][1]
    for key, kind in declared_fields(schema):
        assert key.metadata.get("help"), key.name
        for inner, _ in declared_fields(section_of(kind)) if section_of(kind) else ():  # type: ignore[arg-type]
            assert inner.metadata.get("help"), f"{key.name}.{inner.name}"


def test_the_document_is_what_the_keys_declare() -> None:
    assert document.DOCUMENT.read_text(encoding="utf-8") == document.text(), f"run python {document.__file__}"


def test_help_lists_the_groups_of_its_command_and_ranges() -> None:
    config = cli.compose(["data=digits"], config_name="eval", schema=EVAL_SCHEMA)
    assert is_dataclass(config)
    shown = help_text("Evaluate.", "eval", EVAL_SCHEMA, config)
    groups = shown.partition("Groups")[2].partition("Keys and their values")[0]
    listed = {line.split()[0] for line in groups.splitlines() if line.startswith("  ") and not line.startswith("   ")}
    assert listed == set(overrides.groups_of("eval")) == {"recipe", "model", "data"}
    assert "eval_crop" in shown
    assert "(val | real | v2 | a | r | sketch | c)" in " ".join(shown.split())
    assert "data.img_size: 32" in shown
