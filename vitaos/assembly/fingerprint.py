"""What makes a run the run it is: its configuration stored, compared and named."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from vitaos import config as configuration
from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.config import (
    LOCAL,
    PER_START,
    TrainConfig,
    added_keys,
    enabled_techniques,
    flatten,
    marked_keys,
    without_keys,
)
from vitaos.data.fingerprint import classes_digest
from vitaos.files import file_name


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested dicts of plain values, as it is stored in ``config.yaml`` and in checkpoints."""
    return dataclasses.asdict(config)


def run_fingerprint(config: TrainConfig) -> dict[str, Any]:
    """What a run computes: its configuration flattened to dotted keys, without what may differ between its starts.

    Keys that were added later are left out at their default, so that older runs keep their names and go on.
    """
    flat = without_keys(flatten(to_dict(config)), marked_keys(TrainConfig, LOCAL, PER_START))
    added = added_keys(TRAIN_SCHEMA)
    return {key: value for key, value in flat.items() if not (key in added and value == added[key])}


def check_same_run(before: TrainConfig, config: TrainConfig) -> None:
    """Refuse to continue a run as another one.

    Args:
        before: the configuration in the checkpoint.
        config: that of this start.

    Raises:
        ValueError: naming the keys that differ and both values.
    """
    there, here = run_fingerprint(before), run_fingerprint(config)
    differing = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    if differing:
        changes = "; ".join(f"{key}: {there.get(key)} there, {here.get(key)} here" for key in differing[:6])
        raise ValueError(
            f"the checkpoint belongs to another run ({changes}). Give this run another name=, or repeat that one's "
            "settings; to start from its weights alone use init=FILE"
        )


def run_name(config: Any, world_size: int, data: Mapping[str, Any] | None = None) -> str:
    """The name given, or one that the same command on the same data always gives and another one never does.

    Args:
        config: of this start.
        world_size: processes.
        data: fingerprints of the data; without them the name is the one that versions before them gave.

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
    enabled = enabled_techniques(config)
    identifying = run_fingerprint(config) | {
        "global_batch": config.batch_size * config.accumulate * world_size,
        "epochs": config.epochs,
        "init": config.init,
    }
    if config.init_weights != "raw":
        identifying["init_weights"] = config.init_weights
    if config.recipe.distillation != "none":
        identifying["teacher"] = to_dict(config.teacher)
    digest = hashlib.sha256(json.dumps(identifying, sort_keys=True).encode()).hexdigest()[:6]
    parts = [config.model.name, *shape_labels(config), *enabled, config.data.name, f"s{config.seed}", digest]
    return file_name("-".join(parts)) + ("" if data is None else f"-{classes_digest(data)}")


def shape_labels(config: Any) -> list[str]:
    """What a model's name holds besides its backbone: depth and the gain of the skip around attention, if chosen."""
    depth = [f"d{config.depth}"] if config.depth else []
    return depth + ([f"r{config.skip_gain:g}"] if config.skip_gain != 1 else [])
