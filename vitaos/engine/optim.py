"""Optimizers over parameter groups with and without weight decay."""

import fnmatch
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from vitaos.engine.freezing import nearest
from vitaos.suggest import did_you_mean

_TABLES = ("*pos_embed*", "*cls_token*", "*reg_token*", "*relative_position_bias_table*")
"""Parameters of two or more dimensions that are never decayed (as in the recipes), besides the model's own."""

_LARGEST_SCALE: Final = 1e6
_OF_APEX: Final = {"apex_adam": "fusedadamw", "apex_lamb": "fusedlamb"}
"""Our names of NVIDIA apex's fused optimizers -> timm's, which builds them."""
_APEX_IS_MISSING: Final = (
    "optimizer={name} needs NVIDIA apex, which is not here or lacks its kernels. It is built from its source, with the "
    "CUDA toolkit of this PyTorch (CUDA {cuda}) and a C++ compiler:\n"
    "  git clone https://github.com/NVIDIA/apex && cd apex\n"
    "  APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation .\n"
    "Mixed precision does not need it (precision=bf16|fp16), and optimizer=adamw is fused too"
)


def scaled_lr(base_lr: float, global_batch: int, reference: int | None = 512) -> float:
    """The linear rule: `base_lr` is meant for `reference` images in a step; with None it is meant as it stands."""
    return base_lr if reference is None else base_lr * global_batch / reference


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float | None = None) -> list[dict[str, Any]]:
    """Groups with and without weight decay.

    Not decayed: biases, norms and every other 1-D parameter (so AttnScale's and FeatScale's), position embeddings,
    class token, relative position tables, and what the model's own `no_weight_decay()` names. Frozen parameters are in
    no group. With `layer_decay` d a group holds one layer's parameters, by timm's order of the model's layers, and
    `lr_scale` d^k, k being its distance from the classifier.
    """
    exempt: Any = getattr(model, "no_weight_decay", None)
    own = () if exempt is None else exempt()
    spared = sorted({*own, *_TABLES})
    groups: list[dict[str, Any]]
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
    else:
        groups = param_groups_layer_decay(model, weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay)
    return groups


def check_optimizer(name: str, betas: Sequence[float] | None = None, **keywords: Any) -> None:
    """Refuse an optimizer that :func:`build_optimizer` cannot build, without a model: a small layer stands for it.

    Args:
        name, betas, keywords: as :func:`build_optimizer` takes them.

    Raises:
        ValueError: a name that nobody knows, one that needs second derivatives, apex where it is not installed, another
            number of betas than the optimizer has, or a keyword that it does not take.
    """
    _check_name_and_betas(name, betas)
    if name not in _OF_APEX:  # those are built on CUDA devices only
        build_optimizer(nn.Linear(2, 2, device="cpu"), name=name, lr=1e-3, weight_decay=0.01, betas=betas, **keywords)


def _check_name_and_betas(name: str, betas: Sequence[float] | None) -> None:
    count = 2
    if name in _OF_APEX:
        _check_apex(name)
    elif name != "adamw":
        info = _known_to_timm(name)
        if not info.has_betas:
            return
        count = info.num_betas
    if betas is not None and len(betas) != count:
        raise ValueError(f"optimizer.betas={list(betas)}: optimizer={name} takes {count} numbers, or null for its own")


