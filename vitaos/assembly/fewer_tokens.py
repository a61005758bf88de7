"""Fewer tokens for trained weights: what a command line may add to the model that a checkpoint describes.

Techniques that only make tokens fewer (``Technique.reduces_tokens``) have no parameters, so they act on any weights.
All others belong to the weights: a vitaos file says itself what it was trained with.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from vitaos.config import CheckpointSource, enabled_techniques
from vitaos.files import file_name
from vitaos.techniques import TECHNIQUES

REDUCERS: Final = tuple(name for name, technique in TECHNIQUES.items() if technique.reduces_tokens)
Described = TypeVar("Described", bound=Any)


def reducers(config: Any) -> dict[str, bool | dict[str, Any]]:
    """The techniques of a configuration that make tokens fewer: name -> True or options."""
    return {name: value for name, value in enabled_techniques(config).items() if name in REDUCERS}


def reduce_tokens(described: Described, asked: CheckpointSource, path: Path) -> Described:
    """The description of a checkpoint's model with the command line's token reduction in place of its own.

    Args:
        described: the configuration that builds the model, as the checkpoint tells it.
        asked: the command line's; nothing of it changes where it names no technique.
        path: the checkpoint, named in errors.

    Raises:
        ValueError: a technique is asked for that the checkpoint's model lacks, or has with other options.
    """
    wanted = reducers(asked)
    if asked.model is None:  # else the techniques may be those of a foreign file beside this checkpoint
        _check_others(enabled_techniques(described), enabled_techniques(asked), path)
    return replace(described, **{**dict.fromkeys(REDUCERS, False), **wanted}) if wanted else described


def _check_others(own: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    for name, value in asked.items():
        if name not in REDUCERS and (name not in own or value not in (True, own[name])):
            trained = f"with {name}={own[name]}" if name in own else f"without {name}"
            raise ValueError(
                f"{name}={value}: {path} was trained {trained}, and its weights fit nothing else. Leave it out; only "
                f"{' and '.join(REDUCERS)} can be put on a trained model."
            )


def title(asked: Mapping[str, Any]) -> str:
    """For tables and legends: ``token_merging (r=8)``; empty where tokens stay."""
    return " + ".join(f"{name} ({_options(value)})" if _options(value) else name for name, value in asked.items())


def stem(asked: Mapping[str, Any]) -> str:
    """For names of files: ``token_merging_r_8``; empty where tokens stay."""
    return file_name(re.sub(r"[^\w.-]+", "_", title(asked)).strip("_"))


def _options(value: bool | Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value[key]}" for key in sorted(value)) if isinstance(value, Mapping) else ""
