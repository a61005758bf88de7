"""Remedies against oversmoothing, each one file that fills a slot on timm's own modules.

Adding one: write its file with a :class:`Technique`, add its line to ``TECHNIQUES``.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from torch import Tensor, nn

from vitaos.suggest import did_you_mean
from vitaos.techniques.attention_diversity_loss import ATTENTION_DIVERSITY_LOSS
from vitaos.techniques.attnscale import ATTNSCALE
from vitaos.techniques.centered_attention import CENTERED_ATTENTION
from vitaos.techniques.contranorm import CONTRANORM
from vitaos.techniques.contrast_loss import CONTRAST_LOSS
from vitaos.techniques.diversity_loss import DIVERSITY_LOSS
from vitaos.techniques.fdam import FDAM
from vitaos.techniques.featscale import FEATSCALE, RELEASE_PACE
from vitaos.techniques.freqscale import FREQSCALE
from vitaos.techniques.gated_attention import GATED_ATTENTION
from vitaos.techniques.gfsa import GFSA
from vitaos.techniques.ggem import GGEM
from vitaos.techniques.laplacian_heads import LAPLACIAN_HEADS
from vitaos.techniques.layerscale import LAYERSCALE
from vitaos.techniques.locality import LOCALITY
from vitaos.techniques.losses import TrainingPass
from vitaos.techniques.neutreno import NEUTRENO
from vitaos.techniques.re_attention import RE_ATTENTION
from vitaos.techniques.scripting import HOOK, scriptable
from vitaos.techniques.shaped_attention import SHAPED_ATTENTION
from vitaos.techniques.sigma_reparam import SIGMA_REPARAM
from vitaos.techniques.sites import backbone_in, find_sites, kind_of, open_slots
from vitaos.techniques.tap import TAP
from vitaos.techniques.technique import Technique
from vitaos.techniques.token_merging import TOKEN_MERGING
from vitaos.techniques.token_selection import TOKEN_SELECTION
from vitaos.techniques.value_residual import VALUE_RESIDUAL

TECHNIQUES: Final[dict[str, Technique]] = {
    "attnscale": ATTNSCALE,
    "featscale": FEATSCALE,
    "layerscale": LAYERSCALE,
    "contranorm": CONTRANORM,
    "neutreno": NEUTRENO,
    "gfsa": GFSA,
    "centered_attention": CENTERED_ATTENTION,
    "re_attention": RE_ATTENTION,
    "shaped_attention": SHAPED_ATTENTION,
    "value_residual": VALUE_RESIDUAL,
    "laplacian_heads": LAPLACIAN_HEADS,
    "gated_attention": GATED_ATTENTION,
    "fdam": FDAM,
    "ggem": GGEM,
    "locality": LOCALITY,
    "diversity_loss": DIVERSITY_LOSS,
    "contrast_loss": CONTRAST_LOSS,
    "attention_diversity_loss": ATTENTION_DIVERSITY_LOSS,
    "token_merging": TOKEN_MERGING,
    "token_selection": TOKEN_SELECTION,
    "sigma_reparam": SIGMA_REPARAM,
    "tap": TAP,
    "freqscale": FREQSCALE,
}

Model = TypeVar("Model", bound=nn.Module)
Flag = bool | Mapping[str, Any] | None
_KINDS: Final = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a name"}
_RECORD: Final = "vitaos_techniques"  # attribute of a model: name -> options of what is attached


def names() -> list[str]:
    """Names of all techniques: the flags of ``create_model``, ``attach``, YAML and the command line."""
    return list(TECHNIQUES)


def attached(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Techniques attached to a model: name -> options in effect."""
    return dict(getattr(backbone_in(model), _RECORD, {}))


def skip_gain_of(model: nn.Module) -> float:
    """The gain r of the residual around attention, 1 in a model as timm made it."""
    return next((float(module.skip_gain) for module in model.modules() if hasattr(module, "skip_gain")), 1.0)  # type: ignore[arg-type]


def owner_of(parameter: str) -> str | None:
    """The technique that adds a parameter of this name (the end of a state dict's key counts), or None."""
    for name, technique in TECHNIQUES.items():
        if any(parameter == end or parameter.endswith(f".{end}") for end in technique.parameters):
            return name
    return None


def starts_as_identity(parameter: str) -> bool:
    """Whether a parameter of this name belongs to a technique that changes nothing until it is trained."""
    owner = owner_of(parameter)
    return owner is not None and TECHNIQUES[owner].start == "identity"


def holds_identity(parameter: str, value: Tensor) -> bool:
    """Whether a technique that can be the identity is it, as far as this parameter decides; True for any other name."""
    owner = owner_of(parameter)
    neutral = {} if owner is None else TECHNIQUES[owner].identity
    return all(bool((value == at).all()) for end, at in neutral.items() if f".{parameter}".endswith(f".{end}"))


def paces(model: nn.Module) -> dict[str, float]:
    """Parameters that an optimizer is to move faster than the others (name -> how many times): see ``featscale``."""
    if not attached(model).get("featscale", {}).get("release_pace", False):
        return {}
    return {name: RELEASE_PACE for name, _ in model.named_parameters() if owner_of(name) == "featscale"}


def loss_names(model: nn.Module) -> tuple[str, ...]:
    """Names of the terms that the techniques of a model add to the training loss."""
    return tuple(name for technique in attached(model) for name in TECHNIQUES[technique].losses)