def build_optimizer(
    model: nn.Module,
    *,
    name: str = "adamw",
    lr: float,
    weight_decay: float,
    betas: Sequence[float] | None = None,
    eps: float | None = None,
    fused: bool = True,
    layer_decay: float | None = None,
    paces: Mapping[str, float] | None = None,
    lr_scale: Mapping[str, float] | None = None,
    **keywords: Any,
) -> torch.optim.Optimizer:
    """An optimizer over `model`'s parameters, which must be on their device already.

    Args:
        model: the model.
        name: "adamw" (torch's), "apex_adam" or "apex_lamb" (NVIDIA apex's fused ones), or any of timm's names ("lamb",
            "sgd", "lion", ...).
        lr, weight_decay: as usual; the schedule sets the rate anew before each step.
        betas, eps: of Adam and its relatives; an optimizer that has neither ignores them; None means its own.
        fused: use torch's fused kernels for "adamw"; they also let a bad step be skipped without synchronization.
        layer_decay: see :func:`parameter_groups`.
        paces: parameter -> k: it moves as k u would if the model held u in its place. Under Adam and its relatives
            that is k times the rate, and decay and eps divided by k.
        lr_scale: pattern of parameter names -> factor of their rate, besides that of `layer_decay`; the last pattern
            that fits counts.
        keywords: further arguments of the optimizer's class.

    Raises:
        ValueError: a pattern that names no parameter, a name that nobody knows, arguments the class refuses, or apex
            where it is not installed.
    """
    _check_name_and_betas(name, betas)
    groups = _split_by_pace(model, parameter_groups(model, weight_decay, layer_decay), paces or {})
    groups = _split_by_scale(groups, scales_by_pattern(model, lr_scale or {}))
    try:
        optimizer = _build(model, groups, name=name, lr=lr, betas=betas, eps=eps, fused=fused, **keywords)
    except (AssertionError, ImportError, TypeError) as error:
        given = f" with optimizer.keywords={keywords}" if keywords else ""
        raise ValueError(f"optimizer={name}{given} cannot be built: {error}") from error
    for group in optimizer.param_groups if paces else ():
        if isinstance(group.get("eps"), float):
            group["eps"] /= group.get("pace", 1.0)
    return optimizer


