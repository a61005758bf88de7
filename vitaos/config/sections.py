"""The keys of the smaller sections: model, data, teacher, logger and monitor."""

from dataclasses import dataclass
from typing import Any

from vitaos.config.keys import LOCAL, MANY, key


@dataclass
class ModelConfig:
    """A backbone: one of vitaos' names or any timm name, and further keywords for its timm class."""

    name: str = key("deit_s12", "the backbone: a name of vitaos (deit_s24, cait_s24, swin_s, ...) or of timm")
    keywords: dict[str, Any] = key({}, "keywords of the timm class, as model.keywords.reg_tokens=4")


@dataclass
class DataConfig:
    """A dataset and how it is read; ``vitaos.data.DataSource`` and ``vitaos.data.ReadSettings``."""

    name: str = key("imagenet", "name of the dataset, for people and for the names of runs")
    kind: str = key(
        "folder",
        "class folders, two FFCV files, scikit-learn's digits, tar archives, or a Hugging Face dataset on the disk",
        choices=("folder", "ffcv", "digits", "tar", "huggingface"),
    )
    loader: str = key("ffcv", "which of their two forms the digits are read in", choices=("ffcv", "folder"), mark=LOCAL)
    root: str | None = key(None, "folder of both parts, train and val", is_path=True, mark=LOCAL)
    train: str | None = key(None, "the training part, where it lies elsewhere", is_path=True, mark=LOCAL)
    val: str | None = key(None, "the held-out part, where it lies elsewhere", is_path=True, mark=LOCAL)
    roots: dict[str, str] = key(
        {}, "eval.py suite=all: the folder of each dataset, {val: DIR, v2: DIR, ...}", mark=LOCAL, added=True
    )
    classes: str | None = key(
        None, "a list of classes that count, by its name (imagenet100, ...) or file; null: all there are", added=True
    )
    num_classes: int | None = key(None, "classes that there must be; null: as many as found", low=1, high=10**7)
    img_size: int = key(224, "side of the images that the model sees, in pixels", low=1, high=2**14)
    mean: list[float] = key([0.485, 0.456, 0.406], "subtracted from pixels in [0, 1]", low=-1e3, high=1e3, count=3)
    std: list[float] = key([0.229, 0.224, 0.225], "divides them then", above=0, high=1e3, count=3)
    resize: str = key("bicubic", "how crops are resized", choices=("bicubic", "area"))
    workers: int | None = key(
        None,
        "threads (FFCV) or processes (folders) that load, of each process; null: its share of the cores",
        low=0,
        high=1024,
        mark=LOCAL,
    )
    eval_batch_size: int | None = key(
        None, "images per process of an evaluation batch; null: `batch_size`", low=1, high=MANY, mark=LOCAL
    )
    on_bad: str | None = key(
        None,
        "an image that cannot be read: stop, or leave it out and log it; null: skip for training from FFCV, else fail",
        choices=(None, "fail", "skip"),
    )
    decode_in: str = key(
        "auto",
        "where FFCV's training images are decoded: threads of the training process, or of a process beside it, which "
        "leaves the interpreter to the training; auto: the latter on a GPU",
        choices=("auto", "threads", "process"),
        mark=LOCAL,
        added=True,
    )
    in_memory: bool = key(False, "read an FFCV file into memory instead of mapping it", mark=LOCAL)
    prepare: str = key("", "how the data is made, told where it is missing", mark=LOCAL)


@dataclass
class TeacherConfig:
    """The model that a distilled one learns from (``recipe.distillation``). Its weights are part of what a run is."""

    source: str | None = key(
        None,
        "its weights: a file, a run or exported folder, hf-hub:OWNER/NAME, or a name of timm's weights",
        is_path=True,
        added=True,
    )
    model: str | None = key(None, "its backbone, for a file that does not say: a name of vitaos or timm", added=True)
    keywords: dict[str, Any] = key({}, "keywords of its timm class, beside `teacher.model`", added=True)
    weights: str = key(
        "auto",
        "the weights themselves, their running average, or auto: the average where there is one",
        choices=("raw", "ema", "auto"),
        added=True,
    )
    img_size: int | None = key(
        None, "side of its images in pixels, resized where they differ; null: its own", low=1, high=2**14, added=True
    )
    mean: list[float] | None = key(
        None, "normalization of its images; null: its own", low=-1e3, high=1e3, count=3, added=True
    )
    std: list[float] | None = key(
        None, "normalization of its images; null: its own", above=0, high=1e3, count=3, added=True
    )


@dataclass
class LoggerConfig:
    """Where metrics go besides ``metrics.jsonl``."""

    name: str = key(
        "none",
        "a tracker besides metrics.jsonl",
        choices=("none", "wandb", "tensorboard", "mlflow", "trackio"),
    )
    also: list[str] = key([], "further trackers at once; logger=[wandb,tensorboard] says both keys", added=True)
    tracking_uri: str | None = key(
        None, "MLflow: server or folder; null: MLFLOW_TRACKING_URI, else mlruns in the run folder", added=True
    )
    project: str = key("vitaos", "project at the tracker")
    entity: str | None = key(None, "user or team at the tracker; null: the one logged in")
    group: str | None = key(None, "group of runs at the tracker")
    tags: list[str] = key([], "tags of the run at the tracker")
    mode: str = key("auto", "auto: offline where nobody is logged in", choices=("auto", "online", "offline"))


@dataclass
class MonitorConfig:
    """Oversmoothing measures on held-out images while training."""

    every: int = key(0, "epochs between two measurements, the last epoch always has one; 0: none", low=0, high=MANY)
    images: int | None = key(
        None, "images measured; null: 64, or fewer where those would take over 1% of an epoch", low=1, high=1024
    )
