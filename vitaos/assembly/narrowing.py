"""``residual_stream=bf16``: which modules of a model that is."""

from torch import nn

from vitaos.engine.residual_stream import narrow
from vitaos.techniques.sites import find_sites


def narrow_residual_stream(model: nn.Module) -> None:
    """Keep tokens between the blocks in the format of the products.

    Raises:
        ValueError: its blocks are of no kind that is known here.
    """
    try:
        blocks = [site.block for site in find_sites(model)]
    except ValueError as error:
        reason = str(error).removeprefix("Techniques cannot be attached: ")
        raise ValueError(f"residual_stream=bf16 cannot be had: {reason} Use residual_stream=fp32") from None
    narrow(blocks)
