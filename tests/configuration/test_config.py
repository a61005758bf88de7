"""The configuration: every file composes, what cannot run is refused with the key and what would be right."""

import dataclasses
from pathlib import Path

import pytest

from vitaos import cli, overrides
from vitaos.assembly.fingerprint import check_same_run, run_name, to_dict
from vitaos.assembly.schemas import EVAL_SCHEMA, TRAIN_SCHEMA
from vitaos.assembly.stored_config import restore
from vitaos.config import ConfigError, RecipeConfig, enabled_techniques
from vitaos.root import CONFIGS


def compose(*overrides: str) -> object:
    return cli.compose(overrides, config_name="train", schema=TRAIN_SCHEMA)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "override",
    [f"{group}={name}" for group in ("model", "data", "recipe", "optimizer", "logger") for name in choices(group)],
)
def test_every_choice_composes(override: str) -> None:
    overrides = [override, "model.name=deit_ti12"] if override == "model=timm" else [override]
    assert dataclasses.is_dataclass(compose(*overrides))


@pytest.mark.parametrize("name", choices("experiment"))
def test_every_experiment_composes_and_says_its_command(name: str) -> None:
    assert dataclasses.is_dataclass(compose(f"experiment={name}"))
    head = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    assert f"experiment={name}" in head.split("defaults:")[0]


@pytest.mark.parametrize("backbone", ["deit_s12", "deit_s24", "deit_b12", "deit_b24", "cait_s24", "swin_s"])
@pytest.mark.parametrize("technique", [None, "attnscale", "featscale"])
def test_each_row_of_the_paper_has_an_experiment(backbone: str, technique: str | None) -> None:
    config = compose(f"experiment={backbone}" + (f"_{technique}" if technique else ""))
    assert config.model.name == backbone
    assert list(enabled_techniques(config)) == ([technique] if technique else [])
    assert config.data.num_classes == 1000


def test_a_name_stays_within_the_folder_of_runs() -> None:
    assert run_name(compose("name=study/first"), 1) == "study/first"
    for name in ("../first", "/runs/first", "."):
        with pytest.raises(ConfigError, match=r"within out=runs; another place is out=DIR"):
            run_name(compose(f"name={name}"), 1)


def test_a_name_of_timms_registry_means_backbone_and_technique() -> None:
    config = compose("model=deit_s24_attnscale")
    assert (config.model.name, config.attnscale, config.recipe.name) == ("deit_s24", True, "deit_24")


def test_betas_are_the_optimizers_own_unless_given() -> None:
    adamw, named, file, given = (
        compose(*overrides).optimizer
        for overrides in ([], ["optimizer.name=adan"], ["optimizer=lion"], ["optimizer.betas=[0.9,0.95]"])
    )
    assert (adamw.betas, adamw.eps) == ([0.9, 0.999], 1e-8)
    assert (named.betas, named.eps) == (None, None)
    assert file.betas == [0.9, 0.99]
    assert given.betas == [0.9, 0.95]


@pytest.mark.parametrize(("model", "rate"), [("swin_t", 0.2), ("swin_s", 0.3), ("swin_b", 0.5)])
def test_each_swin_has_its_own_drop_path(model: str, rate: float) -> None:
    config = compose(f"model={model}")
    assert (config.recipe.name, config.recipe.drop_path) == (("swin" if model == "swin_s" else model), rate)


def test_a_technique_without_options_is_on() -> None:
    config = compose("contranorm={}")
    assert enabled_techniques(config) == {"contranorm": {}}
    assert "contranorm" in run_name(config, 1)


def test_the_literal_command_gives_the_recipe_of_its_depth() -> None:
    config = compose("model=deit_s24", "attnscale=true")
    assert (config.model.name, config.attnscale, config.featscale) == ("deit_s24", True, False)
    assert (config.recipe.name, config.epochs, config.batch_size) == ("deit_24", 300, 256)
    assert (config.recipe.pos_drop, config.recipe.proj_drop) == (0.2, 0.2)


