"""What a technique is: its name, its options, its parameters and how it fills its slots."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vitaos.techniques.sites import Site


def _anywhere(_: list[Site], **__: Any) -> None:
    """The check of a technique that can be filled in wherever there are sites."""


@dataclass(frozen=True)
class Technique:
    """One published remedy against oversmoothing.

    Attributes:
        name: the flag's name, in Python, in YAML and on the command line.
        summary: one line, for ``--help`` and tables.
        fill: puts the technique into the slots of all sites of a model, in order of depth, with the options as
            keywords.
        start: ``identity`` where a model's output does not change on attaching, else what it starts from.
        identity: of such a one, ends of parameter names -> the value at which it changes nothing, whatever the others
            are; its options may start it elsewhere.
        check: raises ``ValueError`` where it cannot be filled in; called like ``fill``, before anything is changed.
        losses: names of the terms that it adds to the training loss.
        parameters: ends of the names of what it adds to a model's state dict.
        options: the options and their defaults; an option takes values of the type of its default.
        refuses: kind of backbone -> why the technique is not defined there.
        conflicts: other technique -> why the two cannot act together.
        reduces_tokens: whether all it does is to make tokens fewer, so that it acts on weights trained without it.
    """

    name: str
    summary: str
    fill: Callable[..., None]
    start: str = "identity"
    identity: Mapping[str, float] = field(default_factory=dict)
    check: Callable[..., None] = _anywhere
    losses: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    conflicts: Mapping[str, str] = field(default_factory=dict)
    reduces_tokens: bool = False
