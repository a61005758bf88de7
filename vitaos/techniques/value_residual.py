"""Value residual (ResFormer): A (l_0 V_0 + l V) in every block but the first, V_0 being the values of the first block.

Source: Zhou, Wu, Jiang, Obeid, Lan, "Value Residual Learning", ACL 2025 (arXiv 2410.17897). Parameters
``value_residual_first`` = l_0 and ``value_residual_own`` = l, (1,) on each attention module but the first, starting at
the options ``first`` and ``own``, 0.5 and 0.5 as in the paper; ``learned`` = false keeps them there. Blocks before
``from_block`` (0-based) are left alone, which is the paper's sparse form. V_0 is mixed in before A acts, where NeuTRENO
adds it unattended; both may act, NeuTRENO then on the block's own V.

Not the identity at the start unless ``first`` = 0 and ``own`` = 1. Fused attention stays in use. Gradient checkpointing
is refused (``record``).
"""

from typing import Any, Final

from torch import Tensor

from vitaos.dtypes import at_least_float32
from vitaos.techniques.record import share_record
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.slot_calls import Attend
from vitaos.techniques.technique import Technique

_KEY: Final = "value_residual"
_PRIORITY: Final = 55  # outside every change of the map, which so acts on the mixed values; inside NeuTRENO


def keep_values(attention: Any, attend: Attend, v_BHND: Tensor) -> Tensor:
    """The first block: keep V_0."""
    attention.record.carried[_KEY] = v_BHND
    return attend(v_BHND)


def mix_values(attention: Any, attend: Attend, v_BHND: Tensor) -> Tensor:
    """A later block: attend to the mixed values."""
    first, own = at_least_float32(attention.value_residual_first), at_least_float32(attention.value_residual_own)
    mixed_BHND = first * attention.record.carried[_KEY] + own * v_BHND
    return attend(mixed_BHND.to(v_BHND.dtype))


def _check(sites: list[Site], first: float, own: float, learned: bool, from_block: int) -> None:
    if not 1 <= from_block < len(sites):
        raise ValueError(
            f"value_residual: from_block={from_block}: values of the first block (0) are mixed into later ones, so it "
            f"is between 1 and {len(sites) - 1} in a model of {len(sites)} blocks."
            if len(sites) > 1
            else "value_residual: a model of one block has no later block to mix values into."
        )


def _fill(sites: list[Site], first: float, own: float, learned: bool, from_block: int) -> None:
    share_record(sites, needed_by=_KEY)
    fill(sites[0].attention, "operators", _PRIORITY, keep_values)
    for site in sites[from_block:]:
        attention = site.attention
        for name, start in (("value_residual_first", first), ("value_residual_own", own)):
            weight = site.parameter(1, start)
            if learned:
                attention.register_parameter(name, weight)
            else:
                attention.register_buffer(name, weight.detach())
        fill(attention, "operators", _PRIORITY, mix_values)


VALUE_RESIDUAL: Final = Technique(
    name="value_residual",
    summary="mixes the first block's values into those of every later one before attention",
    fill=_fill,
    start="A (first V_0 + own V)",
    check=_check,
    parameters=("value_residual_first", "value_residual_own"),
    options={"first": 0.5, "own": 0.5, "learned": True, "from_block": 1},
    refuses={"Swin": "values of the first stage have another resolution, width and windows than those of later blocks"},
)
