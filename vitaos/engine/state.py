"""The state of a run: gathered for a checkpoint, and taken over from one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitaos.engine.optim import load_optimizer_state

if TYPE_CHECKING:
    from vitaos.engine.trainer import Trainer


def state_of(trainer: "Trainer") -> dict[str, Any]:
    """All that the rest of a run depends on; see :meth:`vitaos.engine.trainer.Trainer.state_dict`."""
    return {
        "model": trainer.model.state_dict(),
        "ema": None if trainer.ema is None else trainer.ema.module.state_dict(),
        "optimizer": trainer.update.optimizer.state_dict(),
        "loss_scaler": None if trainer.loss_scale is None else trainer.loss_scale.state_dict(),
        "progress": trainer.progress.state_dict() | {"sums": trainer.sums.over_ranks(trainer.world)},
    }


def load_state(trainer: "Trainer", state: Mapping[str, Any]) -> None:
    """Take over a saved state; see :meth:`vitaos.engine.trainer.Trainer.load_state_dict`.

    Raises:
        ValueError: it is of a run that this one cannot continue.
    """
    if (state["ema"] is None) != (trainer.ema is None):
        raise ValueError(
            "the checkpoint was made " + ("without" if trainer.ema else "with") + " an EMA, this run differs"
        )
    if (state["loss_scaler"] is None) != (trainer.loss_scale is None):
        raise ValueError("fp16 runs continue in fp16 only: the checkpoint and this run differ in their loss scale")
    progress = dict(state["progress"])
    sums = progress.pop("sums")
    trainer.progress.load_state_dict(progress)
    trainer.sums.load_state_dict(sums, trainer.world)
    trainer.model.load_state_dict(state["model"])
    trainer.statistics.keep()
    load_optimizer_state(trainer.update.optimizer, state["optimizer"])
    if trainer.ema is not None:
        trainer.ema.module.load_state_dict(state["ema"])
    if trainer.loss_scale is not None:
        trainer.loss_scale.load_state_dict(state["loss_scaler"])
