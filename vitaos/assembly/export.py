"""An export: a checkpoint -> a folder that others can load, or a graph without Python."""

from pathlib import Path
from typing import Any, Final

from torch import nn

from vitaos.assembly import model_card
from vitaos.assembly.eval_target import EvalTarget, build_model, resolve_checkpoint
from vitaos.assembly.fewer_tokens import reducers
from vitaos.assembly.fingerprint import to_dict
from vitaos.config import ExportConfig
from vitaos.weights.graph import export_onnx, export_program
from vitaos.weights.pretrained import save_pretrained, write_config

_CARD: Final = "README.md"
_TIMM_INTERPOLATION: Final = {"bicubic": "bicubic", "area": "box"}  # PIL's box filter averages areas


def export(config: ExportConfig) -> list[Path]:
    """Write a checkpoint's model and its card into a new folder.

    Returns:
        The files written.

    Raises:
        ValueError: no checkpoint or folder given, the folder holds something, the checkpoint cannot be used, or its
            tokens become fewer and ONNX is asked for.
    """
    if not config.checkpoint or not config.out:
        raise ValueError("an export needs checkpoint=RUN_OR_FILE and out=DIR, a new folder")
    folder = Path(config.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"out={folder} exists and is not empty: give a new folder")
    target = resolve_checkpoint(config, str(config.checkpoint))
    weights = target.choose_one(config.weights)
    if config.format == "onnx" and (reducing := reducers(target.model_config)):
        raise ValueError(
            f"format=onnx: {', '.join(reducing)} sorts tokens stably, for which ONNX has no operation; use "
            "format=torch_export or safetensors."
        )
    model: Any = build_model(target, _num_classes(target)).eval()
    # timm describes the architecture's published weights: these are others.
    model.pretrained_cfg = model.pretrained_cfg | {"tag": "", "license": config.license}
    target.load_weights(model, weights)
    metrics = {} if target.reduced else model_card.measured(target)  # the run's own are those of all its tokens
    details = {"weights": weights, "data": target.data.name, "recipe": to_dict(target.recipe), "metrics": metrics}
    description: dict[str, Any] = {
        "class_names": target.class_names,
        "preprocessing": _preprocessing(config, target),
        "details": details | {"license": config.license},
    }
    if config.format == "safetensors":
        files = save_pretrained(model, folder, **description)
    else:
        files = [write_config(model, folder, **description), _write_graph(config, model, folder, target.img_size)]
    card = model_card.render(target, weights=weights, license_name=config.license, metrics=metrics)
    (folder / _CARD).write_text(card, encoding="utf-8")
    return [*files, folder / _CARD]


def _num_classes(target: EvalTarget) -> int:
    count = len(target.class_names or ()) or target.data.num_classes
    if not count:
        raise ValueError(f"{target.path} does not say how many classes it knows: add data.num_classes=N")
    return count


def _preprocessing(config: ExportConfig, target: EvalTarget) -> dict[str, Any]:
    return {
        "mean": tuple(target.data.mean),
        "std": tuple(target.data.std),
        "interpolation": _TIMM_INTERPOLATION[target.data.resize],
        "crop_pct": config.eval_crop or target.recipe.eval_crop,
        "input_size": (3, target.img_size, target.img_size),
    }


def _write_graph(config: ExportConfig, model: nn.Module, folder: Path, img_size: int) -> Path:
    size = (3, img_size, img_size)
    if config.format == "onnx":
        return export_onnx(model, folder / "model.onnx", size)
    return export_program(model, folder / "model.pt2", size)
