"""Parameters that are not trained: named by patterns, or all but the classifier's (a linear probe).

A module whose parameters are all frozen computes as in evaluation: no dropout, no drop path, running statistics as they
are."""

import fnmatch
from collections.abc import Sequence
from typing import Any, Final

from torch import nn

from vitaos.suggest import did_you_mean

BACKBONE: Final = "backbone"
"""The pattern that means every parameter outside the classifier."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Take the gradient from the parameters that patterns name.

    Args:
        model: a model of timm.
        patterns: as the shell's (``blocks.0.*``, ``*attn_scale``), or ``backbone``.

    Returns:
        The names of the frozen parameters.

    Raises:
        ValueError: a pattern names no parameter, or all are frozen.
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: set[str] = set()
    for pattern in patterns:
        found = _outside_classifier(model) if pattern == BACKBONE else fnmatch.filter(names, pattern)
        if not found:
            raise ValueError(f"recipe.freeze={pattern}: no parameter of that name{nearest(pattern, names, BACKBONE)}")
        frozen |= set(found)
    if frozen and len(frozen) == len(names):
        raise ValueError(f"recipe.freeze={list(patterns)} leaves nothing to train")
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return sorted(frozen)


def frozen_modules(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The largest modules that hold parameters and none that is trained; after :func:`freeze`.

    With ``backbone`` also those without parameters (dropout of positions, patch dropout), but for the classifier's own
    dropout, which timm keeps under names that begin with ``head``.
    """
    found = []

    def visit(module: nn.Module, path: str) -> None:
        parameters = list(module.parameters())
        is_frozen = bool(parameters) and not any(parameter.requires_grad for parameter in parameters)
        is_before_head = not parameters and BACKBONE in patterns and not path.startswith("head")
        if is_frozen or is_before_head:
            found.append(module)
            return
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name)

    if patterns:
        visit(model, "")
    return found


def nearest(pattern: str, names: Sequence[str], *words: str) -> str:
    """The end of a message about a pattern that fits none of `names`: the nearest patterns or words, some names."""
    modules = dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names if "." in name)
    return f"{did_you_mean(pattern, [*words, *modules, *names])} Names are {', '.join(names[:4])}, ..."


def _outside_classifier(model: Any) -> list[str]:
    found = model.get_classifier()
    heads = found if isinstance(found, tuple) else (found,)
    trained = {id(parameter) for head in heads for parameter in head.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in trained]
