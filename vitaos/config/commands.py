"""The whole configuration of each command that reads or trains a model."""

from dataclasses import dataclass
from typing import Any, Final

from vitaos.config.keys import EVER, LOCAL, MANY, PER_START, key, section
from vitaos.config.recipe import OptimizerConfig, RecipeConfig
from vitaos.config.sections import DataConfig, LoggerConfig, ModelConfig, MonitorConfig, TeacherConfig

_DEEPEST: Final = 1000
_LARGEST_SEED: Final = 2**63 - 1
_COMPILATIONS: Final = (
    "auto",
    True,
    False,
    "default",
    "reduce-overhead",
    "max-autotune",
    "max-autotune-no-cudagraphs",
)
_COMPILE: Final = (
    "torch.compile, training, evaluation and the average alike: auto: on a GPU, where nothing speaks against it, which "
    "is said; the other words are its modes, true its default"
)
_FOREIGN: Final = "for a file that is not vitaos' own, or an untrained model"


@dataclass
class TrainConfig:
    """Everything about a training run; :func:`vitaos.config.schema` adds one key for each technique."""

    model: ModelConfig = section(ModelConfig, "the backbone")
    depth: int | None = key(None, "number of blocks; null: the backbone's own", low=1, high=_DEEPEST)
    skip_gain: float = key(
        1.0, "r of the residual r x + attention(x); below 1 it oversmooths on purpose", low=0, high=1, added=True
    )
    data: DataConfig = section(DataConfig, "the images")
    augment: str = key(
        "device", "batches on the device, or images by timm's transforms (class folders)", choices=("device", "timm")
    )
    recipe: RecipeConfig = section(RecipeConfig, "how it is trained")
    optimizer: OptimizerConfig = section(OptimizerConfig, "the optimizer")
    logger: LoggerConfig = section(LoggerConfig, "where metrics go besides metrics.jsonl", mark=LOCAL)
    monitor: MonitorConfig = section(MonitorConfig, "oversmoothing measured while training", mark=LOCAL)
    init: str | None = key(
        None,
        "weights to begin with (fine-tuning): a file, a run or exported folder, hf-hub:OWNER/NAME, timm, a timm name",
        is_path=True,
        mark=PER_START,
    )
    init_weights: str = key(
        "raw",
        "of init: the weights themselves, their running average, or auto: the average where there is one",
        choices=("raw", "ema", "auto"),
        mark=PER_START,
        added=True,
    )
    teacher: TeacherConfig = section(
        TeacherConfig, "the model that is learned from, for recipe.distillation", mark=PER_START
    )
    epochs: int = key(300, "epochs of the run and of its schedule", low=1, high=MANY, mark=PER_START)
    steps: int | None = key(
        None, "stop after so many global steps in all; the schedule is left as it is", low=1, high=EVER, mark=PER_START
    )
    batch_size: int = key(256, "images of a process in a micro-batch", low=1, high=MANY, mark=PER_START)
    accumulate: int = key(1, "micro-batches in a global step", low=1, high=MANY, mark=PER_START)
    seed: int = key(0, "of weights, order, augmentation and dropout", low=0, high=_LARGEST_SEED)
    device: str = key("auto", "auto: a GPU where there is one", choices=("auto", "cpu", "cuda"), mark=LOCAL)
    precision: str = key("bf16", "of the forward and backward pass", choices=("bf16", "fp16", "fp32"))
    residual_stream: str = key(
        "fp32",
        "of the tokens between blocks and of LayerNorm's output; bf16, with precision=bf16: fewer bytes, rounded sums",
        choices=("fp32", "bf16"),
        added=True,
    )
    compile: Any = key("auto", _COMPILE, choices=_COMPILATIONS, mark=LOCAL)
    channels_last: bool = key(False, "channels-last memory order of images and convolutions", mark=LOCAL)
    checkpoint_gradients: bool = key(False, "compute activations again instead of keeping them", mark=LOCAL)
    deterministic: bool = key(False, "the same bits on every start, on CUDA too, or a refusal", mark=LOCAL)
    nonfinite: str = key(
        "stop", "a loss or gradient that is not finite: stop the run, or leave the batch out", choices=("stop", "skip")
    )
    evaluate_every: int = key(1, "epochs between two evaluations; the last epoch always has one", low=1, high=MANY)
    profile: bool = key(
        False,
        "watch three steps with torch's profiler: a trace and a table by phase in the run folder",
        mark=LOCAL,
        added=True,
    )
    log_every: int = key(50, "steps between two lines on the screen", low=1, high=EVER, mark=LOCAL)
    out: str = key("runs", "folder of the run folders", is_path=True, mark=LOCAL)
    name: str | None = key(
        None, "name of the run folder; null: it follows from what the run computes, on which data", mark=LOCAL
    )
    resume: str = key(
        "auto",
        "auto: go on where the run folder's checkpoints end; never: refuse a folder that holds a run; or a checkpoint",
        is_path=True,
        mark=LOCAL,
    )
    checkpoint_every: int | None = key(
        None, "steps between two checkpoints within an epoch; null: only at its end", low=1, high=EVER, mark=LOCAL
    )
    keep: int = key(2, "newest checkpoints kept, besides the best", low=2, high=MANY, mark=LOCAL)


