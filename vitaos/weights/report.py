"""What happened to each tensor of a checkpoint that was loaded, for people and for programs."""

from dataclasses import dataclass, field
from typing import Final

from vitaos import techniques

_LISTED: Final = 4  # how many names a line lists


def shorten(names: list[str]) -> str:
    """The first few names of a list, and how many there are."""
    return ", ".join(names[:_LISTED]) + (f", ... ({len(names)} in all)" if len(names) > _LISTED else "")


@dataclass
class LoadReport:
    """What ``load_weights`` did, by the model's names (``unexpected``, ``skipped``: the checkpoint's).

    Attributes:
        loaded: parameters and buffers that now hold the checkpoint's values.
        missing: in the model, not in the checkpoint: they keep their values. Those of some techniques (LayerScale's
            1e-5) change what the model computes, others are the identity until they are trained.
        unexpected: in the checkpoint, not in the model: ignored.
        resized: interpolated to the model's size: name -> (shape in the checkpoint, shape in the model).
        skipped: left out on purpose: a classifier that was reset, buffers that the model computes itself.
        doubled: FeatScale values of the release's DeiT, which applies them twice (see ``names.py``).
        notes: further conversions, each one sentence.
        moved: of the missing, those of techniques that could be the identity and are not: their options started them
            elsewhere, or they were trained.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    @property
    def missing_backbone(self) -> list[str]:
        """What is missing beyond techniques that start as the identity: without it the model is another one."""
        return [name for name in self.missing if name in self.moved or not techniques.starts_as_identity(name)]

    @property
    def started_as_identity(self) -> list[str]:
        """Techniques whose values the checkpoint lacks and that change nothing until they are trained."""
        owners = [techniques.owner_of(name) for name in self.missing if techniques.starts_as_identity(name)]
        moved = {techniques.owner_of(name) for name in self.moved}
        return [name for name in dict.fromkeys(owners) if name is not None and name not in moved]

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} tensors"]
        for outcome in ("missing", "unexpected", "skipped", "doubled"):
            names = getattr(self, outcome)
            if names:
                lines.append(f"{outcome} {len(names)}: {shorten(names)}")
        if self.moved:
            lines.append(f"{shorten(self.moved)}: the model's own values, which are not the identity")
        if self.started_as_identity:
            lines.append(f"{', '.join(self.started_as_identity)}: no values in the checkpoint, start at the identity")
        for name, (old, new) in self.resized.items():
            lines.append(f"resized {name}: {old} -> {new}")
        return "\n".join([*lines, *self.notes])
