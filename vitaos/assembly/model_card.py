"""The model card of an exported model: what it is, how it was trained, what was measured, on what."""

import json
from collections.abc import Mapping
from typing import Any, Final

from vitaos.assembly.eval_target import EvalTarget
from vitaos.assembly.fingerprint import to_dict
from vitaos.checkpoint.folder import run_folder_of
from vitaos.config import enabled_techniques
from vitaos.metrics_reader import finite_or_null, read_metrics
from vitaos.study.run_files import read_sessions

_MEASURED: Final = ("val_top1", "val_top5", "val_loss", "ema_top1", "ema_top5", "ema_loss")
_PAPER: Final = (
    "@inproceedings{wang2022antioversmoothing,\n"
    "  title = {Anti-Oversmoothing in Deep Vision Transformers via the Fourier Domain Analysis: "
    "From Theory to Practice},\n"
    "  author = {Wang, Peihao and Zheng, Wenqing and Chen, Tianlong and Wang, Zhangyang},\n"
    "  booktitle = {International Conference on Learning Representations},\n"
    "  year = {2022}\n"
    "}"
)


def measured(target: EvalTarget) -> dict[str, Any]:
    """What the run measured at the step of this checkpoint, in percent and nats; {} for a file outside of a run."""
    folder = run_folder_of(target.file)
    if folder is None or target.step is None:
        return {}
    for line in read_metrics(folder / "metrics.jsonl"):
        if line.get("step") == target.step:
            found = {key: line[key] for key in _MEASURED if isinstance(line.get(key), int | float)}
            return dict(finite_or_null({"step": target.step, **found}))
    return {}


def render(target: EvalTarget, *, weights: str, license_name: str, metrics: Mapping[str, Any]) -> str:
    """The card as Markdown with the header that the Hugging Face hub reads."""
    described = target.model_config
    assert described.model is not None
    enabled = enabled_techniques(described)
    title = " + ".join([described.model.name, *enabled])
    return "\n".join(
        [
            "---",
            f"license: {json.dumps(license_name)}",
            "library_name: vitaos",
            "pipeline_tag: image-classification",
            "---",
            f"# {_line(title)}",
            "",
            f"Depth {described.depth or 'of the architecture'}, techniques {_line(json.dumps(enabled))}, images of "
            f"{target.img_size} pixels, weights: {'running average (EMA)' if weights == 'ema' else 'raw'}.",
            "",
            '`vitaos.from_pretrained("DIR or hf-hub:OWNER/NAME")` gives the model.',
            "",
            "## Data",
            "",
            f"{_line(target.data.name)}, {len(target.class_names or ()) or 'an unstated number of'} classes, "
            f"normalized with mean {list(target.data.mean)} and standard deviation {list(target.data.std)}.",
            "",
            "## Recipe",
            "",
            *_recipe(target),
            "",
            "## Numbers",
            "",
            *_numbers(target, metrics),
            "",
            "## License",
            "",
            f"{_line(license_name)}",
            "",
            "## Citation",
            "",
            "```bibtex",
            _PAPER,
            "```",
            "",
        ]
    )


def _recipe(target: EvalTarget) -> list[str]:
    stored = target.content.get("config")
    if not isinstance(stored, Mapping):
        return ["Unknown: the weights come from a file that does not say."]
    config = to_dict(target.model_config)
    rows = {key: config[key] for key in ("epochs", "steps", "batch_size", "accumulate", "seed", "precision")}
    rows |= {f"recipe.{key}": value for key, value in config["recipe"].items()}
    rows |= {f"optimizer.{key}": value for key, value in config["optimizer"].items()}
    return ["| key | value |", "|---|---|", *(f"| {key} | {_line(json.dumps(value))} |" for key, value in rows.items())]


def _numbers(target: EvalTarget, metrics: Mapping[str, Any]) -> list[str]:
    images = _validation_images(target)
    where = f"One run (n = 1){f', {images:,} validation images' if images else ''}; {_hardware(target)}."
    if not metrics:
        return ["None were measured at the step of these weights.", "", where]
    rows = [f"| {key} | {value} |" for key, value in metrics.items()]
    return [where, "", "| measure | value |", "|---|---|", *rows]


def _validation_images(target: EvalTarget) -> int | None:
    data = target.content.get("data")
    part = data.get("val") if isinstance(data, Mapping) else None
    counts = part.get("class_counts") if isinstance(part, Mapping) else None
    known = isinstance(counts, list) and all(isinstance(count, int) for count in counts)
    return sum(counts) if known and counts else None


def _hardware(target: EvalTarget) -> str:
    """What the processes of the run's last session ran on, one GPU each where there were GPUs."""
    folder = run_folder_of(target.file)
    try:
        session = read_sessions(folder / "environment.json")[-1] if folder is not None else {}
        hardware, processes = session["hardware"], int(session["world_size"])
        gpus = [str(device["name"]) for device in hardware["gpus"]]
        count, name = (processes, gpus[0]) if gpus else (1, str(hardware["cpu"]))
    except (OSError, ValueError, LookupError, TypeError):
        return "hardware unknown"
    return f"trained on {count} x {_line(name)}"


def _line(text: str) -> str:
    """Text of a checkpoint on one line, without what would end a table's cell or open another element."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
