"""A run in miniature for the engine's tests: real timm ViTs, images in memory, everything else the engine's own."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitaos.batch import Batch
from vitaos.counter_rng import mix
from vitaos.engine.ema import ModelEma
from vitaos.engine.evaluator import evaluate
from vitaos.engine.loss import CrossEntropy
from vitaos.engine.optim import build_optimizer
from vitaos.engine.precision import LossScale, build_precision
from vitaos.engine.schedule import build_schedule
from vitaos.engine.settings import Settings
from vitaos.engine.trainer import Trainer
from vitaos.runtime.world import World
from vitaos.techniques.losses import LossTerm, TrainingPass
from vitaos.techniques.record import share_record
from vitaos.techniques.sites import fill, find_sites, open_slots

ALONE = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
TIMES = ("images_per_s", "tflops", "mfu", "memory_gb", "train_seconds")
CLASSES = 10
SIZE = 8


def images_of(indices: Tensor) -> tuple[Tensor, Tensor]:
    """(images uint8, labels) of a learnable dataset: the class is a bright column."""
    labels = indices % CLASSES
    noise = torch.from_numpy(
        (mix(7, indices.numpy()[:, None], torch.arange(3 * SIZE * SIZE).numpy()) % 100).astype("uint8")
    )
    images = noise.reshape(-1, 3, SIZE, SIZE)
    images[torch.arange(len(indices)), labels % 3, :, labels % SIZE] = 255
    return images, labels


class TrainImages:
    """The training loader: steps of `batch_size x accumulate x world` images, dealt as the data package deals them."""

    def __init__(self, world: World, *, batch_size: int, accumulate: int = 1, images: int = 96) -> None:
        self.world, self.batch_size, self.accumulate = world, batch_size, accumulate
        self.global_batch = batch_size * accumulate * world.size
        self.images_per_epoch = images
        self.steps_per_epoch = images // self.global_batch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        order = torch.from_numpy(mix(3, epoch, torch.arange(self.images_per_epoch).numpy()).astype("int64")).argsort()
        for step in range(start_step, self.steps_per_epoch):
            block = torch.arange(step * self.global_batch, (step + 1) * self.global_batch)
            for positions in block[self.world.rank :: self.world.size].split(self.batch_size):
                images, labels = images_of(order[positions])
                yield Batch(images, labels, positions)


class EvaluationImages:
    """The evaluation loader: the share rank::size of `images` images, none padded."""

    def __init__(self, world: World, *, images: int = 53, batch_size: int = 8) -> None:
        self.num_images = images
        self.positions = torch.arange(images)[world.rank :: world.size]
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        for positions in self.positions.split(self.batch_size) if len(self.positions) else ():
            yield Batch(*images_of(positions + 1000), positions)


def normalize(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1.0


def transform(batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, Tensor]:
    """Images brightened by a draw of the epoch and the positions, as an augmentation would."""
    strength = ((batch.positions * 31 + epoch * 17 + step) % 10).float()[:, None, None, None] / 20
    return normalize(batch.images) * (1 + strength), batch.targets


class NaNTransform:
    """A transform that makes the image at one position of one step NaN."""

    def __init__(self, *steps: int, position: int = 5) -> None:
        self.steps, self.position = steps, position

    def __call__(self, batch: Batch, *, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        images, targets = transform(batch, epoch=epoch, step=step)
        if step in self.steps:
            images[batch.positions % 12 == self.position] = torch.nan
        return images, targets


def tiny_vit(**keywords: Any) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        **{"img_size": SIZE, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
        | keywords
    )


def spread(block: Any, x_BNC: Tensor) -> Tensor:
    """A term of the loss: how far the tokens that leave a block lie apart."""
    return 0.01 * (x_BNC - x_BNC.mean(1, keepdim=True)).square().mean()


def add_loss_term(model: nn.Module) -> nn.Module:
    """A term named ``spread`` in every block of a model, as a technique adds it."""
    sites = find_sites(model)
    open_slots(sites)
    share_record(sites)
    for site in sites:
        fill(site.block, "losses", 0, LossTerm("spread", spread))
    return model


def loss_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the terms that a model adds to its loss."""
    terms = [term for module in model.modules() for _, term in getattr(module, "losses", ())]
    return tuple(sorted({term.name for term in terms}))


