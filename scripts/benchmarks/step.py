"""A training step and a forward pass of a plain model and of the same model with techniques.

All variants live side by side and take turns, in an order that rotates from round to round, so that whatever else the
machine does falls on all of them alike. Reported are medians over the rounds; a ratio is the median of the ratios
within the rounds.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scripts.benchmarks.hardware import PeakMemory, synchronize
from vitaos.engine.loss import CrossEntropy
from vitaos.engine.optim import build_optimizer
from vitaos.engine.precision import LossScale, Precision
from vitaos.engine.update import Guard, Update

TRAIN, FORWARD = "train", "forward"
PLAIN: Final = "plain"


@dataclass(frozen=True)
class Row:
    """What was measured of one variant.

    Attributes:
        name: "plain" or the techniques.
        mode: "train" (forward, backward, fused AdamW) or "forward" (eval mode, no gradients).
        compiled: by torch.compile.
        milliseconds: median of a step.
        images_per_s: at that median.
        ratio: of the step's time to the plain model's of the same mode, compiled or eager alike.
        processor_ratio: the same of the processor time, which other programs on the machine disturb less (on a GPU it
            only shows what the host has to do).
        peak_bytes: most memory in use during its turns, other variants' models included.
        utilisation: share of the device's peak that the model's own FLOPs come to.
    """

    name: str
    mode: str
    compiled: bool
    milliseconds: float
    images_per_s: float
    ratio: float
    processor_ratio: float
    peak_bytes: int
    utilisation: float


class Variant:
    """One model in one mode, ready to take a step on the same batch each time."""

    def __init__(
        self, model: nn.Module, mode: str, compiled: bool, batch: tuple[Tensor, Tensor], precision: Precision
    ) -> None:
        self.model = model.train(mode == TRAIN)
        self.mode, self.precision, self.number = mode, precision, 0
        self.images, self.targets = batch
        self.peak_bytes = 0
        self.seconds: list[float] = []
        self.processor: list[float] = []
        self.memory = PeakMemory(self.images.device)
        if compiled:
            model.compile()
        if mode == TRAIN:
            device = self.images.device
            scale = LossScale(device) if precision.scales_loss else None
            optimizer = build_optimizer(model, lr=1e-4, weight_decay=0.05)
            self.loss = CrossEntropy(0.1)
            self.update = Update(optimizer, clip=None, guard=Guard("stop", device), loss_scale=scale, ema=None)

    def step(self) -> None:
        """One step, as the engine takes it."""
        if self.mode == TRAIN:
            with self.precision.autocast():
                logits = self.model(self.images)
            loss = self.loss(logits, self.targets)
            loss.backward(self.update.loss_gradient(loss, 1.0))
            self.update.apply(self.model, self.number, 1e-4)
            self.update.zero_grad()
        else:
            with torch.no_grad(), self.precision.autocast():
                self.model(self.images)
        self.number += 1

    def turn(self, steps: int) -> None:
        """Some steps, timed together."""
        device = self.images.device
        self.memory.start()
        synchronize(device)
        begin, spent = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step()
        synchronize(device)
        self.seconds.append((time.perf_counter() - begin) / steps)
        self.processor.append((time.process_time() - spent) / steps)
        self.peak_bytes = max(self.peak_bytes, self.memory.bytes())


Key = tuple[str, str, bool]


def measure_step(
    makers: Mapping[str, Callable[[], nn.Module]],
    *,
    modes: tuple[str, ...],
    compiled: tuple[bool, ...],
    batch_size: int,
    img_size: int,
    num_classes: int,
    device: torch.device,
    precision: Precision,
    peak: float,
    rounds: int,
    steps: int,
    warmup: int = 2,
) -> list[Row]:
    """Measure every variant.

    Args:
        makers: makes each model by its name; "plain" must be among them.
        modes, compiled: what to measure of each.
        batch_size, img_size, num_classes: of the synthetic batch.
        device, precision: where and in which number format.
        peak: FLOP/s of the device, for the utilisation.
        rounds, steps, warmup: turns of each variant, steps in a turn, and steps before the first turn.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch_size, 3, img_size, img_size, generator=generator).to(device)
    targets = torch.randint(num_classes, (batch_size,), generator=generator).to(device)
    keys = [(name, mode, how) for mode in modes for how in compiled for name in makers]
    variants: dict[Key, Variant] = {}
    for name, mode, how in keys:
        variants[name, mode, how] = variant = Variant(
            makers[name]().to(device), mode, how, (images, targets), precision
        )
        for _ in range(warmup):
            variant.step()
    for number in range(rounds):
        shift = number % len(keys)
        for key in keys[shift:] + keys[:shift]:
            variants[key].turn(steps)
    flops = {
        (name, mode): count_flops(make, img_size, backward=mode == TRAIN)
        for name, make in makers.items()
        for mode in modes
    }
    return [_row(key, variants, batch_size, flops[key[:2]] / peak) for key in keys]


def _row(key: Key, variants: Mapping[Key, Variant], batch_size: int, ideal_seconds: float) -> Row:
    name, mode, compiled = key
    variant, plain = variants[key], variants[PLAIN, mode, compiled]
    median = statistics.median(variant.seconds)
    return Row(
        name=name,
        mode=mode,
        compiled=compiled,
        milliseconds=1000 * median,
        images_per_s=batch_size / median,
        ratio=_ratio(variant.seconds, plain.seconds),
        processor_ratio=_ratio(variant.processor, plain.processor),
        peak_bytes=variant.peak_bytes,
        utilisation=ideal_seconds * batch_size / median,
    )


def _ratio(taken: list[float], plain: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(taken, plain, strict=True))


def count_flops(make: Callable[[], nn.Module], img_size: int, *, backward: bool) -> float:
    """FLOPs (two for a multiply-add) of one image through a model, counted without computing anything."""
    model = make().to("meta")
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.empty(1, 3, img_size, img_size, device="meta"))
        if backward:
            logits.sum().backward()
    return float(counter.get_total_flops())


def table(rows: list[Row]) -> list[str]:
    """The rows as lines of a Markdown table."""
    lines = [
        "| model | step | ms | images/s | x plain | x plain, processor time | peak MiB | FLOP utilisation |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        how = f"{row.mode}, compiled" if row.compiled else row.mode
        lines.append(
            f"| {row.name} | {how} | {row.milliseconds:.1f} | {row.images_per_s:.1f} | {row.ratio:.3f} "
            f"| {row.processor_ratio:.3f} | {row.peak_bytes / 2**20:.0f} | {100 * row.utilisation:.1f}% |"
        )
    return lines
