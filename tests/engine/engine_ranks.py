"""What several ranks do together, run by torchrun for test_ranks: each rank writes what it saw to its own file."""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from miniature import (
    CLASSES,
    AskedAt,
    EvaluationImages,
    InMemoryCheckpoints,
    NaNTransform,
    RecordingSink,
    add_loss_term,
    copy_of,
    make_trainer,
    normalize,
    tiny_vit,
)

from vitaos.assembly.schemas import TRAIN_SCHEMA
from vitaos.assembly.start import choose_run_folder
from vitaos.data.corrupt_images import CorruptImageError, CorruptImages
from vitaos.data.folder import scan
from vitaos.engine.calibration import calibrate
from vitaos.engine.evaluator import evaluate
from vitaos.engine.features import Features, NearestNeighbors, extract, fit_linear, gather
from vitaos.engine.precision import build_precision
from vitaos.engine.tally import EvaluationInterrupted
from vitaos.engine.trainer import Trainer
from vitaos.engine.update import NonFiniteError
from vitaos.runtime.world import World, initialize, shutdown
from vitaos.techniques import attach


def collectives(world: World) -> dict[str, Any]:
    """Agreement, sums and broadcasts; and what a question costs a step."""
    answers = [world.any_rank(flag).result() for flag in (False, world.rank == 1)]
    begin = time.perf_counter()
    question = world.any_rank(False)
    for _ in range(200):
        question.result()
        question = world.any_rank(False)
    cost = (time.perf_counter() - begin) / 200
    question.result()
    return {
        "answers": answers,
        "sum": int(world.all_reduce(torch.tensor(world.rank + 1))),
        "name": world.broadcast_object(f"from {world.rank}"),
        "again": initialize("cpu") is world,
        "agree_us": cost * 1e6,
    }


def looks_at_files(world: World) -> dict[str, Any]:
    """A folder with a file that is no image, scanned by all: which files this rank opens, and what it is told."""
    opened: list[str] = []
    look = scan._why_no_image

    def counted(path: Path) -> str | None:
        opened.append(path.name)
        return look(path)

    def fails() -> dict[int, str]:
        raise ValueError(f"rank {world.rank} failed")

    told = []
    with tempfile.TemporaryDirectory() as folder, patch.object(scan, "_why_no_image", counted):
        (Path(folder) / "cat").mkdir()
        (Path(folder) / "cat/a.png").write_bytes(b"\x89PNG")
        (Path(folder) / "cat/b.png").write_bytes(b"no image" if world.local_rank == 0 else b"\x89PNG")
        kept = len(scan.scan_folder(folder, on_bad="skip", once=world.once_a_node))
        for once in (world.once_a_node, lambda _: world.once_a_node(fails)):
            try:
                scan.scan_folder(folder, once=once)
            except ValueError as error:
                told.append(str(error).replace(folder, "ROOT"))
    return {"opened": opened, "kept": kept, "told": told}


def wide(**keywords: Any) -> Any:
    """Wide enough for several of DDP's buckets, with running statistics and vectors."""
    return attach(tiny_vit(embed_dim=128, **keywords), re_attention=True, sigma_reparam=True)


def resumption(world: World) -> dict[str, Any]:
    """A run with dropout and accumulation, whole and from a state within its first epoch, each with a new DDP."""
    keywords: dict[str, Any] = {"batch_size": 2, "accumulate": 2, "epochs": 2, "images": 48}
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    whole = make_trainer(
        world, model=wide(proj_drop_rate=0.1), sinks=[sink], checkpoints=checkpoints, checkpoint_every=1, **keywords
    )
    whole.fit()
    saved = world.broadcast_object(checkpoints.saved[2][1] if world.is_main else None)
    again = make_trainer(world, model=wide(proj_drop_rate=0.1), sinks=[later := RecordingSink()], **keywords)
    again.load_state_dict(saved)
    again.fit()
    return {
        "whole": copy_of(whole.state_dict()),
        "again": copy_of(again.state_dict()),
        "lines": sink.lines,
        "again_lines": later.lines,
        "resumed_at": saved["progress"]["step"],
    }


def plain_run(world: World) -> dict[str, Any]:
    """Without dropout, with a term added to the loss: to be compared with one process, and continued by one."""
    sink, checkpoints = RecordingSink(), InMemoryCheckpoints()
    model = add_loss_term(tiny_vit())
    trainer = make_trainer(
        world, model=model, batch_size=12 // world.size, sinks=[sink], checkpoints=checkpoints, checkpoint_every=3
    )
    trainer.fit()
    return {
        "model": copy_of(trainer.model.state_dict()),
        "lines": sink.lines,
        "saved": checkpoints.saved[0][1] if checkpoints.saved else None,
    }


class OnOneRank(NaNTransform):
    """NaN in the images of rank 1 only."""

    def __init__(self, world: World, *steps: int) -> None:
        super().__init__(*(steps if world.rank == 1 else ()), position=1)