class RecordingSink:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []

    def log(self, record: Any) -> None:
        self.records.append(dict(record))

    def metrics(self, line: Any) -> None:
        self.lines.append(dict(line))

    def rewind(self, step: int) -> None:
        self.lines = [line for line in self.lines if line["step"] <= step]


def copy_of(state: Any) -> Any:
    """A deep copy of a nested state, tensors on the CPU."""
    if isinstance(state, dict):
        return {key: copy_of(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(copy_of(value) for value in state)
    return state.detach().cpu().clone() if isinstance(state, Tensor) else state


class InMemoryCheckpoints:
    """Checkpoints in memory: every state saved, in order."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, dict[str, Any]]] = []

    def save(self, state: Any, *, step: int, kind: str = "last", block: bool = False) -> bool:
        assert state["progress"]["step"] == step
        self.saved.append((kind, copy_of(state)))
        return True

    def flush(self) -> None:
        """Everything is on the checkpoints already."""


class AskedAt:
    """A preemption that is requested from the `calls`-th time that it is looked at."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    @property
    def requested(self) -> bool:
        self.calls -= 1
        return self.calls < 0


def assert_same(left: Any, right: Any, path: str = "") -> None:
    """Two nested states are equal to the last bit."""
    assert type(left) is type(right), path
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            assert_same(left[key], right[key], f"{path}/{key}")
    elif isinstance(left, (list, tuple)):
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_same(*pair, f"{path}/{index}")
    elif isinstance(left, Tensor):
        assert torch.equal(left, right), path
    else:
        assert left == right, path


def timeless(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of metrics without what depends on the clock."""
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def final_state(trainer: Any) -> Any:
    """The state of a run without what depends on the clock."""
    state = copy_of(trainer.state_dict())
    for key in ("train_seconds", "epoch_seconds"):
        del state["progress"][key]
    return state


def make_trainer(
    world: World,
    *,
    model: nn.Module | None = None,
    batch_size: int = 12,
    accumulate: int = 1,
    images: int = 96,
    precision: str = "fp32",
    optimizer: str = "adamw",
    use_ema: bool = True,
    sinks: Sequence[Any] = (),
    checkpoints: Any = None,
    preemption: Any = None,
    transform: Any = transform,
    epochs: int = 2,
    **settings: Any,
) -> Trainer:
    model = (tiny_vit(proj_drop_rate=0.1, drop_path_rate=0.1) if model is None else model).to(world.device)
    loader = TrainImages(world, batch_size=batch_size, accumulate=accumulate, images=images)
    number_format = build_precision(precision, world.device)
    return Trainer(
        model=model,
        loss=CrossEntropy(0.1),
        optimizer=build_optimizer(model, name=optimizer, lr=1e-3, weight_decay=0.05),
        schedule=build_schedule(
            lr=2e-3,
            warmup_lr=1e-4,
            floor=1e-5,
            epochs=4,
            warmup_epochs=1,
            steps_per_epoch=loader.steps_per_epoch,
            unit="step",
        ),
        loader=loader,
        transform=transform,
        evaluate=lambda models: [
            result.metrics()
            for result in evaluate(
                models, EvaluationImages(world), normalize, world=world, precision=number_format, num_classes=CLASSES
            )
        ],
        world=world,
        precision=number_format,
        training_pass=TrainingPass(model, loss_names(model), loader.steps_per_epoch),
        settings=Settings(epochs=epochs, batch_size=batch_size, accumulate=accumulate, **settings),
        ema=ModelEma(model, decay=0.9) if use_ema else None,
        checkpoints=checkpoints,
        preemption=preemption,
        sinks=sinks,
    )


def follow_grad_scaler(device: torch.device) -> LossScale:
    """Our loss scale after a walk of overflows and calm steps, compared with torch's GradScaler after each."""
    weight = nn.Parameter(torch.ones(3, device=device))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler(device.type, growth_interval=3)
    ours = LossScale(device, growth_interval=3)
    calm = torch.tensor(False, device=device)
    for overflow in [True, False, False, False, False, True, True, False, False, False, True]:
        theirs.scale(weight.sum()).backward()
        if overflow:
            assert weight.grad is not None
            weight.grad[0] = torch.inf
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(torch.tensor(overflow, device=device), calm)
        assert float(ours.scale) == theirs.get_scale()
    return ours
