"""A composed configuration -> its dataclass, or an error that names the key and what would be right."""

import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Final, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from vitaos.config import (
    Bounds,
    Config,
    ConfigError,
    LoggerConfig,
    OptimizerConfig,
    TrainConfig,
    declared_fields,
    section_of,
    technique_flags,
)
from vitaos.config.recipe_check import check_recipe
from vitaos.suggest import did_you_mean

_ADAMW_LIKE: Final = ("adamw", "apex_adam", "apex_lamb")
"""Optimizers whose own betas are 0.9 and 0.999, and eps 1e-8. A run's configuration states them, as it always has."""
_PLACES: Final = {
    **{"lr": "recipe.lr", "weight_decay": "recipe.weight_decay"},
    **{name: f"optimizer.{name}" for name in ("betas", "eps", "fused", "name")},
    **dict.fromkeys(("model", "params", "opt", "paces"), "the run itself"),
}
"""Keywords of an optimizer that are said elsewhere."""
_LARGEST: Final = 2**63 - 1
_MEANINGS: Final = {
    "is not Optional": "KEY=null: it needs a value",
    "is not a ListConfig": "KEY: expected a list, as KEY=[A,B]",
    " to Dict[": 'KEY: expected names with values, as "KEY={NAME: VALUE, NAME: VALUE}"',
}
"""What a complaint of OmegaConf's means, by a part of it."""
_NOT_OF_TYPE: Final = re.compile(r"Value '(.*)' of type '\w+' could not be converted to (Integer|Float)")
_EXPECTED: Final = {"Integer": "a whole number", "Float": "a number"}


def check(composed: DictConfig, declared: type[Config], given: Collection[str] = ()) -> Config:
    """Turn a composed configuration into its dataclass.

    Args:
        composed: what Hydra composed.
        declared: the dataclass made by :func:`vitaos.config.schema`.
        given: the keys that were said on the command line.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, outside its choices or range, or an impossible pair.
    """
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(plain, dict)
        _check_shapes(plain, declared, "")
        unflagged = OmegaConf.create(plain)  # without the flags that let +key=value pass
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(declared), unflagged))
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, composed, declared)) from None
    except (OverflowError, TypeError) as error:  # what OmegaConf makes of a value where a section belongs
        raise ConfigError(str(error).splitlines()[0]) from error
    _check_values(config, "")
    for name in technique_flags(config):
        _check_technique_flag(name, getattr(config, name))
    if isinstance(config, TrainConfig):
        _state_adamws_own(config.optimizer)
        _check_pairs(config)
        _check_warmup(config, given)
    return config


def _state_adamws_own(optimizer: OptimizerConfig) -> None:
    if optimizer.name in _ADAMW_LIKE:
        optimizer.betas = [0.9, 0.999] if optimizer.betas is None else optimizer.betas
        optimizer.eps = 1e-8 if optimizer.eps is None else optimizer.eps


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known names, then all of them."""
    names = sorted(known)
    return f"{did_you_mean(word, names)} Valid: {', '.join(names)}"


def _explain(error: OmegaConfBaseException, composed: DictConfig, declared: type[Any]) -> str:
    key = str(error.full_key or error.key or "")
    reason = str(error.msg or error).splitlines()[0]
    if isinstance(error, InterpolationResolutionError):
        reason = reason.partition("interpolation: ")[2].strip('"') or reason
    if (known := explain_known(key, reason, declared)) or not key:
        return known or reason
    as_given = OmegaConf.create(OmegaConf.to_container(composed, resolve=False))
    *path, leaf = key.split(".")
    level = OmegaConf.select(as_given, ".".join(path), throw_on_resolution_failure=False) if path else as_given
    value = level._get_node(leaf) if isinstance(level, DictConfig) else None
    return f"{key}={value}: {reason}" if value is not None else f"{key}: {reason}"


def explain_known(key: str, reason: str, declared: type[Any]) -> str | None:
    """What OmegaConf's commonest complaints mean: a key that does not exist, and null where there must be a value."""
    if not key:
        return None
    for complaint, meaning in _MEANINGS.items():
        if complaint in reason:
            return meaning.replace("KEY", key)
    if wrong := _NOT_OF_TYPE.match(reason):
        return f"{key}={wrong[1]}: expected {_EXPECTED[wrong[2]]}"
    if "not in" in reason:
        *path, leaf = key.split(".")
        names = _keys_at(declared, path)
        top = _keys_at(declared, [])
        meant = [leaf] if leaf in top else []  # the key at another level
        meant += [f"{name}.{leaf}" for name in top if leaf in _keys_at(declared, [name])]
        known = f"; did you mean {' or '.join(meant)}? Valid: {', '.join(sorted(names))}" if meant else ""
        return f"{key}: unknown key{known or suggest(leaf, names)}"
    return None