@dataclass
class CheckpointSource:
    """Which model is looked at and on which images: what an evaluation and an analysis have in common."""

    checkpoint: Any = key(None, "a run or exported folder, or a file", is_path=True)
    model: ModelConfig | None = key(None, f"the backbone, {_FOREIGN}")
    depth: int | None = key(None, f"number of blocks, {_FOREIGN}", low=1, high=_DEEPEST)
    skip_gain: float = key(1.0, f"as it was trained, {_FOREIGN}", low=0, high=1)
    data: DataConfig | None = key(None, "the images; null: those that the checkpoint names")
    recipe: RecipeConfig = section(RecipeConfig, f"the recipe, {_FOREIGN}; its eval_crop counts")
    img_size: int | None = key(None, "side of the images in pixels; null: as trained", low=1, high=2**14)
    eval_crop: float | None = key(
        None,
        "the shorter side becomes img_size / this, then the center is cut out; null: the recipe's",
        low=0.1,
        high=1,
    )
    batch_size: int = key(256, "images of a process in a batch", low=1, high=MANY)
    device: str = key("auto", "auto: a GPU where there is one", choices=("auto", "cpu", "cuda"))
    precision: str = key("fp32", "of the forward pass", choices=("bf16", "fp16", "fp32"))


@dataclass
class EvalConfig(CheckpointSource):
    """Everything about an evaluation."""

    checkpoint: str | None = key(None, "a run or exported folder, or a file", is_path=True)
    dataset: str = key(
        "val",
        "the held-out images, with the ReaL labels, or ImageNet-V2, -A, -R, -Sketch, -C in data.val",
        choices=("val", "real", "v2", "a", "r", "sketch", "c"),
    )
    suite: str | None = key(
        None,
        "all: every dataset whose folder data.roots names, as data.roots={val: DIR, v2: DIR}, in one table",
        choices=(None, "all"),
    )
    corrupt: bool = key(
        False, "dataset=c: make the corruptions from the held-out images (slow) in place of the published folders"
    )
    metric: str = key(
        "classifier",
        "judged by its classifier, by the nearest neighbors of its features among the training images (DINO's), or by "
        "logistic regression on them",
        choices=("classifier", "knn", "linear"),
    )
    k: list[int] = key(
        [20, 10, 100, 200], "metric=knn: neighbors that vote; the first is the result, all are listed", low=1, high=MANY
    )
    temperature: float = key(0.07, "metric=knn: of the votes, exp(cosine / temperature)", low=1e-6, high=1e6)
    features: str = key(
        "pooled",
        "metric=knn or linear: what the classifier would see, or the class token or mean patch token behind the norm",
        choices=("pooled", "class_token", "mean"),
    )
    regularization_c: float = key(1.0, "metric=linear: scikit-learn's C; larger fits more closely", low=1e-9, high=1e12)
    calibration: bool = key(False, "expected calibration error, NLL, Brier score and a reliability diagram")
    real_labels: str | None = key(None, "the file real.json, for dataset=real", is_path=True)
    predictions: bool = key(True, "keep the prediction for every image as .npz")
    weights: str = key("both", "the running average, the weights themselves, or both", choices=("ema", "raw", "both"))
    zero_learned: bool = key(False, "set the w, s and t of AttnScale and FeatScale to 0 first")
    robustness: str | None = key(
        None,
        "what the answers depend on, tested on a few images: shifts, perturbed patches, softmax temperature, single "
        "heads, test-time registers; and how far attention reaches",
        choices=(None, "all", "shift", "patches", "temperature", "heads", "distance", "registers"),
    )
    robustness_images: int = key(256, "images of a robustness test, evenly spaced in the dataset", low=1, high=10**7)
    polyphase_anchoring: bool = key(False, "shift each image circularly to where its patches are strongest")
    compile: Any = key("auto", _COMPILE, choices=_COMPILATIONS)
    channels_last: bool = key(False, "channels-last memory order of images and convolutions")
    out: str | None = key(None, "folder of the results; null: evaluation/ in the run folder", is_path=True)


@dataclass
class AnalyzeConfig(CheckpointSource):
    """Everything about an analysis."""

    checkpoint: Any = key(
        None, "a run folder or a file, or a list of them: [A,B]; null: an untrained model", is_path=True
    )
    labels: list[str] | None = key(None, "names in the figures, one a checkpoint; null: names of folders and files")
    images: int = key(256, "images looked at, evenly spaced in the held-out part", low=1, high=10**7)
    weights: str = key("auto", "auto: the running average where there is one", choices=("auto", "ema", "raw"))
    batch_size: int = key(32, "images in a batch", low=1, high=MANY)
    seed: int = key(0, "of the weights of an untrained model", low=0, high=_LARGEST_SEED)
    propagation: bool = key(
        False, "also the dominant eigenvalue of every block's attention and the length distortion of a circle"
    )
    out: str = key("analysis", "folder of figures and tables; the next free number where it holds some", is_path=True)
    pdf: bool = key(False, "figures as PDF as well")


@dataclass
class ExportConfig(CheckpointSource):
    """Everything about an export."""

    format: str = key(
        "safetensors", "what is written beside the model card", choices=("safetensors", "onnx", "torch_export")
    )
    weights: str = key("auto", "auto: the running average where there is one", choices=("auto", "ema", "raw"))
    out: str | None = key(None, "a new folder", is_path=True)
    license: str = key("unknown", "license that the model card names")
