"""The configuration of a run: YAML selects, these dataclasses declare.

Hydra composes the files under ``configs/``; ``vitaos/config_check.py`` turns the result into the dataclasses here.
Everything in this folder happens before any data or device is touched, and imports nothing that takes long.

``keys.py``: how a key is declared. ``sections.py``, ``recipe.py``: the sections. ``commands.py``: the configuration of
each command. ``schema.py``: what they say of themselves; the techniques' names come in there.
"""

from vitaos.config.commands import AnalyzeConfig, CheckpointSource, EvalConfig, ExportConfig, TrainConfig
from vitaos.config.keys import LOCAL, PER_START, Bounds, ConfigError, key
from vitaos.config.recipe import OptimizerConfig, RecipeConfig
from vitaos.config.schema import (
    Config,
    added_keys,
    declared_fields,
    enabled_techniques,
    flatten,
    marked_keys,
    schema,
    section_of,
    technique_flags,
    without_keys,
)
from vitaos.config.sections import DataConfig, LoggerConfig, ModelConfig, MonitorConfig, TeacherConfig

__all__ = [
    "LOCAL",
    "PER_START",
    "AnalyzeConfig",
    "Bounds",
    "CheckpointSource",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvalConfig",
    "ExportConfig",
    "LoggerConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimizerConfig",
    "RecipeConfig",
    "TeacherConfig",
    "TrainConfig",
    "added_keys",
    "declared_fields",
    "enabled_techniques",
    "flatten",
    "key",
    "marked_keys",
    "schema",
    "section_of",
    "technique_flags",
    "without_keys",
]