def _keys_at(declared: type[Any], path: list[str]) -> list[str]:
    level: Any = OmegaConf.structured(declared)
    for part in path:
        level = level[part] if level is not None and part in level else {}
    return [str(key) for key in level] if isinstance(level, (Mapping, DictConfig)) else []


def _check_shapes(tree: Mapping[Any, Any], declared: type[Any], prefix: str) -> None:
    """Refuse what OmegaConf takes without a word (numbers for true and false other than 0 and 1), or refuses without
    naming the key (a list or a single value in the place of keys, keys in the place of a list)."""
    for field, kind in declared_fields(declared):
        key, value = f"{prefix}{field.name}", tree.get(field.name)
        section = section_of(kind)
        if kind is bool and isinstance(value, (int, float)) and value not in (0, 1):
            raise ConfigError(f"{key}={value}: it must be true or false")
        if (section or get_origin(kind) is dict) and not isinstance(value, (Mapping, NoneType)):
            raise ConfigError(f"{key}={value}: expected a mapping of keys to values, as {key}.KEY=VALUE sets one")
        if get_origin(kind) is dict and get_args(kind)[1] is str and isinstance(value, Mapping):
            for name, item in value.items():
                if isinstance(item, (Mapping, list, NoneType)):
                    raise ConfigError(f"{key}.{name}={item}: expected text")
        if isinstance(value, Mapping) and list in [get_origin(part) for part in (kind, *get_args(kind))]:
            raise ConfigError(f"{key}={value}: expected a list, as {key}=[A,B]")
        is_nested = get_origin(kind) is list and get_origin(get_args(kind)[0]) is list
        if is_nested and isinstance(value, list) and not all(isinstance(item, list) for item in value):
            raise ConfigError(f"{key}={value}: expected a list of lists, as {key}=[[A,B],[C,D]]")
        if section and isinstance(value, Mapping):
            _check_shapes(value, section, f"{key}.")


def _check_values(section: Any, prefix: str) -> None:
    """Check every value by what its key declares, and put the home folder in the place of ``~``."""
    for declared in fields(section):
        value, key = getattr(section, declared.name), f"{prefix}{declared.name}"
        if is_dataclass(value):
            _check_values(value, f"{key}.")
            continue
        _check_finite(key, value)
        choices = declared.metadata.get("choices")
        if choices and value not in choices:
            words = [_word(choice) for choice in choices]
            near = did_you_mean(str(value), words)
            valid = f"{near} Valid" if near.endswith("?") else "; valid"
            raise ConfigError(f"{key}={value}: not a valid choice{valid}: {', '.join(words)}")
        if isinstance(value, int) and any(choice is True for choice in choices or ()):
            setattr(section, declared.name, bool(value))  # 0 and 1, as for every key that is true or false
        count = declared.metadata.get("count")
        if count is not None and value is not None and len(value) != count:
            raise ConfigError(f"{key}={value}: it must be {count} numbers")
        _check_bounds(key, value, declared.metadata.get("bounds"))
        if declared.metadata.get("is_path"):
            setattr(section, declared.name, _path(key, value))


def _word(choice: Any) -> str:
    """A choice as it stands on the command line."""
    if choice is None:
        return "null"
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def _check_bounds(key: str, value: Any, bounds: Bounds | None) -> None:
    if bounds is None or value is None:
        return
    for number in value if isinstance(value, list) else [value]:
        if not bounds.hold(number):
            each = "each of its numbers" if isinstance(value, list) else "it"
            raise ConfigError(f"{key}={value}: out of range; {each} must be {bounds.refuse(number)}")


