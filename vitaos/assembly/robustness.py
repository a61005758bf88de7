"""Robustness tests of a checkpoint: what is asked on which images, and where JSON, CSV and figures go."""

import logging
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from vitaos.analysis.robustness import distance, heads, patches, registers, shifts, temperature
from vitaos.analysis.robustness.figures import save_figure
from vitaos.analysis.robustness.samples import Respondent, Samples
from vitaos.analysis.robustness.table import Table
from vitaos.assembly import builders, imagenet
from vitaos.assembly.eval_target import EvalTarget, build_model, resolve_checkpoint
from vitaos.assembly.evaluation_report import results_folder, results_stem
from vitaos.assembly.judge import zero_learned_values
from vitaos.batch import Batch
from vitaos.checkpoint.folder import run_folder_of
from vitaos.config import EvalConfig, enabled_techniques
from vitaos.engine.precision import build_precision
from vitaos.files import file_name
from vitaos.runtime.world import World, initialize
from vitaos.techniques.sigma_reparam import with_plain_layers

_logger = logging.getLogger(__name__)


def test(config: EvalConfig) -> list[Path]:
    """Make the tests that ``robustness`` names and write their tables and figures.

    Returns:
        The files written.

    Raises:
        ValueError: several processes, or a model or images that a test cannot be made on.
    """
    world = initialize(config.device)
    if world.size > 1:
        raise ValueError("robustness= looks at a few images by one process: leave torchrun away")
    subject = _subject(config, world)
    names = list(_TESTS) if config.robustness == "all" else [str(config.robustness)]
    folder = results_folder(config, subject.target)
    written: list[Path] = []
    refusals: list[ValueError] = []
    for name in names:
        try:
            tables = _TESTS[name](subject)
        except ValueError as error:  # not for such a model, most often: the others may be
            refusals.append(error)
            continue
        for table in tables:
            written += _write(table, subject, folder)
    if refusals and not written:
        raise refusals[0]
    for refusal in refusals:
        _logger.warning("robustness=all left out: %s", refusal)
    return written


@dataclass(frozen=True)
class _Subject:
    """What is tested.

    Attributes:
        config: of the evaluation.
        target: the checkpoint.
        weights: ``raw`` or ``ema``, which of its weights are tested.
        respondent: its model, as it is asked.
        world: of this process.
    """

    config: EvalConfig
    target: EvalTarget
    weights: str
    respondent: Respondent
    world: World

    @property
    def label(self) -> str:
        """Name of the run or file."""
        run = run_folder_of(self.target.file)
        return self.target.file.name if run is None else run.name

    def samples(self, wider: int = 0) -> Samples:
        """Evenly spaced images of the dataset, as they are evaluated or with so many more pixels around them.

        Raises:
            ValueError: there are none.
        """
        size = self.target.img_size
        loader = builders.build_eval_loader(
            self.target.data,
            world=self.world,
            img_size=size + wider,
            eval_crop=self.crop * (size + wider) / size,
            batch_size=self.config.batch_size,
        )
        with closing(loader):
            return _gather(loader.evenly_spaced(self.config.robustness_images))

    @property
    def crop(self) -> float:
        """Share of the shorter side that is evaluated."""
        return self.config.eval_crop or self.target.recipe.eval_crop

    def patch(self, test: str) -> int:
        """Side of the model's patches.

        Raises:
            ValueError: it has none, or they are not square.
        """
        patch = shifts.patch_of(self.respondent.model)
        if patch is None:
            raise ValueError(f"robustness={test} needs a model of square patches, as timm's ViT, CaiT and Swin have")
        return patch


