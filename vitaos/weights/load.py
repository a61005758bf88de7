"""Checkpoints of vitaos, the release, DeiT, CaiT, Swin and timm -> a model, with a report of what happened."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import Tensor, nn

from vitaos import techniques
from vitaos.checkpoint import safe_load
from vitaos.weights.names import State, family_of, select_state, to_timm_names

_logger = logging.getLogger(__name__)
_BLOCK: Final = re.compile(r"^((?:layers\.\d+\.)?blocks(?:_token_only)?\.\d+)\.(.+)$")
_FEW: Final = 4  # how many names an error lists


@dataclass
class LoadReport:
    """What ``load_weights`` did, by the model's names (``unexpected``, ``skipped``: the checkpoint's).

    Attributes:
        loaded: parameters and buffers that now hold the checkpoint's values.
        missing: in the model, not in the checkpoint: they keep their values. Those of AttnScale, FeatScale and GFSA are
            the identity, those of other techniques (LayerScale's 1e-5) change what the model computes.
        unexpected: in the checkpoint, not in the model: ignored.
        resized: interpolated to the model's size: name -> (shape in the checkpoint, shape in the model).
        skipped: left out on purpose: a classifier that was reset, buffers that the model computes itself.
        doubled: FeatScale values of the release's DeiT, which applies them twice (see ``weights_mapping``).
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)

    @property
    def missing_backbone(self) -> list[str]:
        """What is missing beyond techniques that start as the identity: without it the model is another one."""
        return [name for name in self.missing if not techniques.starts_as_identity(name)]

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} tensors"]
        for word in ("missing", "unexpected", "skipped", "doubled"):
            names = getattr(self, word)
            if names:
                lines.append(f"{word} {len(names)}: {_some(names)}")
        for name, (old, new) in self.resized.items():
            lines.append(f"resized {name}: {old} -> {new}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    source: str | Path | Mapping[str, Any],
    *,
    weights: str = "model",
    classifier: str = "strict",
) -> LoadReport:
    """Load a checkpoint into a model; the model changes only when everything has been checked.

    Args:
        model: a model of ``create_model``, ``attach`` or timm; also wrapped by DDP or torch.compile.
        source: a file (``.pt``, ``.pth``, ``.safetensors``), a state dict, or a dict that holds one.
        weights: ``model``, or ``ema`` for the running average where the file has one.
        classifier: ``strict``: a classifier of another number of classes is an error; ``reset``: the checkpoint's
            classifier is left out and the model's own kept; ``fit``: loaded where the numbers of classes agree, reset
            where they do not (fine-tuning, as DeiT's code does it).

    Raises:
        ValueError: the file is missing, damaged, or would run code (nothing is run); it holds no weights; nothing in it
            fits the model; it belongs to another architecture; its classifier is of another size; it has parameters of
            a technique that the model lacks (the network would be another one).
    """
    if classifier not in ("strict", "reset", "fit"):
        raise ValueError(f"classifier={classifier!r} is unknown: 'strict', 'reset' or 'fit'.")
    where = f"{source}: " if isinstance(source, str | Path) else ""
    content = safe_load.load_file(source) if isinstance(source, str | Path) else source
    try:
        return _load(unwrapped(model), select_state(content, weights), classifier)
    except ValueError as error:
        raise ValueError(f"{where}{error}") from error


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of DDP and torch.compile."""
    inner: Any = model
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif type(inner).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = inner.module
        else:
            assert isinstance(inner, nn.Module)
            return inner


def _load(model: nn.Module, source: State, classifier: str) -> LoadReport:
    mapped = to_timm_names(source)
    state, target = mapped.state, model.state_dict()
    report = LoadReport(skipped=mapped.dropped, doubled=mapped.doubled)
    if not set(state) & set(target):
        raise ValueError(_nothing_fits(state, target))
    _handle_classifier(model, state, target, classifier, report)
    _check_techniques(model, state, target)
    _check_structure(state, target, report)
    _resize(model, state, target, report)
    _check_shapes(state, target)
    report.loaded = [name for name in state if name in target]
    report.unexpected = [name for name in state if name not in target]
    report.missing = [name for name in target if name not in state and name not in report.skipped]
    model.load_state_dict({name: state[name] for name in report.loaded}, strict=False)
    if report.missing_backbone or report.unexpected:
        _logger.warning("Weights fit in part only:\n%s", report)
    return report


def _some(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + (f", ... ({len(names)} in all)" if len(names) > _FEW else "")


def describe(state: Mapping[str, Tensor]) -> str:
    """A state dict in words: "a ViT of 12 blocks, width 384"."""
    family = family_of(state)
    if family == "unknown":
        return f"an unknown architecture ({_some(list(state))})"
    blocks = {match.group(1) for match in map(_BLOCK.match, state) if match and "token_only" not in match.group(1)}
    widths = [value.shape[1] for key, value in state.items() if key.endswith("blocks.0.attn.qkv.weight")]
    return f"a {family} of {len(blocks)} blocks, width {widths[0] if widths else 'unknown'}"


def _nothing_fits(state: State, target: Mapping[str, Tensor]) -> str:
    return f"Nothing in the checkpoint fits: it is {describe(state)}; the model is {describe(target)}."


def _another(state: State, target: Mapping[str, Tensor], detail: str) -> ValueError:
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
    model: nn.Module, state: State, target: Mapping[str, Tensor], classifier: str, report: LoadReport
) -> None:
    for prefix in _classifier_prefixes(model):
        names = [name for name in (f"{prefix}.weight", f"{prefix}.bias") if name in state]
        old, new = state.get(f"{prefix}.weight"), target.get(f"{prefix}.weight")
        agrees = old is None or (new is not None and old.shape[0] == new.shape[0])
        if classifier == "strict" and new is not None and old is not None and not agrees:
            raise ValueError(
                f"{new.shape[0]} classes of data with a {old.shape[0]}-class checkpoint: the classifier {prefix} "
                'does not fit. To keep the other weights and train a new classifier: classifier="reset".'
            )
        if agrees and classifier != "reset":
            continue
        for name in names:
            del state[name]
            report.skipped.append(name)


def _check_techniques(model: nn.Module, state: State, target: Mapping[str, Tensor]) -> None:
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


def _check_structure(state: State, target: Mapping[str, Tensor], report: LoadReport) -> None:
    """Blocks must be as many, and made of the same parts; a single stray tensor is for the report."""
    blocks, inside = _block_names(state)
    target_blocks, target_inside = _block_names(target)
    if blocks != target_blocks:
        differ = sorted(blocks ^ target_blocks)
        raise _another(state, target, f"Blocks in one only: {_some(differ)}.")
    if inside != target_inside:
        differ = sorted(inside ^ target_inside)
        raise _another(state, target, f"Parts of a block in one only: {_some(differ)}.")
    if ("dist_token" in state) != ("dist_token" in target):
        which = "checkpoint" if "dist_token" in state else "model"
        raise _another(state, target, f"Only the {which} is a distilled DeiT, with two class tokens and two heads.")


def _resize(model: nn.Module, state: State, target: Mapping[str, Tensor], report: LoadReport) -> None:
    for name in [name for name in state if name in target and state[name].shape != target[name].shape]:
        old = state[name]
        if name == "pos_embed":
            new = _resized_positions(model, old, target[name])
        elif name.endswith("relative_position_bias_table"):
            window: Any = model.get_submodule(name.rpartition(".")[0])
            new = resize_rel_pos_bias_table(old, window.window_size, tuple(target[name].shape))
        else:
            continue
        if new.shape == target[name].shape:
            state[name] = new
            report.resized[name] = (tuple(old.shape), tuple(new.shape))


def _resized_positions(model: Any, old: Tensor, target: Tensor) -> Tensor:
    """Interpolate position embeddings (1, prefix + h*w, C) to the model's grid; those of no square grid stay."""
    height, width = model.patch_embed.grid_size
    prefix = target.shape[1] - height * width
    side = round(max(old.shape[1] - prefix, 0) ** 0.5) if old.ndim == 3 else 0
    if side == 0 or side * side != old.shape[1] - prefix or old.shape[2] != target.shape[2]:
        return old
    return resample_abs_pos_embed(old, [height, width], [side, side], num_prefix_tokens=prefix)


def _check_shapes(state: State, target: Mapping[str, Tensor]) -> None:
    wrong = [name for name in state if name in target and state[name].shape != target[name].shape]
    if wrong:
        shapes = [f"{name} is {tuple(state[name].shape)}, the model's {tuple(target[name].shape)}" for name in wrong]
        raise _another(state, target, f"Shapes differ in {len(wrong)}: {'; '.join(shapes[:_FEW])}.")
