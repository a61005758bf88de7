"""Whether runs are the same experiment: which keys of their configurations, data and budgets differ."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

from vitaos.config import LOCAL, TrainConfig, added_keys, marked_keys
from vitaos.study.runs import Run

__all__ = ["check_only_seed_differs", "differing_keys"]

# Where a run ran, what it was called, how much it logged, and what every cell holds alike.
_LOCAL: Final = (
    *marked_keys(TrainConfig, LOCAL),
    *("model.name", "depth", "model.keywords.depth"),  # the cell has them: deit_s12 with depth=24 is deit_s24
    "model.keywords.reg_tokens",  # the technique's name has them
)
_CLASSES: Final = "classes of the data"  # their names and counts: two places may hold two datasets of one name


def check_only_seed_differs(runs: Sequence[Run], name: str, extra_keys: Collection[str] = ()) -> None:
    """Refuse to average the runs of a cell, called `name`, that are not the same experiment with another seed each.

    Raises:
        ValueError: they differ in more than the seed (what differs, and where, is in the message), or in nothing.
    """
    differing = differing_keys(runs, {"seed"}, extra_keys)
    if differing:
        raise ValueError(
            f"the runs of {name} cannot be averaged, they differ in more than the seed: {differing}. "
            "Report them apart (runs=...)"
        )
    by_seed: dict[Any, Run] = {}
    for run in runs:
        if run.seed in by_seed:
            raise ValueError(
                f"{by_seed[run.seed].path} and {run.path} are the same run of {name} (seed {run.seed}): averaging both "
                "would count it twice. Leave one out (runs=...)"
            )
        by_seed[run.seed] = run


def differing_keys(runs: Sequence[Run], ignored: set[str], extra_keys: Collection[str] = ()) -> str:
    """Which keys differ between runs, with the values and a folder for each; empty when none do.

    Of the keys that otherwise do not count, those below ``extra_keys`` do.
    """
    descriptions = []
    fingerprints = [_fingerprint(run, {*_LOCAL, *ignored} - set(extra_keys)) for run in runs]
    for key in sorted({key for fingerprint in fingerprints for key in fingerprint}):
        values: dict[str, Path] = {}
        for run, fingerprint in zip(runs, fingerprints, strict=True):
            if key in fingerprint or key != _CLASSES:  # older versions did not record the classes
                values.setdefault(str(fingerprint.get(key)), run.path)
        if len(values) > 1:
            places = " against ".join(f"{value} ({path.name})" for value, path in values.items())
            descriptions.append(f"{key}: {places}")
    return "; ".join(descriptions)


def _fingerprint(run: Run, ignored: set[str]) -> dict[str, Any]:
    """What the run computed. How a global batch is cut into processes and micro-batches does not change it, nor does a
    key that came later and is at its default."""
    prefixes = tuple(f"{name}." for name in ignored)
    config = added_keys() | run.config
    fingerprint = {key: value for key, value in config.items() if key not in ignored and not key.startswith(prefixes)}
    if run.global_batch is not None:
        fingerprint = {key: value for key, value in fingerprint.items() if key not in ("batch_size", "accumulate")}
        fingerprint["global batch"] = run.global_batch
    if run.metrics:  # data of one name in two places may be two datasets: their sizes differ
        fingerprint["steps an epoch"] = run.metrics[-1].get("step", 0) / max(1, run.epochs_done)
    if len(run.planned_epochs) > 1:  # each part had a schedule of its own
        fingerprint["epochs"] = ", then ".join(map(str, run.planned_epochs))
    if "data" in run.session:
        fingerprint[_CLASSES] = run.session["data"]
    return fingerprint