_ELEMENTWISE: Final = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"})
"""State that has a value for each element of a parameter, under the names that torch and timm give it."""
_SETTINGS: Final = frozenset({"lr", "betas", "eps", "momentum", "weight_decay"})


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take over a saved state; torch itself checks nothing but the number of parameters.

    Raises:
        ValueError: it is not this optimizer's: names what is missing or of another shape.
    """
    settings = [_SETTINGS & set(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    parameters: list[Tensor] = []
    for number, (group, wanted) in enumerate(zip(optimizer.param_groups, settings, strict=True)):
        if not wanted <= set(group):
            raise ValueError(f"optimizer.param_groups[{number}] lacks {', '.join(sorted(wanted - set(group)))}")
        parameters += group["params"]
    needed = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else set()  # and AdamW
    for number, parameter in enumerate(parameters):
        values = optimizer.state.get(parameter, {})
        if values and not needed <= set(values):
            raise ValueError(f"optimizer.state[{number}] lacks {', '.join(sorted(needed - set(values)))}")
        for key, value in values.items():
            name = f"optimizer.state[{number}].{key}"
            if key in needed and not isinstance(value, Tensor):
                raise ValueError(f"{name}={value!r:.80}: expected a tensor")
            has_elements = key in _ELEMENTWISE and isinstance(value, Tensor) and value.ndim > 0
            if has_elements and value.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")


def scales_by_pattern(model: nn.Module, lr_scale: Mapping[str, float]) -> dict[int, float]:
    """id of a parameter -> factor of its rate, for those that a pattern names.

    Raises:
        ValueError: a pattern names no parameter, or its factor is no number of 0 or more.
    """
    scales: dict[int, float] = {}
    parameters = dict(model.named_parameters())
    for pattern, factor in lr_scale.items():
        names = fnmatch.filter(parameters, pattern)
        if not names:
            near = nearest(pattern, list(parameters))
            raise ValueError(f"recipe.lr_scale: no parameter is named {pattern}{near}")
        if not factor >= 0 or factor > _LARGEST_SCALE:
            raise ValueError(f"recipe.lr_scale.{pattern}={factor}: it must be between 0 and {_LARGEST_SCALE:g}")
        scales |= {id(parameters[name]): factor for name in names}
    return scales


def _split_by_scale(groups: list[dict[str, Any]], scales: Mapping[int, float]) -> list[dict[str, Any]]:
    """The groups, parameters whose rates have another factor in groups of their own."""
    if not scales:
        return groups
    split = []
    for group in groups:
        for scale in sorted({scales.get(id(item), 1.0) for item in group["params"]}):
            part = {**group, "params": [item for item in group["params"] if scales.get(id(item), 1.0) == scale]}
            split.append(part | ({} if scale == 1 else {"lr_scale": scale * group.get("lr_scale", 1.0)}))
    return split


def _split_by_pace(model: nn.Module, groups: list[dict[str, Any]], paces: Mapping[str, float]) -> list[dict[str, Any]]:
    """The groups, those parameters that have a pace in groups of their own."""
    if not paces:
        return groups
    pace_of = {id(parameter): paces.get(name, 1.0) for name, parameter in model.named_parameters()}
    split = []
    for group in groups:
        for pace in sorted({pace_of[id(parameter)] for parameter in group["params"]}):
            part = {**group, "params": [item for item in group["params"] if pace_of[id(item)] == pace]}
            if pace != 1:
                scale = pace * group.get("lr_scale", 1.0)
                part |= {"pace": pace, "lr_scale": scale, "weight_decay": group["weight_decay"] / pace}
            split.append(part)
    return split


def _build(
    model: nn.Module,
    groups: list[dict[str, Any]],
    *,
    name: str,
    lr: float,
    betas: Sequence[float] | None,
    eps: float | None,
    fused: bool,
    **keywords: Any,
) -> Any:
    if name != "adamw" and name not in _OF_APEX:
        return _timm(name, groups, lr=lr, betas=betas, eps=eps, **keywords)
    first, second = betas or (0.9, 0.999)
    keywords |= {"lr": lr, "betas": (first, second), "eps": 1e-8 if eps is None else eps}
    if name == "adamw":
        return torch.optim.AdamW(groups, fused=fused, **keywords)
    if not all(parameter.is_cuda for parameter in model.parameters()):
        raise ValueError(f"optimizer={name} works on CUDA devices only; optimizer=adamw is fused on the CPU too")
    try:
        return _timm(_OF_APEX[name], groups, **keywords)
    except RuntimeError as error:  # a Python-only build, without the kernels
        raise ValueError(f"{error}\n{_apex_is_missing(name)}") from error


def _known_to_timm(name: str) -> Any:
    from timm.optim import get_optimizer_info, list_optimizers  # noqa: PLC0415 - part of timm's registry, rarely needed

    try:
        info = get_optimizer_info(name)
    except ValueError as error:
        names = [str(known) for known in list_optimizers()]
        raise ValueError(
            f"optimizer={name!r} is unknown{did_you_mean(name, [*_OF_APEX, *names], most=3)} It is adamw, "
            f"{', '.join(_OF_APEX)} or one of timm's {len(names)} (timm.optim.list_optimizers())"
        ) from error
    if info.second_order:
        raise ValueError(
            f"optimizer={name} needs second derivatives, which the training step does not make; choose another"
        )
    return info


def _timm(
    name: str,
    groups: list[dict[str, Any]],
    *,
    betas: Sequence[float] | None,
    eps: float | None,
    **keywords: Any,
) -> Any:
    info = _known_to_timm(name)
    if info.has_betas and betas is not None:
        keywords["betas"] = tuple(betas)
    if info.has_eps and eps is not None:
        keywords["eps"] = eps
    return create_optimizer_v2(groups, opt=name, **keywords)


def _check_apex(name: str) -> None:
    try:
        importlib.import_module("apex.optimizers")
    except ImportError as error:
        raise ValueError(_apex_is_missing(name)) from error


def _apex_is_missing(name: str) -> str:
    return _APEX_IS_MISSING.format(name=name, cuda=torch.version.cuda or "none")
