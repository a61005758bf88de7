"""Weights & Biases beside ``metrics.jsonl``, and what all trackers share. The same run goes on after a resume, and no
login means offline."""

import netrc
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from vitaos.files import write_text


class WandbLogger:
    """Sends a run to Weights & Biases. A sink of the trainer; made on the main rank only.

    Args:
        folder: the run folder; it keeps the run's identity (``wandb_id.txt``) and, offline, its data.
        name: shown name of the run.
        config: resolved configuration.
        project, entity, group, tags: where the run belongs, as in ``wandb.init``.
        mode: ``online``, ``offline``, or ``auto``: online when there is a login, else offline.

    Raises:
        ValueError: wandb refused to start; the message explains why and how to go on without it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        config: Mapping[str, Any],
        project: str = "vitaos",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str = "auto",
    ) -> None:
        import wandb  # noqa: PLC0415  # takes a second to import, and most runs do not ask for it

        self.mode = mode if mode != "auto" else ("online" if _has_login() else "offline")
        try:
            self._run = wandb.init(
                id=identity(folder, "wandb_id.txt"),
                resume="allow",
                dir=str(folder),
                name=name,
                config=dict(config),
                project=project,
                entity=entity,
                group=group,
                tags=list(tags),
                mode="online" if self.mode == "online" else "offline",
            )
        except (wandb.Error, OSError) as error:
            raise ValueError(
                f"logger=wandb: {error}. Log in with `wandb login`, or use logger.mode=offline, or logger=none."
            ) from error
        for pattern in ("train/*", "epoch/*"):
            self._run.define_metric(pattern, step_metric="step")

    def log(self, record: Mapping[str, Any]) -> None:
        """Rates and losses of the last few steps."""
        self._run.log({"step": record["step"], **numeric_leaves("train", record)})

    def metrics(self, line: Mapping[str, Any]) -> None:
        """The line of a finished epoch; nested values (w, s, t by layer) become one curve each."""
        self._run.log({"step": line["step"], **numeric_leaves("epoch", line)})

    def rewind(self, step: int) -> None:
        """Lines logged twice after a resume lie on one another: they carry their own step."""

    def close(self, *, failed: bool = False) -> None:
        """Finish the upload; the site shows a ``failed`` run as such."""
        self._run.finish(exit_code=int(failed))


def identity(folder: Path, file: str) -> str:
    """The run's identity, made once and kept in a file of the run folder; a run killed while writing it leaves no half
    of it."""
    path = folder / file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text(encoding="utf-8").strip()


def _has_login() -> bool:
    """A key in the environment, or in the netrc file where ``wandb login`` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def numeric_leaves(prefix: str, values: Any) -> dict[str, float | int]:
    """Numbers of a nested line under slash-separated names; what is no number is left out."""
    if isinstance(values, bool) or values is None:
        return {}
    if isinstance(values, (int, float)):
        return {prefix: values}
    if isinstance(values, Mapping):
        items: Any = values.items()
    elif isinstance(values, Sequence) and not isinstance(values, str):
        items = ((f"{index:02d}", value) for index, value in enumerate(values))
    else:
        return {}
    flat: dict[str, float | int] = {}
    for key, value in items:
        flat |= numeric_leaves(f"{prefix}/{key}", value)
    return flat


def text_leaves(prefix: str, values: Any) -> dict[str, str]:
    """Values of a nested configuration as text under dotted names; lists stay one value."""
    if not isinstance(values, Mapping):
        return {prefix: str(values)}
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= text_leaves(f"{prefix}.{key}" if prefix else str(key), value)
    return flat
