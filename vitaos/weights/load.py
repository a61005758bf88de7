"""Checkpoints of vitaos, the release, DeiT, CaiT, Swin and timm -> a model, with a report of what happened."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos import techniques
from vitaos.checkpoint import safe_load
from vitaos.techniques.sites import backbone_in
from vitaos.weights.flax_names import from_flax
from vitaos.weights.names import (
    StateDict,
    backbone_family,
    find_state_dict,
    is_rebuilt_buffer,
    strip_prefixes,
    to_timm_names,
)
from vitaos.weights.positions import Grid, Layout, resize_positions, resize_tables, stored_grid, stored_windows
from vitaos.weights.report import LoadReport, shorten
from vitaos.weights.timm_filter import filter_state

_logger = logging.getLogger(__name__)
_BLOCK: Final = re.compile(r"^((?:layers\.\d+\.)?blocks(?:_token_only)?\.\d+)\.(.+)$")
_CLASS_ATTENTION: Final = "blocks_token_only."
_LISTED: Final = 4  # how many shapes an error lists


class ClassCountError(ValueError):
    """A classifier of another number of classes.

    Attributes:
        stored: how many the checkpoint's has.
    """

    def __init__(self, message: str, stored: int) -> None:
        super().__init__(message)
        self.stored = stored


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    weights: str = "model",
    classifier: str = "strict",
    grid: Grid | None = None,
    window: Grid | None = None,
) -> LoadReport:
    """Load a checkpoint into a model; the model changes only when everything has been checked.

    Args:
        model: a model of ``create_model``, ``attach`` or timm; also wrapped by DDP or torch.compile.
        source: a file (``.pt``, ``.pth``, ``.safetensors``, AugReg's ``.npz``), a state dict, or a dict that holds one.
        weights: ``model``, or ``ema`` for the running average where the file has one.
        classifier: ``strict``: a classifier of another number of classes is an error; ``reset``: the checkpoint's
            classifier is left out and the model's own kept; ``fit``: loaded where the numbers of classes agree, reset
            where they do not (fine-tuning, as DeiT's code does it).
        grid: (height, width) of the checkpoint's position embeddings in patches; needed only where the file does not
            show it (see ``positions.py``), which the error then explains.
        window: (height, width) of the checkpoint's attention windows in patches, likewise.

    Raises:
        ValueError: the file is missing, damaged, or would run code (nothing is run); it holds no weights; nothing in it
            fits the model; it belongs to another architecture; its classifier is of another size; it has parameters of
            a technique that the model lacks (the network would be another one); its grid of patches is not known.
    """
    if classifier not in ("strict", "reset", "fit"):
        raise ValueError(f"classifier={classifier!r} is unknown: 'strict', 'reset' or 'fit'.")
    layout = Layout(grid=grid, window=window)
    return _load_from(source, model, weights=weights, classifier=classifier, layout=layout)


def load_saved(
    model: nn.Module, source: str | Path | Mapping[str, Any], *, weights: str = "model", classifier: str = "strict"
) -> LoadReport:
    """:func:`load_weights` of what was saved from a model of this very configuration, image size included.

    Positions and tables that have the model's shape have its grid and its windows: nothing is asked for.
    """
    return _load_from(source, model, weights=weights, classifier=classifier, layout=Layout(is_models=True))


def _load_from(
    source: str | Path | Mapping[str, Any], model: nn.Module, *, weights: str, classifier: str, layout: Layout
) -> LoadReport:
    where = f"{source}: " if isinstance(source, str | Path) else ""
    content = safe_load.load_file(source) if isinstance(source, str | Path) else source
    try:
        return _load(backbone_in(unwrap_model(model)), content, weights=weights, classifier=classifier, layout=layout)
    except ClassCountError as error:
        raise ClassCountError(f"{where}{error}", error.stored) from error
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def _load(model: nn.Module, content: Any, *, weights: str, classifier: str, layout: Layout) -> LoadReport:
    source, target = from_flax(strip_prefixes(find_state_dict(content, weights))), model.state_dict()
    mapped = to_timm_names(filter_state(model, source), target)
    state = mapped.state
    dropped = [name for name in source if is_rebuilt_buffer(name)]
    report = LoadReport(skipped=dropped, doubled=mapped.doubled)
    if not set(state) & set(target):
        raise ValueError(_nothing_fits(state, target))
    _handle_classifier(model, state, target, classifier, report)
    _check_techniques(model, state, target)
    _check_structure(state, target)
    resize_positions(model, state, report, layout, recorded=stored_grid(content, state))
    resize_tables(model, state, report, layout, revealed=stored_windows(source))
    _check_shapes(state, target)
    report.loaded = [name for name in state if name in target]
    report.unexpected = [name for name in state if name not in target]
    report.missing = [name for name in target if name not in state and name not in report.skipped]
    report.moved = [name for name in report.missing if not techniques.holds_identity(name, target[name])]
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    if report.missing_backbone or report.unexpected:
        _logger.warning("Weights fit in part only:\n%s", report)
    return report


def describe(state: Mapping[str, Tensor]) -> str:
    """What a state dict belongs to, such as "a ViT of 12 blocks, width 384"."""
    family = backbone_family(state)
    if family == "unknown":
        return f"an unknown architecture ({shorten(list(state))})"
    blocks = {match.group(1) for match in map(_BLOCK.match, state) if match and "token_only" not in match.group(1)}
    widths = [value.shape[1] for key, value in state.items() if key.endswith("blocks.0.attn.qkv.weight")]
    return f"a {family} of {len(blocks)} blocks, width {widths[0] if widths else 'unknown'}"


def _nothing_fits(state: StateDict, target: Mapping[str, Tensor]) -> str:
    return f"Nothing in the checkpoint fits: it is {describe(state)}; the model is {describe(target)}."


def _architecture_mismatch(state: StateDict, target: Mapping[str, Tensor], detail: str) -> ValueError:
    return ValueError(
        f"The checkpoint is of another architecture: it is {describe(state)}; the model is {describe(target)}. {detail}"
    )


def _classifier_prefixes(model: Any) -> list[str]:
    """Paths of the classifier's linear layers (two in a distilled DeiT), from timm's ``get_classifier``."""
    if not hasattr(model, "get_classifier"):
        return []
    found = model.get_classifier()
    heads = found if isinstance(found, tuple) else (found,)
    return [name for name, module in model.named_modules() if any(module is head for head in heads)]


def _handle_classifier(
    model: nn.Module, state: StateDict, target: Mapping[str, Tensor], classifier: str, report: LoadReport
) -> None:
    for prefix in _classifier_prefixes(model):
        names = [name for name in (f"{prefix}.weight", f"{prefix}.bias") if name in state]
        old, new = state.get(f"{prefix}.weight"), target.get(f"{prefix}.weight")
        agrees = old is None or (new is not None and old.shape[0] == new.shape[0])
        if classifier == "strict" and new is not None and old is not None and not agrees:
            raise ClassCountError(
                f"{new.shape[0]} classes of data with a {old.shape[0]}-class checkpoint: the classifier {prefix} "
                'does not fit. To keep the other weights and train a new classifier: classifier="reset".',
                stored=old.shape[0],
            )
        if agrees and classifier != "reset":
            continue
        for name in names:
            del state[name]
            report.skipped.append(name)


def _check_techniques(model: nn.Module, state: StateDict, target: Mapping[str, Tensor]) -> None:
    for name in state:
        owner = techniques.owner_of(name)
        if owner is not None and name not in target and owner not in techniques.attached(model):
            raise ValueError(
                f"The checkpoint was trained with {owner} ({name}), which the model lacks: it would be another "
                f"network. Create the model with {owner}=True."
            )


def _block_names(state: Mapping[str, Tensor]) -> tuple[set[str], set[str]]:
    """(paths of blocks, names within blocks), those of techniques left out."""
    matches = [match for match in map(_BLOCK.match, state) if match]
    inside = {match.group(2) for match in matches if techniques.owner_of(match.group(2)) is None}
    return {match.group(1) for match in matches}, inside


def _check_structure(state: StateDict, target: Mapping[str, Tensor]) -> None:
    """Blocks must be as many, and made of the same parts; a single stray tensor is for the report."""
    if not any(name.startswith(_CLASS_ATTENTION) for name in target):  # CaiT as features_only=True leaves it
        state = {name: value for name, value in state.items() if not name.startswith(_CLASS_ATTENTION)}
    blocks, inside = _block_names(state)
    target_blocks, target_inside = _block_names(target)
    if blocks != target_blocks:
        differ = sorted(blocks ^ target_blocks)
        raise _architecture_mismatch(state, target, f"Blocks in one only: {shorten(differ)}.")
    if inside != target_inside:
        differ = sorted(inside ^ target_inside)
        raise _architecture_mismatch(state, target, f"Parts of a block in one only: {shorten(differ)}.")
    if ("dist_token" in state) != ("dist_token" in target):
        which = "checkpoint" if "dist_token" in state else "model"
        raise _architecture_mismatch(
            state, target, f"Only the {which} is a distilled DeiT, with two class tokens and two heads."
        )


def _check_shapes(state: StateDict, target: Mapping[str, Tensor]) -> None:
    wrong = [name for name in state if name in target and state[name].shape != target[name].shape]
    if wrong:
        shapes = [f"{name} is {tuple(state[name].shape)}, the model's {tuple(target[name].shape)}" for name in wrong]
        raise _architecture_mismatch(state, target, f"Shapes differ in {len(wrong)}: {'; '.join(shapes[:_LISTED])}.")
