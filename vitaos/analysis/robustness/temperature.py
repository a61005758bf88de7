"""Softmax temperature: accuracy when every attention map is softmax(scores / T), T below 1 sharper, above 1 smoother.

Source: Gu, Tresp, Qin, ECCV 2022 (arXiv 2111.10659), who smooth attention by T > 1 against patch perturbation. Scores
are all that a softmax is given: queries times keys, position bias (Swin), after the first mix of heads (CaiT); a mask
stays. So T is put into the weights in front of the softmax, for the time of the test.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos.analysis.capture import find_layout
from vitaos.analysis.robustness.samples import Respondent, Samples
from vitaos.analysis.robustness.table import Table

COLUMNS: Final = ("temperature", "top1", "loss", "consistency")
TEMPERATURES: Final = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0)


def measure_temperatures(respondent: Respondent, samples: Samples) -> Table:
    """Accuracy, loss and agreement with the answers at T = 1, by temperature."""
    clean = respondent.ask(samples.images, samples.targets)
    rows = []
    for temperature in TEMPERATURES:
        with softmax_temperature(respondent.model, temperature):
            answers = respondent.ask(samples.images, samples.targets)
        rows.append(
            {
                "temperature": temperature,
                "top1": answers.accuracy,
                "loss": answers.mean_loss,
                "consistency": answers.agreement(clean),
            }
        )
    return Table("temperature", COLUMNS, rows, {"images": len(samples), "clean_top1": clean.accuracy})


@contextmanager
def softmax_temperature(model: nn.Module, temperature: float) -> Iterator[None]:
    """Inside, every attention softmax of a timm ViT, CaiT or Swin has this temperature; afterwards all is as it was.

    Raises:
        ValueError: an attention module whose scores cannot be reached by its weights; its path is named.
    """
    model = unwrap_model(model)
    parts = [part for layer in find_layout(model).attention for part in _scores(model, layer.name)]
    kept = [part.clone() for part in parts]
    try:
        with torch.no_grad():
            for part in parts:
                part.div_(temperature)
        yield
    finally:
        with torch.no_grad():
            for part, before in zip(parts, kept, strict=True):
                part.copy_(before)


def _scores(model: nn.Module, path: str) -> list[Tensor]:
    """The parameters in which the scores are linear, as views."""
    attention: Any = model.get_submodule(path)
    if isinstance(getattr(attention, "proj_l", None), nn.Module):  # CaiT: mixed before the softmax
        return [attention.proj_l.weight.data, attention.proj_l.bias.data]
    if isinstance(getattr(attention, "q", None), nn.Linear):  # CaiT's class attention
        return _linear(attention.q, slice(None))
    if type(getattr(attention, "qkv", None)) is not nn.Linear:
        raise ValueError(f"robustness=temperature: {path} is a {type(attention).__name__} without a joint projection")
    table = getattr(attention, "relative_position_bias_table", None)
    bias = [] if table is None else [table.data]
    norm = getattr(attention, "q_norm", None)
    if norm is None or isinstance(norm, nn.Identity):
        return [*_linear(attention.qkv, slice(attention.qkv.out_features // 3)), *bias]
    if getattr(norm, "weight", None) is None:
        raise ValueError(f"robustness=temperature: the queries of {path} are normalized without weights")
    return [norm.weight.data, *([] if getattr(norm, "bias", None) is None else [norm.bias.data]), *bias]


def _linear(layer: nn.Linear, rows: slice) -> list[Tensor]:
    return [layer.weight.data[rows], *([] if layer.bias is None else [layer.bias.data[rows]])]