def _subject(config: EvalConfig, world: World) -> _Subject:
    target = resolve_checkpoint(config, str(config.checkpoint))
    if (layout := imagenet.layout(config.dataset)) is not None:
        target = replace(target, data=replace(target.data, prepare=layout))
    with closing(
        builders.build_eval_loader(
            target.data, world=world, img_size=target.img_size, eval_crop=1.0, batch_size=config.batch_size
        )
    ) as loader:
        classes = imagenet.match_classes(config.dataset, target.class_names, loader.class_names, target.file)
    weights = target.choose_weights(config.weights)[-1]
    model: nn.Module = build_model(target, classes.answers).to(world.device).eval()
    target.load_weights(model, weights)
    if config.zero_learned:
        zero_learned_values(model)
    model = with_plain_layers(model)  # temperature and heads scale parts of the weights
    indices = None if classes.indices is None else torch.tensor(classes.indices, device=world.device)
    respondent = Respondent(
        model,
        builders.build_normalize(target.data),
        build_precision(config.precision, world.device).autocast,
        world.device,
        config.batch_size,
        transform=shifts.anchoring(model) if config.polyphase_anchoring else None,
        class_indices=indices,
    )
    return _Subject(config, target, weights, respondent, world)


def _gather(batches: Iterable[Batch]) -> Samples:
    found = list(batches)
    if not found:
        raise ValueError("robustness=: there are no images to look at")
    images, targets, positions = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Samples(images, targets, positions)


def _shift(subject: _Subject) -> list[Table]:
    size, patch, samples = subject.target.img_size, shifts.patch_of(subject.respondent.model), subject.samples()
    if patch is not None and size % patch:
        patch = None  # nothing to anchor to
    larger_is_there = subject.crop * (size + shifts.LARGEST_SHIFT) <= size
    wide = subject.samples(shifts.LARGEST_SHIFT) if larger_is_there else shifts.with_repeated_edges(samples)
    table = shifts.measure_shifts(subject.respondent, samples, wide, patch)
    entering = "pixels of the image" if larger_is_there else "the edge, repeated: evaluation sees the whole image"
    return [replace(table, facts={**table.facts, "enters_cropped_shifts": entering})]


def _patches(subject: _Subject) -> list[Table]:
    return list(patches.measure_patches(subject.respondent, subject.samples(), subject.patch("patches")))


def _temperature(subject: _Subject) -> list[Table]:
    return [temperature.measure_temperatures(subject.respondent, subject.samples())]


def _heads(subject: _Subject) -> list[Table]:
    return [heads.measure_heads(subject.respondent, subject.samples())]


def _distance(subject: _Subject) -> list[Table]:
    respondent, patch = subject.respondent, subject.patch("distance")
    with respondent.autocast():
        return [distance.measure_distances(respondent.model, respondent.batches(subject.samples().images), patch)]


def _registers(subject: _Subject) -> list[Table]:
    return [registers.measure_registers(subject.respondent, subject.samples())]


_TESTS: Final[dict[str, Callable[[_Subject], list[Table]]]] = {
    "shift": _shift,
    "patches": _patches,
    "temperature": _temperature,
    "heads": _heads,
    "distance": _distance,
    "registers": _registers,
}


def _write(table: Table, subject: _Subject, folder: Path) -> list[Path]:
    """A table as CSV; with JSON and a figure where it is a test of its own."""
    config, target = subject.config, subject.target
    data = file_name(target.data.name)
    stem = folder / f"{results_stem(config, target, config.dataset)}-robustness-{table.test}"
    files = [stem.with_name(f"{stem.name}.csv")]
    table.write_csv(files[0])
    if table.test in _TESTS:
        files += [stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.png")]
        table.write_json(files[1], _described(subject))
        label = subject.label
        save_figure(table, files[2], [f"{label}, {subject.weights} weights, {table.facts['images']} images of {data}"])
    return files


def _described(subject: _Subject) -> dict[str, Any]:
    config, target = subject.config, subject.target
    model = target.model_config.model
    return {
        "checkpoint": str(target.path),
        "weights": subject.weights,
        "step": target.step,
        "model": None if model is None else model.name,
        "techniques": enabled_techniques(target.model_config),
        "data": target.data.name,
        "dataset": config.dataset,
        "img_size": target.img_size,
        "zero_learned": config.zero_learned,
        "polyphase_anchoring": config.polyphase_anchoring,
    }
