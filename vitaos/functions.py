"""The commands as functions, for notebooks and scripts: the words of a command line in, plain values out.

Nothing ends the process, nothing of Hydra stays behind, and each can be called again. What the command line answers
with ``error: ...`` is a ``ValueError`` here. Imports wait for the call: ``import vitaos`` stays quick.
"""

# ruff: noqa: PLC0415

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train a model, or go on with a run: ``vitaos.train(["data=digits", "depth=6", "attnscale=true"])``.

    Args:
        overrides: the words after ``train.py``, one ``key=value`` each.

    Returns:
        ``folder``: the run folder; ``status``: 0, or 75 after a request to stop (Ctrl-C), 3 at a loss that is no finite
        number, 74 where something could not be saved; ``checkpoint``: its newest file, None where there is none;
        ``metrics``: the lines of ``metrics.jsonl``, one an epoch.

    Raises:
        ValueError: a key, a value or a folder with which the run cannot be had.
    """
    from vitaos.assembly.run import train as run
    from vitaos.assembly.schemas import TRAIN_SCHEMA
    from vitaos.checkpoint.folder import candidates
    from vitaos.metrics_reader import read_metrics

    status, folder = run(_compose("train", TRAIN_SCHEMA, overrides))
    newest = candidates(folder.checkpoints)
    return {
        "folder": str(folder.path),
        "status": status,
        "checkpoint": str(newest[0]) if newest else None,
        "metrics": read_metrics(folder.metrics),
    }


def evaluate(overrides: Sequence[str]) -> dict[str, Any]:
    """Evaluate a checkpoint: ``vitaos.evaluate(["checkpoint=runs/NAME"])``.

    Args:
        overrides: the words after ``eval.py``, one ``key=value`` each.

    Returns:
        What the JSON file of the evaluation holds (``top1``, ``top5``, ``loss``, ``count``, and the same by kind of
        weights under ``weights``), and ``files``: the paths of what was written.

    Raises:
        ValueError: a key, a value, a checkpoint or data that cannot be used.
    """
    from vitaos.assembly import evaluation, robustness
    from vitaos.assembly.schemas import EVAL_SCHEMA

    config = _compose("eval", EVAL_SCHEMA, overrides)
    report, files = evaluation.evaluate(config)
    if config.robustness:
        files += robustness.test(config)
    return {**report.summary(), "files": [str(path) for path in files]}


def analyze(overrides: Sequence[str]) -> dict[str, Any]:
    """Measure models and draw their figures: ``vitaos.analyze(["checkpoint=[runs/A,runs/B]", "out=figures"])``.

    Args:
        overrides: the words after ``scripts/analyze.py``, one ``key=value`` each.

    Returns:
        ``models``: what ``summary.json`` holds, one mapping a model; ``files``: the paths of what was written.

    Raises:
        ValueError: a key, a value, a checkpoint or data that cannot be used.
    """
    from vitaos.assembly import analysis
    from vitaos.assembly.schemas import ANALYZE_SCHEMA
    from vitaos.runtime.world import initialize

    config = _compose("analyze", ANALYZE_SCHEMA, overrides)
    files = analysis.analyze(config, initialize(config.device))
    (summary,) = (path for path in files if path.name == "summary.json")
    return {"models": json.loads(Path(summary).read_text()), "files": [str(path) for path in files]}


def _compose(name: str, schema: type[Any], overrides: Sequence[str]) -> Any:
    from vitaos import cli

    if isinstance(overrides, str) or not all(isinstance(word, str) for word in overrides):
        raise ValueError(f"overrides={overrides!r}: expected a list of words, such as ['data=digits', 'depth=6']")
    return cli.compose(overrides, config_name=name, schema=schema)