def _check_finite(key: str, value: Any) -> None:
    """Refuse NaN and infinity, and whole numbers that no machine number holds, wherever they stand in a value."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _check_finite(f"{key}.{name}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if not isinstance(item, (int, float)):
                _check_finite(key, item)
            elif not _is_machine_number(item):
                raise ConfigError(f"{key}={list(value)}: each of its numbers must be finite")
    elif isinstance(value, (int, float)) and not _is_machine_number(value):
        kind = "a finite number" if isinstance(value, float) else f"a number within ±{_LARGEST:,}"
        raise ConfigError(f"{key}={value}: it must be {kind}")


def _is_machine_number(number: float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else abs(number) <= _LARGEST


def _path(key: str, value: Any) -> Any:
    """A file or folder, or a list of them, with the home folder in the place of ``~``."""
    if isinstance(value, (list, tuple)):
        return [_path(key, item) for item in value]
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigError(f"{key}={value}: expected a file or folder")
    if not value.strip():
        raise ConfigError(f"{key}={value}: it must name a file or folder; leave it out for its default")
    if "\0" in value:
        raise ConfigError(f"{key}={value!r}: no file or folder has such a name")
    return os.path.expanduser(value)  # noqa: PTH111 - a pattern or a word of its own stays what it is


def _check_warmup(config: TrainConfig, given: Collection[str]) -> None:
    """Refuse a warm-up that is asked for and never ends; a short try of a recipe (``epochs=1``) may end within it."""
    warmup = config.recipe.warmup_epochs
    for key, epochs in (("recipe.epochs", config.recipe.epochs), ("epochs", config.epochs)):
        if "recipe.warmup_epochs" in given and warmup >= epochs:
            raise ConfigError(f"recipe.warmup_epochs={warmup}: it must be less than {key}={epochs}")


def _check_trackers(logger: LoggerConfig) -> None:
    trackers = _choices(LoggerConfig, "name")
    for name in logger.also:
        if name not in trackers or name == "none":
            raise ConfigError(f"logger.also={logger.also}: {name!r} is no tracker; valid: {', '.join(trackers[1:])}")
    if logger.also and logger.name == "none":
        raise ConfigError(f"logger.also={logger.also}: name the first by logger={logger.also[0]}")


def _choices(section: type[Any], name: str) -> tuple[str, ...]:
    return next(tuple(field.metadata["choices"]) for field in fields(section) if field.name == name)


def _check_technique_flag(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, (bool, Mapping)):
        raise ConfigError(f"{name}={value}: a technique takes true, false, or a mapping of its options")


def _check_pairs(config: TrainConfig) -> None:
    recipe = config.recipe
    _check_trackers(config.logger)
    if not config.model.name:
        raise ConfigError("model=timm: say which; model=timm model.name=vit_tiny_patch16_224, or in short model=NAME")
    for key, values in (("crop_scale", recipe.crop_scale), ("crop_ratio", recipe.crop_ratio)):
        if values[0] > values[1]:
            raise ConfigError(f"recipe.{key}={values}: must be two positive numbers, [low, high]")
    if recipe.lr == 0 and (recipe.warmup_lr or recipe.min_lr):
        raise ConfigError(
            "recipe.lr=0: the peak of the schedule must be above 0 (lr, warmup_lr and min_lr all at 0 keep the weights)"
        )
    for key, place in _PLACES.items():
        if key in config.optimizer.keywords:
            raise ConfigError(f"optimizer.keywords.{key} cannot be given: it is said by {place}")
    by_ffcv = config.data.kind == "ffcv" or (config.data.kind == "digits" and config.data.loader == "ffcv")
    if config.augment == "timm" and by_ffcv:
        raise ConfigError(
            f"augment=timm with data={config.data.name} through FFCV: timm's transforms work on PIL images, FFCV gives "
            "arrays; use augment=device, or class folders (data=imagefolder; for digits data.loader=folder)"
        )
    if config.augment == "timm" and recipe.three_augment:
        raise ConfigError(
            "recipe.three_augment=true with augment=timm: three-augment is made on the device; use augment=device"
        )
    if recipe.three_augment and recipe.randaugment:
        raise ConfigError("recipe.three_augment=true with recipe.randaugment: choose one; set recipe.randaugment=null")
    check_recipe(config)
    if config.deterministic and str(config.compile).startswith("max-autotune"):
        raise ConfigError(
            f"compile={config.compile} with deterministic=true: it chooses kernels by timing them, and another start "
            "may choose others; use compile=true"
        )
    if config.residual_stream == "bf16" and config.precision != "bf16":
        raise ConfigError(
            f"residual_stream=bf16 with precision={config.precision}: tokens take the format of the products; use "
            "precision=bf16, or residual_stream=fp32"
        )
    if config.precision == "fp16" and config.device == "cpu":
        raise ConfigError(
            "precision=fp16 with device=cpu: loss scaling is for CUDA; use precision=bf16 or fp32 on the CPU"
        )
