"""Every key with a dozen bad values: refused with the key's name, or sensible; never a trace. Nothing is trained."""

import math
from collections.abc import Iterator
from dataclasses import Field, field, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from vitaos import cli, config_check
from vitaos.assembly.possible import check_possible
from vitaos.assembly.schemas import ANALYZE_SCHEMA, EVAL_SCHEMA, EXPORT_SCHEMA, TRAIN_SCHEMA
from vitaos.config import ConfigError, DataConfig, declared_fields, section_of

COMMANDS = {"train": TRAIN_SCHEMA, "eval": EVAL_SCHEMA, "analyze": ANALYZE_SCHEMA, "export": EXPORT_SCHEMA}
ENDLESS = ("lr", "warmup_lr")  # a rate may be absurd: what it does (steps of NaN) is reported as that
NEVER_A_NUMBER = [math.nan, math.inf, -math.inf, 10**20, -(10**20)]
BAD = [*NEVER_A_NUMBER, -1, 0, 1e300, "abc", "", "~", [], [math.nan], [1, 2, 3, math.inf], {"a": math.nan}, {}, None]


def leaves(schema: type[Any]) -> Iterator[tuple[Field[Any], Any]]:
    """The declaration and type of each key that holds a value, those within sections included."""
    for declared, kind in declared_fields(schema):
        section = section_of(kind)
        if section:
            yield from leaves(section)
        else:
            yield declared, kind


def configuration_of_one_key(declared: Field[Any], kind: Any) -> type[Any]:
    """A configuration that has this key alone: checked as any other, a hundred times as fast."""
    made = field(default=declared.default, default_factory=declared.default_factory, metadata=declared.metadata)  # type: ignore[call-overload]
    return make_dataclass("OneKey", [(declared.name, kind, made)])


def check_one(key: str, value: Any, schema: type[Any]) -> tuple[str | None, Any]:
    """Why a value is refused, or what it becomes."""
    try:
        return None, getattr(config_check.check(OmegaConf.create({key: value}), schema), key)
    except ConfigError as refusal:
        return str(refusal), None


@pytest.mark.parametrize("command", COMMANDS)
def test_every_bad_value_is_refused_by_name_or_sensible(command: str) -> None:
    for declared, kind in leaves(COMMANDS[command]):
        key, schema = declared.name, configuration_of_one_key(declared, kind)
        bounds, choices = declared.metadata.get("bounds"), declared.metadata.get("choices")
        for value in BAD:
            refusal, checked = check_one(key, value, schema)
            if refusal is not None:
                assert key in refusal, f"{key}={value}: {refusal}"
                continue
            assert not choices or checked in choices, f"{key}={value}"
            numbers = [item for item in (checked if isinstance(checked, list) else [checked]) if item is not None]
            assert bounds is None or all(bounds.hold(number) for number in numbers), f"{key}={value}"
            if not isinstance(value, (list, dict)) and value in NEVER_A_NUMBER and key not in ENDLESS:
                assert isinstance(checked, str), f"{key}={value} is accepted"


@pytest.mark.parametrize("command", ["eval", "analyze", "export"])
@pytest.mark.parametrize(("key", "value"), [("std", [-1.0, 1.0, 1.0]), ("mean", [0.5, math.inf, 0.5]), ("mean", [0.5])])
def test_mean_and_std_are_checked_by_every_command(command: str, key: str, value: list[float]) -> None:
    data = OmegaConf.structured(DataConfig(**{key: value}))  # type: ignore[arg-type]  # a list, whichever key
    with pytest.raises(ConfigError, match=rf"^data\.{key}=.*(each of its numbers must be|must be 3 numbers)"):
        config_check.check(OmegaConf.create({"data": data}), COMMANDS[command])


