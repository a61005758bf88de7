"""The story of a run: configuration -> data -> model -> engine -> outputs."""

from contextlib import ExitStack, closing
from typing import NamedTuple

from vitaos.assembly import builders, observing, session, start
from vitaos.assembly.initial_weights import load_initial_weights
from vitaos.assembly.possible import check_possible
from vitaos.assembly.teacher import build_teacher
from vitaos.assembly.training import build_trainer
from vitaos.config import TrainConfig
from vitaos.engine.precision import determinism
from vitaos.outputs.run_dir import RunDir
from vitaos.runtime.preemption import Preemption
from vitaos.runtime.watchdog import Watchdog
from vitaos.runtime.world import initialize


class Run(NamedTuple):
    """How a start of a run ended: its exit status (:func:`vitaos.assembly.session.fit`), and where it wrote."""

    status: int
    folder: RunDir


def train(config: TrainConfig) -> Run:
    """One start of a run, to its end.

    Args:
        config: checked.

    Raises:
        ValueError: the run cannot be had, or its folder not be continued; the message says what would be right.
    """
    # The order of start-up: what needs no data or device is checked first, so that a mistake costs nothing. The ranks
    # watch each other before any waits for another, and requests to leave are heard before anything is taken. The data
    # is opened, and a teacher read, before the run folder, so that a refused run leaves none; the folder is locked
    # before the model is built, since it holds where the run goes on. Weights are loaded last, into the finished
    # trainer, so that a resumed run starts from exactly the objects of a new one.
    check_possible(config)
    with ExitStack() as stack:
        if config.deterministic:
            stack.enter_context(determinism())
        world = initialize(config.device)
        watchdog = stack.enter_context(Watchdog(world.rank, world.size, world.broadcast_object))
        preemption = stack.enter_context(Preemption())
        loaders = stack.enter_context(closing(builders.build_loaders(config, world)))
        teacher = build_teacher(config, world, loaders.num_classes, loaders.class_names)
        folder = stack.enter_context(start.choose_run_folder(config, world, loaders.fingerprint))
        found = start.open_run_folder(config, folder, world, loaders, teacher)
        model = builders.build_model(config, loaders.num_classes, recipe=config.recipe).to(world.device)
        loaded = load_initial_weights(config, model) if found is None else None
        outputs = stack.enter_context(session.Outputs(config, folder, world, loaders, found))
        watchdog.before_exit = outputs.finish_saves
        outputs.log(session.run_summary(config, world, loaders, model))
        outputs.log(str(loaded) if loaded else None)

        trainer = build_trainer(
            config,
            model,
            loaders.train,
            world,
            num_classes=loaders.num_classes,
            evaluate=builders.build_evaluate_fn(config, loaders, world, lambda: preemption.requested),
            observe=observing.build_observe_fn(config, loaders, world),
            preemption=preemption,
            checkpoints=outputs.checkpoints,
            sinks=outputs.sinks,
            throughput=session.build_throughput(config, world, loaders.num_classes),
            identity=session.checkpoint_metadata(config, loaders, world, teacher),
            teacher=teacher,
        )
        outputs.log(trainer.compilation.note)
        builders.plan_ahead(loaders.train, trainer.transform, world.device)
        if found is not None:
            start.load_state(trainer, found, world)
        if config.profile:
            stack.enter_context(session.watch(trainer, outputs))
        return Run(session.fit(trainer, world, outputs), folder)
