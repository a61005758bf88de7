"""The training loop.

A run is a sequence of global steps; everything that a step does follows from its number, the seed and the state
before it. So a state saved between any two steps continues as the run that was never interrupted.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitaos.batch import Batch
from vitaos.engine.compilation import choose
from vitaos.engine.conclusion import Conclusion
from vitaos.engine.ema import ModelEma
from vitaos.engine.meter import Meter
from vitaos.engine.micro_batch import add_gradient, warm_up_ddp
from vitaos.engine.precision import LossScale, Precision
from vitaos.engine.profiling import StepProfiler
from vitaos.engine.progress import Progress, Sums
from vitaos.engine.protocols import (
    Checkpoints,
    Evaluate,
    Observe,
    Preemption,
    Schedule,
    Sink,
    TrainingPass,
    TrainLoader,
    TrainTransform,
)
from vitaos.engine.settings import Outcome, Settings
from vitaos.engine.state import load_state, state_of
from vitaos.engine.statistics import RunningStatistics
from vitaos.engine.throughput import Throughput
from vitaos.engine.update import Guard, NonFiniteError, Update
from vitaos.engine.wrap import prepare_network
from vitaos.runtime.world import PendingFlag, World


class Trainer:
    """Trains a model.

    Args:
        model: on `world.device` already, not wrapped.
        loss: maps logits and targets to a scalar mean.
        optimizer: over the model's parameters.
        schedule: learning rate of a global step.
        loader: this rank's micro-batches.
        transform: augmentation on the device.
        evaluate: evaluates a model, on all ranks together.
        world: the processes.
        precision: number format of the forward pass.
        settings: see :class:`Settings`.
        ema: average of the weights, or None.
        checkpoints: writer of states (used by the main rank only), or None to save nothing.
        preemption: whether this process was asked to leave, or None.
        sinks: receivers of the numbers of the run (used by the main rank only).
        observe: further measurements of the raw model for the line of an epoch, made on all ranks.
        training_pass: the part of the model's techniques in a training step, or None.
        frozen: modules that are not trained: in evaluation mode also while the others are in training mode.
        throughput: what the line of an epoch says of the machine, or None.
        identity: what a checkpoint holds beside the state (`format`, `config`, `versions`).
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        loader: TrainLoader,
        transform: TrainTransform,
        evaluate: Evaluate,
        world: World,
        precision: Precision,
        settings: Settings,
        ema: ModelEma | None = None,
        checkpoints: Checkpoints | None = None,
        preemption: Preemption | None = None,
        sinks: Sequence[Sink] = (),
        observe: Observe | None = None,
        training_pass: TrainingPass | None = None,
        throughput: Throughput | None = None,
        identity: Mapping[str, Any] | None = None,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        self.model, self.loss, self.ema = model, loss, ema
        self.schedule, self.loader, self.transform = schedule, loader, transform
        self.world, self.precision, self.settings = world, precision, settings
        self.checkpoints = checkpoints if world.is_main else None
        self.sinks = sinks if world.is_main else ()
        self.frozen = frozen
        self.preemption, self.identity = preemption, dict(identity or {})
        self.training_pass = training_pass
        self.profiler: StepProfiler | None = None

        self.loss_scale = LossScale(world.device) if precision.scales_loss else None
        self.guard = Guard(settings.nonfinite, world.device)
        self.statistics = RunningStatistics(model, world)
        self.update = Update(
            optimizer,
            clip=settings.clip,
            guard=self.guard,
            loss_scale=self.loss_scale,
            ema=ema,
            statistics=self.statistics,
        )
        self.sums = Sums(world.device, training_pass.loss_names if training_pass is not None else ())
        global_batch = settings.batch_size * settings.accumulate * world.size
        self.progress = Progress(settings.seed, global_batch, loader.steps_per_epoch)
        self.last_step = settings.total_steps(loader.steps_per_epoch)
        self.compilation = choose(
            settings.compile,
            world.device,
            recomputes_losses=settings.checkpoint_gradients and bool(self.sums.term_names),
        )
        self.network = prepare_network(
            model,
            world,
            compilation=self.compilation,
            static_shapes=settings.static_shapes,
            channels_last=settings.channels_last,
            checkpoint_gradients=settings.checkpoint_gradients,
        )
        if ema is not None:
            if settings.channels_last:
                ema.module.to(memory_format=torch.channels_last)
            self.compilation.apply(ema.module)  # it is evaluated as often as the model
        self.meter = Meter(
            self.progress,
            self.sums,
            ranks=world.size,
            first_bad_step=self.guard.first_bad_step,
            loss_scale=None if self.loss_scale is None else self.loss_scale.scale,
        )
        self._ddp_is_warm = self.network is model
        self._leave_flag: PendingFlag | None = None
        self.conclusion = Conclusion(
            model=model,
            ema=ema,
            progress=self.progress,
            sums=self.sums,
            last_step=self.last_step,
            evaluate_every=settings.evaluate_every,
            evaluate=evaluate,
            observe=observe,
            throughput=throughput,
            schedule=schedule,
            sinks=self.sinks,
            world=world,
            save=self._save,
        )

    def watch(self, profiler: StepProfiler) -> None:
        """Let a profiler watch the steps to come."""
        self.profiler = profiler

    # The loop.

    def fit(self) -> Outcome:
        """Train to the end, from wherever the state stands.

        Raises:
            NonFiniteError: on all ranks, after saving: before a step that is not finite when settings.nonfinite is
                "stop", after an epoch of nothing but such steps when it is "skip".
        """
        self.conclusion.start()
        while self.progress.step < self.last_step or self.conclusion.is_due():
            stayed = self._train_rest_of_epoch() and self.conclusion.conclude()
            if not stayed:
                self._save(block=True)
                return Outcome("preempted", self.progress)
        if self.checkpoints is not None:
            self.checkpoints.flush()
        return Outcome("finished", self.progress)

    def _train_rest_of_epoch(self) -> bool:
        """Take the remaining steps of the epoch in work; False when the ranks agreed to leave."""
        progress, settings = self.progress, self.settings
        end = min((progress.epoch + 1) * progress.steps_per_epoch, self.last_step)
        if progress.step >= end:
            return True
        batches = self.loader.epoch(progress.epoch, progress.step_in_epoch)
        if self.profiler is not None:
            batches = self.profiler.during("data", batches)
        self.network.train()
        for module in self.frozen:
            module.eval()
        self.meter.start()
        while progress.step < end:
            if self.profiler is not None:
                self.profiler.begin_step()
            self._train_step(batches)
            if self.profiler is not None:
                self.profiler.end_step()
            progress.step += 1
            self._report()
            if progress.step % settings.log_every == 0:
                self.meter.send()
            if self._asked_to_leave():
                self._synchronize()
                return False
            if settings.checkpoint_every and progress.step % settings.checkpoint_every == 0 and progress.step < end:
                self._synchronize()
                self._save()
        self._synchronize()
        # The state of the epoch's end is saved once, after the evaluation, or on leaving before or within it.
        return not self._asked_to_leave(now=True)

    def _train_step(self, batches: Iterator[Batch]) -> None:
        """One global step: gradients of its micro-batches, then the update. Nothing here waits for the device."""
        step, parts = self.progress.step, self.settings.accumulate
        share, part = torch.zeros((), device=self.world.device), -1
        terms = torch.zeros(len(self.sums.term_names), device=self.world.device) if self.sums.term_names else None
        for part, batch in enumerate(itertools.islice(batches, parts)):
            if not self._ddp_is_warm:
                warm_up_ddp(self, batch)
                self._ddp_is_warm = True
            loss, added = add_gradient(self, batch, part)
            share += loss
            if terms is not None and added is not None:
                terms += added
        assert part == parts - 1, f"the loader ended within global step {step}"
        with self.phase("update"):
            decision = self.update.apply(self.model, step, self.schedule(step))
            self.sums.add(share, decision.norm, decision.skip_step, terms)
            if self.settings.nonfinite == "skip":
                self.sums.skipped += decision.nonfinite
            self.update.zero_grad()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """What the profiler, where there is one, counts to this part of a step."""
        return nullcontext() if self.profiler is None else self.profiler.phase(name)

    def pass_of_step(self, step: int) -> AbstractContextManager[Mapping[str, Tensor]]:
        """The techniques' part of a forward and backward pass: gives the terms that they add to the loss."""
        return nullcontext({}) if self.training_pass is None else self.training_pass(step)

    # The state.

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the run depends on; a collective call, between two steps, after :meth:`_synchronize`."""
        return state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state (on every rank); :meth:`fit` goes on from it.

        Raises:
            ValueError: the state is of a run that this one cannot continue: other seed, global batch, precision or EMA.
        """
        load_state(self, state)

    def _save(self, *, kind: Literal["last", "best", "both"] = "last", block: bool = False) -> None:
        state = self.identity | self.state_dict()
        if self.checkpoints is not None:
            self.checkpoints.save(state, step=self.progress.step, kind=kind, block=block)

    # Between the steps.

    def _report(self) -> None:
        """Pass on the numbers sent a step ago; stop where they show a step that is not finite."""
        received = self.meter.receive()
        if received is None:
            return
        first_bad, record = received
        if first_bad >= 0:
            self._stop_before(first_bad)
        record |= {"last_step": self.last_step, "lr": self.schedule(record["step"] - 1)}
        for sink in self.sinks:
            sink.log(record)

    def _synchronize(self) -> None:
        """Wait for the device: nothing is on its way afterwards, and every step so far is known to be good."""
        self._report()
        first_bad = int(self.guard.first_bad_step)
        if first_bad >= 0:
            self._stop_before(first_bad)
        self.meter.stop()

    def _stop_before(self, step: int) -> None:
        """Save the state, which is as it was before `step`, and raise; every rank gets here with the same number."""
        self.meter.stop()
        self.guard.first_bad_step.fill_(-1)
        self.progress.step = step
        self._save(block=True)
        raise NonFiniteError(step)

    def _asked_to_leave(self, *, now: bool = False) -> bool:
        """Whether any rank was asked to leave a step ago (or `now`): the same on every rank. Puts the next question."""
        answer = self._leave_flag is not None and self._leave_flag.result()
        self._leave_flag = self.world.any_rank(self.preemption is not None and self.preemption.requested)
        return answer or (now and self._leave_flag.result())