def compose(*words: str) -> Any:
    return cli.compose(["data=digits", "depth=1", *words], config_name="train", schema=TRAIN_SCHEMA)


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("recipe=null", "recipe=null: expected a choice for recipe; valid: cait_finetune"),
        ("recipe=[1]", "no recipe/1"),
        ("compile=-1", "compile=-1: not a valid choice; valid: auto, true, false, default"),
        ("compile=max_autotune", "compile=max_autotune: not a valid choice"),
        ("compile=max-autotune deterministic=true", "compile=max-autotune with deterministic=true"),
        ("attnscale=-1", "attnscale=-1"),
        ("contranorm={scale: nan}", "contranorm.scale=nan"),
        ("data.root=${oc.env:NOT_SET_ANYWHERE}", "data.root=${oc.env:NOT_SET_ANYWHERE}: Environment variable"),
        ("data.workers=100000000000000000000", "data.workers=1"),
        ("recipe.lr=0", "recipe.lr=0"),
        ("recipe.img_size_schedule=[0,16]", "recipe.img_size_schedule=[0,16]: expected a list of lists, as [[A,B]"),
        ("recipe.lr=fast", "recipe.lr=fast: expected a number"),
        ("recipe.decay_milestones=3", "recipe.decay_milestones: expected a list, as recipe.decay_milestones=[A,B]"),
        ("recipe.lr_scale=3", 'recipe.lr_scale: expected names with values, as "recipe.lr_scale={NAME: VALUE'),
        ("data.roots={val:", 'the shell ended this word at a space; quote the whole of it: "data.roots={val:...}"'),
        ("recipe.loss=bcee", "recipe.loss=bcee: not a valid choice; did you mean bce? Valid: cross_entropy, bce, jsd"),
        ("workers=2", "workers: unknown key; did you mean data.workers? Valid: accumulate"),
        ("recipe.checkpoint_gradients=true", "unknown key; did you mean checkpoint_gradients? Valid: auto_augment"),
        ("optimizer.lr=1", "optimizer.lr: unknown key; did you mean recipe.lr? Valid: betas"),
        ("recipe.warmup_epochs=3 epochs=3", "recipe.warmup_epochs=3"),
        ("recipe.warmup_epochs=14", "recipe.warmup_epochs=14"),
        ("out=", "out="),
        ("nokey", "nokey: expected key=value"),
        ("logger.tags={", "needs quotes around it"),
        ("optimizer.keywords.lr=1", "recipe.lr"),
    ],
)
def test_a_bad_word_is_refused_by_name(word: str, part: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        compose(*(word.split() if " epochs" in word or " deterministic" in word else [word]))
    assert part in str(refusal.value)


@pytest.fixture(scope="module")
def small() -> Any:
    return compose()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 0) for key in ("embed_dim", "num_heads", "patch_size")),
        ("in_chans", 1),
        ("num_heads", "abc"),
        ("depth", 3),
    ],
)
def test_what_makes_no_model_is_refused_by_name(small: Any, key: str, value: Any) -> None:
    model = replace(small.model, keywords={**small.model.keywords, key: value})
    with pytest.raises(ValueError, match=rf"model\.keywords\.{key}={value}"):
        check_possible(replace(small, model=model))


def test_what_makes_no_run_is_refused_by_name(small: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.img_size=1 cannot be had"):
        check_possible(replace(small, data=replace(small.data, img_size=1)))
    with pytest.raises(ValueError, match=r"optimizer=adamw with optimizer\.keywords=\{'nope': 1\} cannot be built"):
        check_possible(replace(small, optimizer=replace(small.optimizer, keywords={"nope": 1})))
    with pytest.raises(ValueError, match="randaugment='much'"):
        check_possible(replace(small, recipe=replace(small.recipe, randaugment="much")))


@pytest.mark.parametrize("value", ["~/x", "a#b", "größe", "a=b", "x (1)"])
def test_paths_need_no_quotes_of_their_own(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert compose(f"out={value}").out == value.replace("~", "/home/me")


def test_a_short_try_of_a_recipe_is_no_mistake() -> None:
    """epochs=1 of a recipe with a longer warm-up is how things are tried out; a warm-up that was asked for is none."""
    assert compose("epochs=1").recipe.warmup_epochs == 2
    assert compose("experiment=null").epochs == 14


def test_what_the_system_says_of_a_path_names_its_key(small: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = replace(small, data=replace(small.data, root="/dev/null"))

    def make_a_folder(config: Any) -> None:
        (Path(config.data.root) / "digits").mkdir()

    assert cli.run_and_report(make_a_folder, lambda: config) == cli.USER_ERROR
    assert "error: data.root=/dev/null: /dev/null/digits: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "word", "key", "value"),
    [
        ("train", "name=2026_11_27", "name", "2026_11_27"),
        ("train", "name=1e3", "name", "1e3"),
        ("train", "name=true", "name", "true"),
        ("train", "out=1_000", "out", "1_000"),
        ("train", "recipe.name=0x10", "recipe.name", "0x10"),
        ("eval", "checkpoint=2026_11_27", "checkpoint", "2026_11_27"),
        ("eval", "data.roots.v2=2026_1", "data.roots", {"v2": "2026_1"}),
    ],
)
def test_text_that_looks_like_a_number_stays_as_it_is(command: str, word: str, key: str, value: Any) -> None:
    config: Any = cli.compose([word], config_name=command, schema=COMMANDS[command])
    for part in key.split("."):
        config = getattr(config, part)
    assert config == value


def test_what_is_no_path_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"data\.roots\.val=\['/tmp'\]: expected text"):
        cli.compose(["data=imagenet", "data.roots={val: [/tmp]}"], config_name="eval", schema=EVAL_SCHEMA)
    with pytest.raises(ConfigError, match=r"checkpoint=\{'a': 1\}: expected a file or folder"):
        cli.compose(["checkpoint={a: 1}"], config_name="analyze", schema=ANALYZE_SCHEMA)
