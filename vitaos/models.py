"""Name -> timm model: the backbones of the paper by their short names, any depth, techniques as flags.

Every model is timm's own class. ``timm_registry.py`` makes the short names known to timm as well.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import timm
import torch
from timm.layers import trunc_normal_, use_fused_attn
from timm.models.swin_transformer import WindowAttention
from torch import nn

from vitaos import techniques
from vitaos.backbones import BACKBONES, Backbone
from vitaos.suggest import did_you_mean
from vitaos.techniques.sites import backbone_in

_SWIN_DEEPENED_STAGE: Final = 2  # Swin grows in its third stage, as from Swin-T to Swin-S
_REGULARIZATION: Final = {  # the recipe's names -> timm's
    "drop_path": "drop_path_rate",
    "pos_drop": "pos_drop_rate",
    "proj_drop": "proj_drop_rate",
}
# Keywords with which timm would open files, past the checks of vitaos.weights.
_OPENS_FILES: Final = frozenset(
    {"checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_model_args", "pruned"}
)
_UNKNOWN_KEYWORD: Final = re.compile(r"unexpected keyword argument '(\w+)'")


def names() -> list[str]:
    """The short names of the paper's backbones."""
    return list(BACKBONES)


def regularization_keywords(drop_path: float = 0.0, pos_drop: float = 0.0, proj_drop: float = 0.0) -> dict[str, float]:
    """The recipe's names -> timm's, the same for the three families; a rate of 0 is left out.

    Args:
        drop_path: stochastic depth. timm spreads it as the recipes want it: rising linearly with depth in ViT and Swin,
            the same in every block in CaiT.
        pos_drop: dropout after the position embedding (Swin in timm has none: a value there is refused by
            ``create_model``).
        proj_drop: dropout after the attention's projection and in the MLP.
    """
    rates = {"drop_path": drop_path, "pos_drop": pos_drop, "proj_drop": proj_drop}
    return {_REGULARIZATION[name]: rate for name, rate in rates.items() if rate}


def any_size_keywords(name: str) -> dict[str, Any]:
    """Keywords with which a backbone takes images of other sizes than its own: positions are interpolated as images
    come, parameters keep their size. None for networks that need none, or that cannot (CaiT)."""
    keywords: dict[str, Any] = {"dynamic_img_size": True}
    try:
        with torch.device("meta"):
            create_model(name, **keywords)
    except (NotImplementedError, RuntimeError, ValueError):
        return {}
    return keywords


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    img_size: int | tuple[int, int] | None = None,
    depth: int | None = None,
    skip_gain: float = 1.0,
    **keywords: Any,
) -> nn.Module:
    """Build a backbone, with techniques attached. Weights are random: nothing is downloaded.

    Args:
        name: a short name (``deit_s24``, ``cait_s24``, ``swin_s``, ...), one with a technique (``deit_s24_attnscale``),
            or any name of timm.
        num_classes: classes of the classifier.
        img_size: side of the images in pixels, or (height, width). Short names default to 224, timm's to their own;
            networks of timm that take images of any size have no use for it.
        depth: number of blocks. In Swin the total over the four stages: the third stage takes the difference.
        skip_gain: r in [0, 1], the residual around attention as r x + branch (see :func:`vitaos.attach`); 1 leaves the
            model as it is.
        **keywords: techniques as flags (``attnscale=True``, ``contranorm={"scale": 0.1}``) and keywords of the timm
            class (``embed_dim``, ``num_heads``, ``patch_size``, ``reg_tokens``, ``drop_path_rate``, ...).

    Raises:
        ValueError: unknown name, technique or keyword, or a depth that cannot be had.
    """
    if depth is not None and (type(depth) is not int or depth < 1):
        raise ValueError(f"{name}: depth={depth!r} cannot be had: it is a whole number of blocks, 1 at least.")
    name, flags = _split_techniques(name)
    for flag in techniques.names():
        if flag in keywords:
            if flag in flags:
                raise ValueError(f"{flag} is switched by the name and by its flag: give one of the two.")
            flags[flag] = keywords.pop(flag)
    keywords["num_classes"] = num_classes
    if img_size is not None:
        keywords["img_size"] = img_size
    model = _create_short(name, depth, keywords) if name in BACKBONES else _create_timm(name, depth, keywords)
    return techniques.attach(model, skip_gain=skip_gain, **flags)


