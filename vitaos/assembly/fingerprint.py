"""What makes a run the run it is: its configuration stored, restored, compared and named."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

from omegaconf import OmegaConf

from vitaos import config as configuration
from vitaos import techniques
from vitaos.config import EvalConfig, TrainConfig

TOGGLES: Final = tuple(techniques.names())
TRAIN_SCHEMA: Final = configuration.schema(TrainConfig, TOGGLES, known_as=(__name__, "TRAIN_SCHEMA"))
EVAL_SCHEMA: Final = configuration.schema(EvalConfig, TOGGLES, known_as=(__name__, "EVAL_SCHEMA"))

# What may differ between the starts of one run: where it runs and what it tells, not what it computes.
_RUN_LOCAL: Final = (
    *("out", "name", "resume", "device", "steps", "epochs", "init", "batch_size", "accumulate"),
    *("compile", "channels_last", "checkpoint_gradients", "deterministic", "checkpoint_every", "keep", "log_every"),
    *("logger", "monitor"),
    *("data.root", "data.train", "data.val", "data.workers", "data.in_memory", "data.prepare", "data.loader"),
    *("data.eval_batch_size", "recipe.epochs", "recipe.batch_size", "recipe.name"),
)


def plain(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts of plain values, as it is stored in ``config.yaml`` and in checkpoints."""
    return dataclasses.asdict(config)


def restore(stored: Mapping[str, Any]) -> Any:
    """The configuration of a stored run.

    Raises:
        ConfigError: it was written by another version and no longer fits.
    """
    return configuration.check(OmegaConf.create(dict(stored)), TRAIN_SCHEMA, TOGGLES)


def essence(config: TrainConfig) -> dict[str, Any]:
    """What a run computes: its configuration flattened to dotted keys, without what may differ between its starts.

    Keys that were added later are left out at their default, so that older runs keep their names and go on.
    """
    flat = _flatten(plain(config))
    local = tuple(f"{name}." for name in _RUN_LOCAL)
    added = configuration.added_keys()
    return {
        key: value
        for key, value in flat.items()
        if key not in _RUN_LOCAL and not key.startswith(local) and not (key in added and value == added[key])
    }


def check_same_run(stored: Mapping[str, Any], config: TrainConfig) -> None:
    """Refuse to continue a run as another one.

    Raises:
        ValueError: naming the keys that differ and both values.
    """
    before, now = essence(restore(stored)), essence(config)
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing:
        changes = "; ".join(f"{key}: {before.get(key)} there, {now.get(key)} here" for key in differing[:6])
        raise ValueError(
            f"the checkpoint belongs to another run ({changes}). Give this run another name=, or repeat that one's "
            "settings; to start from its weights alone use init=FILE"
        )


def run_name(config: Any, world_size: int) -> str:
    """The name given, or one that the same command always gives and another configuration never does.

    Raises:
        ConfigError: a name that leads out of the folder of runs.
    """
    if config.name:
        path = PurePath(config.name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise configuration.ConfigError(
                f"name={config.name}: a run's folder lies within out={config.out}; another place is out=DIR"
            )
        return str(config.name)
    switched = configuration.techniques_of(config, TOGGLES)
    identity = essence(config) | {
        "global_batch": config.batch_size * config.accumulate * world_size,
        "epochs": config.epochs,
        "init": config.init,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:6]
    return "-".join([config.model.name, *shape_labels(config), *switched, config.data.name, f"s{config.seed}", digest])


def shape_labels(config: Any) -> list[str]:
    """What a model's name says besides its backbone: depth and the gain of the skip around attention, if chosen."""
    depth = [f"d{config.depth}"] if config.depth else []
    return depth + ([f"r{config.skip_gain:g}"] if config.skip_gain != 1 else [])


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