def non_finite(world: World) -> dict[str, Any]:
    """NaN on one rank: what each rank concludes."""

    def build(mode: str) -> Trainer:
        return make_trainer(
            world, model=tiny_vit(), batch_size=4, epochs=1, transform=OnOneRank(world, 3), nonfinite=mode, log_every=2
        )

    stopping, skipping = build("stop"), build("skip")
    try:
        stopping.fit()
        stopped_at = None
    except NonFiniteError as error:
        stopped_at = error.step
    skipping.fit()
    return {
        "stopped_at": stopped_at,
        "skipped": int(skipping.sums.skipped),
        "stopped_model": copy_of(stopping.model.state_dict()),
        "skipped_model": copy_of(skipping.model.state_dict()),
    }


def leaving(world: World) -> dict[str, Any]:
    """One rank is asked to leave: all do, at the same step."""
    asked = AskedAt(3) if world.rank == 1 else None
    outcome = make_trainer(world, batch_size=4, preemption=asked).fit()
    return {"status": outcome.status, "step": outcome.progress.step}


def feature_judges(world: World) -> dict[str, Any]:
    """Features of uneven shares (one rank has none), what neighbors and a linear layer answer on them, calibration."""
    number_format = build_precision("fp32", world.device)
    model = Features(tiny_vit(), "pooled")
    words: dict[str, Any] = {"world": world, "precision": number_format}
    (of_bank,) = extract([model], EvaluationImages(world, images=53), normalize, **words)
    bank = gather(of_bank, CLASSES, world=world)
    (shares,) = extract([model], EvaluationImages(world, images=2), normalize, **words)
    found: dict[str, Any] = {"bank": bank.features, "targets": bank.targets}
    heads = {"knn": NearestNeighbors(bank, 5, 0.07), "linear": fit_linear(bank, 1.0, world=world)}
    for name, head in heads.items():
        (result,) = evaluate(
            [head],
            shares,
            lambda images: images,
            num_classes=CLASSES,
            keep_predictions=True,
            keep_confidences=True,
            **words,
        )
        calibration = calibrate(result.confidences)
        found[name] = [result.predictions.predicted.tolist(), result.count, calibration.images]
        found[f"{name} measures"] = [result.loss, calibration.ece, calibration.brier]
    return found


def evaluations(world: World) -> dict[str, Any]:
    """Counts of datasets whose sizes divide by nothing, one smaller than the number of ranks; and an interruption."""
    number_format = build_precision("fp32", world.device)

    def evaluate_share(images: int, interrupted: Callable[[], bool] | None = None) -> Any:
        (result,) = evaluate(
            [tiny_vit()],
            EvaluationImages(world, images=images),
            normalize,
            world=world,
            precision=number_format,
            num_classes=CLASSES,
            interrupted=interrupted,
            keep_predictions=True,
        )
        return result

    found: dict[str, Any] = {}
    for images in (53, 2, 1):
        result = evaluate_share(images)
        found[str(images)] = [
            result.count,
            result.correct1,
            result.correct5,
            result.class_correct5.tolist(),
            result.predictions.target.tolist(),
            result.predictions.predicted.tolist(),
            result.predictions.correct.tolist(),
            result.loss,
        ]
    try:
        evaluate_share(53, lambda: world.rank == 2)
        found["interrupted"] = False
    except EvaluationInterrupted:
        found["interrupted"] = True
    return found


def unlike_copies(world: World) -> dict[str, Any]:
    """Data that differs on the last rank: what each rank is told, before a run and by an evaluation."""
    split = {"kind": "folder", "class_names": ["a", "b"], "class_counts": [12, 12], "sha256": "0"}
    is_last = world.rank == world.size - 1
    found: dict[str, Any] = {}
    for key, value in (("class_counts", [12, 10]), ("class_names", ["a", "c"]), ("sha256", "1")):
        changed = split | ({key: value} if is_last else {})
        try:
            choose_run_folder(TRAIN_SCHEMA(name="a"), world, {"train": split, "val": changed})
        except ValueError as error:
            found[key] = str(error)
    try:
        # The last rank's share of 24 images has 8; of 22 it has 7.
        loader = EvaluationImages(world, images=22 if is_last else 24)
        number_format = build_precision("fp32", world.device)
        evaluate(
            [tiny_vit()],
            loader,
            normalize,
            world=world,
            precision=number_format,
            num_classes=CLASSES,
            keep_predictions=True,
        )
    except ValueError as error:
        found["evaluated"] = str(error)
    bad = CorruptImages(24, "skip", "photos")  # of which one may be bad; each rank meets one of its own
    found["decoded instead"], _ = bad.decode(world.rank * 5, no_multiple_of_five)
    try:
        bad.check_over_ranks(world.gather_objects)
    except CorruptImageError as error:
        found["bad"] = str(error)
    return found


def no_multiple_of_five(index: int) -> int:
    if index % 5 == 0:
        raise CorruptImageError(f"{index}.jpg is not a readable image")
    return index


SCENARIOS = (
    collectives,
    looks_at_files,
    resumption,
    plain_run,
    non_finite,
    leaving,
    evaluations,
    feature_judges,
    unlike_copies,
)


def main(folder: str) -> None:
    world = initialize("cpu")
    torch.save({scenario.__name__: scenario(world) for scenario in SCENARIOS}, Path(folder) / f"{world.rank}.pt")
    shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
