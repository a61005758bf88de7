"""NeuTRENO: A V + a (V_0 - V) in every block but the first, V_0 being the values of the first block.

Source: Nguyen, Nguyen, Baraniuk, "Mitigating Over-smoothing in Transformers via Regularized Nonlocal Functionals",
NeurIPS 2023, section 3; a = 0.6 as in the authors' DeiT code (option ``scale``). No parameters. Fused attention stays
in use.

Not the identity at the start unless ``scale`` = 0. V_0 is handed from the first block to the others within one forward
pass (``record``), so gradient checkpointing, which runs blocks again in the backward pass, is refused.
"""

from functools import partial
from typing import Any, Final

from torch import Tensor

from vitaos.techniques.record import share_record
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.slot_calls import Attend
from vitaos.techniques.technique import Technique

_KEY: Final = "neutreno"
_PRIORITY: Final = 60  # outermost: the values must be those of the layer itself


def remember_values(attention: Any, attend: Attend, v_BHND: Tensor) -> Tensor:
    """The first block: keep V_0, which follows the tokens when these become fewer."""
    attention.record.carried[_KEY] = v_BHND
    return attend(v_BHND)


def restore_values(attention: Any, attend: Attend, v_BHND: Tensor, *, scale: float) -> Tensor:
    """The other blocks: A V + scale (V_0 - V)."""
    first_BHND = attention.record.carried[_KEY]
    return attend(v_BHND) + scale * (first_BHND - v_BHND)


def _check(sites: list[Site], scale: float) -> None:
    if len(sites) < 2:
        raise ValueError("neutreno: a model of one block has no later block to restore values in.")


def _fill(sites: list[Site], scale: float) -> None:
    share_record(sites, needed_by=_KEY)
    for index, site in enumerate(sites):
        restore = partial(restore_values, scale=scale)
        fill(site.attention, "operators", _PRIORITY, restore if index else remember_values)


NEUTRENO: Final = Technique(
    name="neutreno",
    summary="pulls the values of every block back towards those of the first",
    fill=_fill,
    start="A V + scale (V_0 - V)",
    check=_check,
    options={"scale": 0.6},
    refuses={"Swin": "values of the first stage have another resolution, width and windows than those of later blocks"},
)
