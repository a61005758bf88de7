"""The grid of patches that a model was built for, for techniques that ask where a patch lies."""

from vitaos.techniques.sites import Site, backbone_in


def check_grid(name: str, sites: list[Site]) -> None:
    """Refuse a model whose tokens do not lie in one grid, known beforehand.

    Args:
        name: the technique that asks.
        sites: of the model.

    Raises:
        ValueError: it takes images of any size.
    """
    backbone = backbone_in(sites[0].model)
    if sites[0].kind.name == "Swin":
        return
    if getattr(getattr(backbone, "patch_embed", None), "grid_size", None) is None:
        raise ValueError(f"{name}: this model takes images of any size and has no grid of its own; give it img_size.")
    if getattr(backbone, "dynamic_img_size", False):
        raise ValueError(f"{name}: it takes one grid of patches; leave dynamic_img_size=True out.")


def grid_of_image(site: Site) -> tuple[int, int]:
    """Rows and columns of the patch tokens of an image in this block."""
    if site.kind.name == "Swin":
        rows, columns = site.block.input_resolution
    else:
        rows, columns = backbone_in(site.model).patch_embed.grid_size
    return int(rows), int(columns)


def grid_of_attention(site: Site) -> tuple[int, int]:
    """Rows and columns of the patch tokens that attend to each other: those of the window in Swin."""
    if site.kind.name != "Swin":
        return grid_of_image(site)
    rows, columns = site.attention.window_size
    return int(rows), int(columns)


NO_GRID = "tokens that become fewer lose the grid on which they lie"
