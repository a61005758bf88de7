"""A composed configuration -> its dataclass, or an error that names the key and what would be right."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vitaos.config import Config, ConfigError, OptimizerConfig, TrainConfig, technique_flags
from vitaos.suggest import did_you_mean

_ADAMW_LIKE: Final = ("adamw", "apex_adam", "apex_lamb")
"""Optimizers whose own betas are 0.9 and 0.999, and eps 1e-8. A run's configuration states them, as it always has."""


def check(composed: DictConfig, declared: type[Config]) -> Config:
    """Turn a composed configuration into its dataclass.

    Args:
        composed: what Hydra composed.
        declared: the dataclass made by :func:`vitaos.config.schema`.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, outside its choices or range, or an impossible pair.
    """
    try:
        plain = OmegaConf.create(
            OmegaConf.to_container(composed, resolve=True)
        )  # without the flags that let +key=value pass
        merged = OmegaConf.merge(OmegaConf.structured(declared), plain)
        config: Any = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error, composed, declared)) from None
    _check_values(config, "")
    for name in technique_flags(config):
        _check_technique_flag(name, getattr(config, name))
    if isinstance(config, TrainConfig):
        _state_adamws_own(config.optimizer)
        _check_pairs(config)
    return config


def _state_adamws_own(optimizer: OptimizerConfig) -> None:
    if optimizer.name in _ADAMW_LIKE:
        optimizer.betas = [0.9, 0.999] if optimizer.betas is None else optimizer.betas
        optimizer.eps = 1e-8 if optimizer.eps is None else optimizer.eps


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest known words, then all of them."""
    names = sorted(known)
    return f"{did_you_mean(word, names)} Valid: {', '.join(names)}"


def _explain(error: OmegaConfBaseException, composed: DictConfig, declared: type[Any]) -> str:
    key = str(error.full_key or error.key or "")
    reason = str(error.msg or error).splitlines()[0]
    if "not in" in reason and key:
        *path, leaf = key.split(".")
        return f"{key}: unknown key{suggest(leaf, keys_at(declared, path))}"
    value = OmegaConf.select(composed, key, throw_on_missing=False) if key else None
    return f"{key}={value}: {reason}" if key else reason


def keys_at(declared: type[Any], path: list[str]) -> list[str]:
    level: Any = OmegaConf.structured(declared)
    for part in path:
        level = level[part] if level is not None and part in level else {}
    return [str(key) for key in level] if level is not None else []


def _check_values(section: Any, prefix: str) -> None:
    for declared in fields(section):
        value, key = getattr(section, declared.name), f"{prefix}{declared.name}"
        if is_dataclass(value):
            _check_values(value, f"{key}.")
            continue
        choices = declared.metadata.get("choices")
        if choices and value not in choices:
            words = ", ".join("null" if choice is None else str(choice) for choice in choices)
            raise ConfigError(f"{key}={value}: not a valid choice; valid: {words}")
        low, high = declared.metadata.get("low"), declared.metadata.get("high")
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{key}={value}: out of range; it must be {bounds}")


def _check_technique_flag(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, (bool, Mapping)):
        raise ConfigError(f"{name}={value}: a technique takes true, false, or a mapping of its options")


def _check_pairs(config: TrainConfig) -> None:
    recipe = config.recipe
    if not config.model.name:
        raise ConfigError("model=timm: say which; model=timm model.name=vit_tiny_patch16_224, or in short model=NAME")
    for key, values in (("crop_scale", recipe.crop_scale), ("crop_ratio", recipe.crop_ratio)):
        if len(values) != 2 or not 0 < values[0] <= values[1]:
            raise ConfigError(f"recipe.{key}={values}: must be two positive numbers, [low, high]")
    for key, values, count in (
        ("data.mean", config.data.mean, 3),
        ("data.std", config.data.std, 3),
    ):
        if len(values) != count:
            raise ConfigError(f"{key}={values}: must be {count} numbers")
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
    if config.precision == "fp16" and config.device == "cpu":
        raise ConfigError(
            "precision=fp16 with device=cpu: loss scaling is for CUDA; use precision=bf16 or fp32 on the CPU"
        )