# The four columns of the release's recipes, as its command lines and defaults have them.
SHARED = {
    **{"randaugment": "rand-m9-mstd0.5-inc1", "mixup": 0.8, "cutmix": 1.0, "mix_switch": 0.5, "smoothing": 0.1},
    **{"erasing": 0.25, "hflip": 0.5, "crop_scale": [0.08, 1.0], "schedule": "release", "lr_reference_batch": 512},
}
DEIT = {
    **{"lr": 5e-4, "weight_decay": 0.05, "epochs": 300, "warmup_epochs": 5, "warmup_lr": 1e-6, "min_lr": 1e-5},
    **{
        "schedule_unit": "epoch",
        "drop_path": 0.1,
        "clip": None,
        "repeats": 3,
        "ema_decay": 0.99996,
        "eval_crop": 0.875,
    },
}
RECIPES = {
    "deit_12": DEIT | {"batch_size": 512, "pos_drop": 0.0, "proj_drop": 0.0},
    "deit_24": DEIT | {"batch_size": 256, "pos_drop": 0.2, "proj_drop": 0.2},
    "cait_finetune": DEIT
    | {"batch_size": 128, "lr": 5e-5, "weight_decay": 5e-4, "warmup_epochs": 1, "min_lr": 1e-6, "epochs": 60}
    | {"eval_crop": 1.0},
    "swin": {
        **{"batch_size": 128, "lr": 5e-4, "warmup_epochs": 20, "warmup_lr": 5e-7, "min_lr": 5e-6, "epochs": 300},
        **{"schedule_unit": "step", "scale_warmup_and_floor": True, "drop_path": 0.3, "clip": 5.0, "repeats": 1},
        **{"ema_decay": None, "weight_decay": 0.05, "eval_crop": 0.875},
    },
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_the_release_s(name: str) -> None:
    recipe: RecipeConfig = compose(f"recipe={name}").recipe
    for key, value in (SHARED | RECIPES[name]).items():
        assert getattr(recipe, key) == value, key
    assert recipe.crop_ratio == pytest.approx([3 / 4, 4 / 3], abs=1e-12)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["modle=deit_s12"], ["modle", "did you mean model"]),
        (["recipe.mixupp=1"], ["recipe.mixupp", "did you mean mixup"]),
        (["+model.heads=3"], ["model.heads", "keywords"]),
        (["model=deit_s25"], ["model/deit_s25", "deit_s24", "swin_s"]),
        (["data=cifar"], ["data/cifar", "imagefolder"]),
        (["epochs=many"], ["epochs=many", "whole number"]),
        (["precision=fp8"], ["precision=fp8", "bf16, fp16, fp32"]),
        (["device=tpu"], ["device=tpu", "auto, cpu, cuda"]),
        (["attnscale=maybe"], ["attnscale=maybe", "true, false"]),
        (["depth=0"], ["depth=0", "at least 1"]),
        (["recipe.drop_path=1.5"], ["recipe.drop_path=1.5", "between 0 and 1"]),
        (["model=timm"], ["model.name"]),
        (["recipe.crop_scale=[1.0,0.5]"], ["recipe.crop_scale", "[low, high]"]),
        (["augment=timm", "data=imagenet_ffcv"], ["augment=timm", "augment=device"]),
        (["precision=fp16", "device=cpu"], ["precision=fp16", "bf16 or fp32"]),
        (["recipe.three_augment=true"], ["three_augment", "randaugment=null"]),
    ],
)
def test_what_cannot_run_is_refused_with_what_would_be_right(overrides: list[str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        compose(*overrides)
    for part in expected:
        assert part in str(refusal.value)


def test_a_timm_name_stands_for_itself() -> None:
    assert compose("model=vit_tiny_patch16_224").model.name == "vit_tiny_patch16_224"


def test_several_timm_names_are_a_sweep_and_a_short_form_among_files_is_refused() -> None:
    names = "vit_tiny_patch16_224,vit_small_patch16_224"
    assert overrides.expand([f"model={names}"], "train", TRAIN_SCHEMA) == ["model=timm", f"model.name={names}"]
    words = overrides.expand(["model=deit_s12,deit_s24_attnscale"], "train", TRAIN_SCHEMA)
    first, second = overrides.jobs(words)
    overrides.check(first, "train", TRAIN_SCHEMA)
    with pytest.raises(ConfigError, match=r"model=deit_s24 and the techniques' own keys"):
        overrides.check(second, "train", TRAIN_SCHEMA)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "recipe").mkdir(parents=True)
    (tmp_path / "configs" / "recipe" / "broken.yaml").write_text("lr: [1, 2\n")
    (tmp_path / "configs" / "recipe" / "typo.yaml").write_text("lrr: 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no YAML: .*broken\.yaml"):
        compose("recipe=broken")
    with pytest.raises(ConfigError, match=r"^recipe/typo\.yaml: recipe\.lrr: unknown key; did you mean .*lr"):
        compose("recipe=typo")


def test_keywords_of_the_timm_class_need_no_plus_sign() -> None:
    assert compose("model=deit_s12", "model.keywords.reg_tokens=4").model.keywords == {"reg_tokens": 4}
    assert compose("data=digits", "model.keywords.embed_dim=32").model.keywords["embed_dim"] == 32


def test_an_option_of_a_technique_needs_no_plus_sign_and_no_braces() -> None:
    assert compose("featscale.dc=-0.9").featscale == {"dc": -0.9}
    assert compose("featscale={dc: -0.5, hf: 0.1}", "featscale.dc=-0.9").featscale == {"dc": -0.9, "hf": 0.1}
    assert compose("featscale=true", "featscale.dc=-0.9").featscale == {"dc": -0.9}


def test_digits_bring_a_small_model_and_recipe_unless_others_are_chosen() -> None:
    config = compose("data=digits")
    assert config.recipe.name == "digits"
    assert config.model.keywords["embed_dim"] == 64
    chosen = compose("data=digits", "model=cait_xxs24", "recipe=deit_12")
    assert (chosen.model.name, chosen.recipe.name) == ("cait_xxs24", "deit_12")


def test_a_stored_configuration_comes_back() -> None:
    config = compose("model=deit_s24", "attnscale=true", "depth=36", "recipe.clip=1.0")
    assert restore(to_dict(config), "last.pt") == config


def test_eval_takes_every_data_and_leaves_the_model_to_the_checkpoint() -> None:
    for name in choices("data"):
        config = cli.compose([f"data={name}", "checkpoint=x"], config_name="eval", schema=EVAL_SCHEMA)
        assert config.data.name
    assert cli.compose(["checkpoint=x"], config_name="eval", schema=EVAL_SCHEMA).model is None


def test_names_of_runs_follow_what_they_compute() -> None:
    plain_run = compose("data=digits")
    assert run_name(plain_run, 1) == run_name(compose("data=digits", "log_every=7", "device=cpu"), 1)
    others = [
        compose("data=digits", word) for word in ("attnscale=true", "depth=13", "seed=1", "recipe.lr=0.1", "epochs=3")
    ]
    names = {run_name(config, 1) for config in [plain_run, *others]}
    assert len(names) == len(others) + 1
    assert run_name(compose("data=digits", "batch_size=16"), 2) == run_name(plain_run, 1), (
        "the global batch is what counts"
    )
    assert run_name(compose("name=mine"), 1) == "mine"


def test_a_run_is_not_continued_as_another_one() -> None:
    stored = to_dict(compose("data=digits"))
    check_same_run(
        restore(stored, "last.pt"), compose("data=digits", "epochs=50", "steps=7", "batch_size=64", "compile=true")
    )
    with pytest.raises(ValueError, match=r"attnscale: False there, True here"):
        check_same_run(restore(stored, "last.pt"), compose("data=digits", "attnscale=true"))
    with pytest.raises(ValueError, match=r"recipe.lr"):
        check_same_run(restore(stored, "last.pt"), compose("data=digits", "recipe.lr=0.5"))


def test_no_configuration_names_a_path_of_a_machine() -> None:
    for path in Path(CONFIGS).rglob("*.yaml"):
        assert "/home" not in path.read_text()


def test_a_key_added_later_leaves_the_name_of_a_run_alone_at_its_default() -> None:
    """Runs of before the key existed keep their folder and go on; another value is another run."""
    assert run_name(compose(), 1) == "deit_s12-imagenet-s0-3609c6"  # as version 0.1.0 named it
    damped = run_name(compose("skip_gain=0.5"), 1)
    assert damped.startswith("deit_s12-r0.5-imagenet-s0-")
    stored = to_dict(compose())
    del stored["skip_gain"]
    del stored["shaped_attention"]
    check_same_run(restore(stored, "last.pt"), compose())
    with pytest.raises(ValueError, match=r"shaped_attention: None there, True here"):
        check_same_run(restore(stored, "last.pt"), compose("shaped_attention=true"))
    with pytest.raises(ValueError, match=r"skip_gain"):
        check_same_run(restore(stored, "last.pt"), compose("skip_gain=0.5"))


def test_a_key_below_a_group_that_nothing_chose_says_to_choose_it() -> None:
    with pytest.raises(ConfigError, match=r"^data\.root: eval\.yaml chooses no data; .*data=NAME data\.root="):
        cli.compose(["checkpoint=a.pt", "data.root=/elsewhere"], config_name="eval", schema=EVAL_SCHEMA)
