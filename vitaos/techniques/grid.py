"""The grid of patches that a model was built for, for techniques that ask where a patch lies."""

from dataclasses import dataclass
from typing import Any

from vitaos.techniques.sites import Site, backbone_in


@dataclass(frozen=True)
class PatchGrid:
    """A grid that is looked up where timm keeps it, since timm's ``set_input_size`` changes it there.

    Attributes:
        holder: the module that has it; a copy of the model has a copy of both.
        attribute: its name in there.
    """

    holder: Any
    attribute: str

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns now."""
        rows, columns = getattr(self.holder, self.attribute)
        return int(rows), int(columns)

    def check(self, name: str, built: tuple[int, int]) -> None:
        """Hold it against the one that a technique of this name was built for.

        Raises:
            ValueError: it has become another.
        """
        if self.size != built:
            raise ValueError(
                f"{name} was attached to a model of {built[0]} x {built[1]} patches, which now has {self.size[0]} x "
                f"{self.size[1]}: give the model its size first (img_size=..., or set_input_size), then attach."
            )


def check_grid(name: str, sites: list[Site]) -> None:
    """Refuse a model whose tokens do not lie in one grid, known beforehand.

    Args:
        name: the technique that asks.
        sites: of the model.

    Raises:
        ValueError: it takes images of any size.
    """
    backbone = backbone_in(sites[0].model)
    embedding = getattr(backbone, "patch_embed", None)
    if sites[0].kind.name == "Swin":
        if not getattr(embedding, "strict_img_size", True):
            raise ValueError(f"{name}: it takes one grid of patches; leave strict_img_size=False out.")
        return
    if getattr(embedding, "grid_size", None) is None:
        raise ValueError(f"{name}: this model takes images of any size and has no grid of its own; give it img_size.")
    if getattr(backbone, "dynamic_img_size", False):
        raise ValueError(f"{name}: it takes one grid of patches; leave dynamic_img_size=True out.")


def grid_of_image(site: Site) -> PatchGrid:
    """The patch tokens of an image in this block."""
    if site.kind.name == "Swin":
        return PatchGrid(site.block, "input_resolution")
    return PatchGrid(backbone_in(site.model).patch_embed, "grid_size")


def grid_of_attention(site: Site) -> PatchGrid:
    """The patch tokens that attend to each other: those of the window in Swin."""
    if site.kind.name != "Swin":
        return grid_of_image(site)
    return PatchGrid(site.attention, "window_size")


NO_GRID = "tokens that become fewer lose the grid on which they lie"