def training_pass(model: nn.Module, steps_per_epoch: int = 1) -> TrainingPass:
    """The model's side of a training step: the context in which its techniques know the epoch and give their losses."""
    return TrainingPass(model, loss_names(model), steps_per_epoch)


def attach(model: Model, *, skip_gain: float = 1.0, **flags: Flag) -> Model:
    """Attach techniques to a timm ViT, CaiT or Swin, in place.

    Args:
        model: a timm ``VisionTransformer``, ``Cait`` or ``SwinTransformer`` (see ``sites.KINDS``), whole or as timm's
            ``features_only=True`` gives it.
        skip_gain: r in [0, 1]: the residual around attention becomes r x + branch, the MLP's stays x + branch. 1 is the
            model as it is; below, tokens grow alike with depth, and at 0 attention's low-pass filter acts undamped. Not
            a technique: a dial for the strength of oversmoothing. CaiT's class-attention blocks keep their residual.
        **flags: technique -> True, or a mapping of its options, or False / None (off).

    Returns:
        The same model. Nothing is touched when every flag is off and ``skip_gain`` is 1.

    Raises:
        ValueError: unknown technique or option, a model or module that has no slots (its path is named), a technique
            that is attached already, is not defined on this backbone, or cannot act together with another; a
            ``skip_gain`` outside [0, 1]. The model is then as it was.
    """
    wanted = {name: _options(name, flag) for name, flag in flags.items() if _technique(name) and _is_on(flag)}
    if isinstance(skip_gain, bool) or not isinstance(skip_gain, int | float) or not 0 <= skip_gain <= 1:
        raise ValueError(f"skip_gain={skip_gain!r}: the gain of attention's residual is a number between 0 and 1.")
    if not wanted and skip_gain == 1:
        return model
    sites = find_sites(model)
    _check(model, wanted)
    for name, options in wanted.items():
        TECHNIQUES[name].check(sites, **options)
    open_slots(sites)
    for name, options in wanted.items():
        TECHNIQUES[name].fill(sites, **options)
    if wanted:
        setattr(backbone_in(model), _RECORD, {**attached(model), **wanted})
    if skip_gain != 1:
        for site in sites:
            site.block.skip_gain = float(skip_gain)
    setattr(model, HOOK, partial(scriptable, model))
    return model


def _technique(name: str) -> Technique:
    if name not in TECHNIQUES:
        nearest = did_you_mean(name, TECHNIQUES, most=1)
        raise ValueError(f"There is no technique {name!r}{nearest} Techniques: {', '.join(TECHNIQUES)}.")
    return TECHNIQUES[name]


def _is_on(flag: Flag) -> bool:
    return flag is not None and flag is not False


def _options(name: str, flag: Flag) -> dict[str, Any]:
    technique = TECHNIQUES[name]
    options = dict(technique.options)
    if isinstance(flag, bool) or flag is None:
        return options
    if not isinstance(flag, Mapping):
        raise ValueError(
            f"{name} takes True, False or a mapping of its options ({_known_options(technique)}), not {flag!r}."
        )
    for key, value in flag.items():
        if key not in options:
            raise ValueError(f"{name} has no option {key!r}; it has {_known_options(technique)}.")
        options[key] = _checked(name, key, value, options[key])
    return options


def _known_options(technique: Technique) -> str:
    return ", ".join(f"{key} (default {value})" for key, value in technique.options.items()) or "no options"


def _checked(name: str, key: str, value: Any, default: Any) -> Any:
    """The value in the type of the option's default."""
    if isinstance(value, bool) or isinstance(default, bool):
        fits = isinstance(value, bool) and isinstance(default, bool)
    elif isinstance(default, tuple):
        return _checked_counts(name, key, value)
    elif isinstance(default, str):
        fits = isinstance(value, str)
    else:
        fits = isinstance(value, int | (float if isinstance(default, float) else int)) and math.isfinite(value)
    if not fits:
        raise ValueError(f"{name}: {key} must be {_KINDS[type(default)]}, not {value!r}.")
    return type(default)(value)


def _checked_counts(name: str, key: str, value: Any) -> list[int] | str:
    """A list of whole numbers, or the name of one."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(type(count) is int and count >= 0 for count in value):
        return list(value)
    raise ValueError(f"{name}: {key} must be a list of whole numbers, or the name of one, not {value!r}.")


def _check(model: nn.Module, wanted: Mapping[str, Any]) -> None:
    """Refuse what cannot be, before anything is changed."""
    backbone, present = kind_of(model), attached(model)
    kind = backbone.name
    for name in wanted:
        technique = TECHNIQUES[name]
        if name in present:
            raise ValueError(f"{name} is attached to this model already.")
        if backbone.techniques is not None and name not in backbone.techniques:
            known = ", ".join(sorted(backbone.techniques))
            raise ValueError(f"{name} has not been held against its equation on {kind}, where there are {known}.")
        if kind in technique.refuses:
            raise ValueError(f"{name} is not defined on {kind}: {technique.refuses[kind]}.")
        for other in (*present, *wanted):
            reason = technique.conflicts.get(other) or TECHNIQUES[other].conflicts.get(name)
            if reason:
                raise ValueError(f"{name} and {other} cannot act together: {reason}.")


__all__ = ["TECHNIQUES", "Technique", "attach", "attached", "loss_names", "names", "owner_of", "paces", "training_pass"]
