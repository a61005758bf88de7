"""The conclusion of an epoch: its evaluation, its line of metrics, and the state saved after both."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from vitaos.engine.ema import ModelEma
from vitaos.engine.progress import Progress, Sums
from vitaos.engine.protocols import Evaluate, Observe, SaveState, Schedule, Sink
from vitaos.engine.tally import EvaluationInterrupted
from vitaos.engine.throughput import Throughput
from vitaos.engine.update import NonFiniteError
from vitaos.runtime.world import World


class Conclusion:
    """Concludes epochs, and the run where it ends within one.

    Args:
        model, ema: what is evaluated: the raw weights, and their average where there is one.
        progress, sums: where the run stands; the trainer counts steps in them, a conclusion closes epochs.
        last_step: steps of the whole run.
        evaluate_every: epochs between two evaluations; the last epoch always has one.
        evaluate, observe, throughput, schedule: see :class:`vitaos.engine.trainer.Trainer`.
        sinks: receivers of the line; none but on the main rank.
        save: writes the state of the run; called on all ranks.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        ema: ModelEma | None,
        progress: Progress,
        sums: Sums,
        last_step: int,
        evaluate_every: int,
        evaluate: Evaluate,
        observe: Observe | None,
        throughput: Throughput | None,
        schedule: Schedule,
        sinks: Sequence[Sink],
        world: World,
        save: SaveState,
    ) -> None:
        self.model, self.ema, self.progress, self.sums = model, ema, progress, sums
        self.last_step, self.evaluate_every = last_step, evaluate_every
        self.evaluate, self.observe, self.throughput, self.schedule = evaluate, observe, throughput, schedule
        self.sinks, self.world, self.save = sinks, world, save
        self._skipped_before = 0

    def start(self) -> None:
        """A run starts or continues: receivers keep the lines that belong to it."""
        self._skipped_before = int(self.sums.skipped) if self.progress.step_in_epoch == 0 else 0
        recorded_step = self._reopen_epoch()
        for sink in self.sinks:
            sink.rewind(recorded_step)

    def is_due(self) -> bool:
        """At the end of an epoch, or of the run within one, until its line of metrics is recorded."""
        progress = self.progress
        at_an_end = progress.step == self.last_step or progress.step_in_epoch == progress.steps_per_epoch
        return at_an_end and progress.step > 0 and progress.evaluated_step != progress.step

    def conclude(self) -> bool:
        """Evaluate, record the line of the epoch, save; False when a request to leave interrupted the evaluation.

        Raises:
            NonFiniteError: on all ranks, after saving: every step of the epoch was skipped as not finite.
        """
        progress, is_last = self.progress, self.progress.step == self.last_step
        line: dict[str, Any] = {
            "epoch": progress.epoch,
            "step": progress.step,
            "lr": self.schedule(progress.step - 1),
            **self.sums.means(self.world),
        }
        if is_last or (progress.epoch + 1) % self.evaluate_every == 0:
            try:
                line |= self._evaluations()
            except EvaluationInterrupted:
                return False
        if self.observe is not None:
            line |= self.observe(self.model, progress.epoch, is_last)
        improved = progress.note_top1(max(line.get("val_top1", -1.0), line.get("ema_top1", -1.0)))
        line |= self._rates()
        for sink in self.sinks:
            sink.metrics(line)
        self._stop_if_all_skipped(line)
        self._close_epoch()
        self.save(kind="both" if improved else "last")
        return True

    def _reopen_epoch(self) -> int:
        """The step up to which lines of metrics stay; -1 for none.

        Where a start with fewer steps ended within an epoch, its line makes room for that of the whole epoch.
        """
        progress = self.progress
        if progress.evaluated_step == progress.step < self.last_step and progress.step_in_epoch > 0:
            progress.metrics_lines -= 1
            return progress.evaluated_step - 1
        return progress.evaluated_step

    def _evaluations(self) -> dict[str, float]:
        judged = {"val": self.model} | ({} if self.ema is None else {"ema": self.ema.module})
        found = zip(judged, self.evaluate(list(judged.values())), strict=True)
        return {f"{kind}_{name}": value for kind, metrics in found for name, value in metrics.items()}

    def _rates(self) -> dict[str, Any]:
        progress = self.progress
        images_per_s = progress.step_in_epoch * progress.global_batch / max(progress.epoch_seconds, 1e-9)
        return {
            "images_per_s": images_per_s,
            **(self.throughput(images_per_s) if self.throughput is not None else {}),
            "train_seconds": progress.train_seconds,
            "skipped_steps": int(self.sums.skipped),
        }

    def _stop_if_all_skipped(self, line: Mapping[str, Any]) -> None:
        """Raise when every step of an epoch was skipped as not finite: the epochs after it would be no different.

        The state saved here says that the epoch's conclusion is due, so that the same command ends in the same way.
        """
        skipped, self._skipped_before = line["skipped_steps"] - self._skipped_before, line["skipped_steps"]
        if skipped > 0 and math.isnan(line["train_loss"]):
            self.save(block=True)
            raise NonFiniteError(
                self.progress.step,
                f"every step of epoch {line['epoch'] + 1} was skipped, since its loss or gradient was NaN or infinite "
                f"({line['skipped_steps']} of {self.progress.step} steps in all): nothing is learned any more. Try "
                "precision=bf16 or fp32, a lower lr, or a gradient clip (recipe.clip=1.0)",
            )

    def _close_epoch(self) -> None:
        progress = self.progress
        progress.metrics_lines += 1
        progress.evaluated_step = progress.step
        if progress.step_in_epoch == progress.steps_per_epoch:
            progress.epoch += 1
            progress.epoch_seconds = 0.0
            self.sums.start_epoch()