def _split_techniques(name: str) -> tuple[str, dict[str, Any]]:
    for technique in techniques.names():
        base = name.removesuffix(f"_{technique}")
        if base != name and base in BACKBONES:
            return base, {technique: True}
    return name, {}


def _create_short(name: str, depth: int | None, keywords: dict[str, Any]) -> nn.Module:
    backbone = BACKBONES[name]
    merged = {**backbone.keywords, **keywords}
    if depth is not None:
        if backbone.family == "swin":
            merged["depths"] = _swin_depths(name, depth, keywords.get("depths"), merged["depths"])
        else:
            merged["depth"] = depth
    model = _build(backbone.entry, **{"img_size": 224, **merged})
    token = getattr(backbone_in(model), "cls_token", None)
    if backbone.family == "deit" and token is not None:
        # timm starts the class token at (almost) zero, DeiT at a truncated normal of 0.02 like everything else.
        trunc_normal_(token, std=0.02)
    return model


def _swin_depths(name: str, depth: int, given: Sequence[int] | None, depths: Sequence[int]) -> tuple[int, ...]:
    if given is not None:
        raise ValueError(f"{name}: give depth={depth} or depths={tuple(given)}, not both.")
    others = sum(depths) - depths[_SWIN_DEEPENED_STAGE]
    if depth <= others:
        raise ValueError(
            f"{name}: depth={depth} cannot be had: depth is the total over the stages {tuple(depths)}, of which only "
            f"the third changes, so it is {others + 1} at least. Other shapes: depths=(..)."
        )
    return (*depths[:_SWIN_DEEPENED_STAGE], depth - others, *depths[_SWIN_DEEPENED_STAGE + 1 :])


def _create_timm(name: str, depth: int | None, keywords: dict[str, Any]) -> nn.Module:
    if not timm.is_model(name):
        nearest = did_you_mean(name, [*BACKBONES, *timm.list_models()], most=3)
        raise ValueError(
            f"There is no model {name!r}{nearest} Known: {', '.join(BACKBONES)} (each also with a technique, as "
            "deit_s24_attnscale), and all of timm.list_models()."
        )
    if depth is not None:
        keywords["depth"] = depth
    try:
        return _build(name, **keywords)
    except _UnknownKeywordError as error:
        if error.keyword != "img_size":
            raise
        # A network of convolutions takes images of any size, and timm has no keyword for one.
        del keywords["img_size"]
        return _build(name, **keywords)


class _UnknownKeywordError(ValueError):
    """A keyword that a timm model does not take."""

    def __init__(self, entry: str, keyword: str) -> None:
        self.keyword = keyword
        keys = [key for key, of_timm in _REGULARIZATION.items() if of_timm == keyword]
        recipe = f" (recipe.{keys[0]}: set it to 0)" if keys else ""
        super().__init__(
            f"The timm model {entry} takes no keyword {keyword!r}{recipe}. Techniques: {', '.join(techniques.names())}."
        )


def _build(entry: str, **keywords: Any) -> Any:
    if keywords.pop("pretrained", False):
        raise ValueError("Nothing is downloaded here: create the model, then vitaos.load_weights(model, FILE).")
    opening = sorted(_OPENS_FILES & set(keywords))
    if opening:
        raise ValueError(f"{opening[0]}: models start from random weights; then vitaos.load_weights(model, FILE).")
    try:
        return _fuse_windows(timm.create_model(entry, pretrained=False, **keywords))
    except TypeError as error:
        unknown = _UNKNOWN_KEYWORD.search(str(error))
        if unknown is None:
            raise
        raise _UnknownKeywordError(entry, unknown.group(1)) from error
    except AssertionError as error:  # timm's answer to values that do not go together
        given = ", ".join(f"{key}={value}" for key, value in keywords.items())
        raise ValueError(f"The timm model {entry} cannot be built with {given}: {str(error).rstrip('.')}.") from error


def _fuse_windows(model: nn.Module) -> nn.Module:
    """Let Swin's windows use fused attention wherever ViT does: timm leaves it off for them ("experimental").

    The same sum in another order: bias and mask are added to the scores inside the kernel. ``TIMM_FUSED_ATTN=0`` still
    switches it off.
    """
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.fused_attn = use_fused_attn()  # type: ignore[misc]  # a constant for TorchScript alone
    return model


__all__ = ["BACKBONES", "Backbone", "create_model", "names", "regularization_keywords"]
