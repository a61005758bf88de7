"""Importance of heads: what accuracy and loss lose when one head's output is 0.

Source: Michel, Levy, Neubig, "Are Sixteen Heads Really Better than One?", NeurIPS 2019, section 3; for ViTs Li et al.,
"How Does Attention Work in Vision Transformers? A Visual Analytics Attempt" (arXiv 2303.13731). A head's output is
taken away by setting its columns of the output projection to 0, for the time of one evaluation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from timm.utils import unwrap_model
from torch import nn

from vitaos.analysis.capture import find_layout
from vitaos.analysis.robustness.samples import Respondent, Samples
from vitaos.analysis.robustness.table import Table

COLUMNS: Final = ("module", "block", "stage", "kind", "head", "top1_drop", "loss_rise", "consistency")


def measure_heads(respondent: Respondent, samples: Samples) -> Table:
    """For every head of every block: points of top-1 lost, loss added, answers that stay.

    Raises:
        ValueError: an attention module without an output projection; its path is named.
    """
    clean = respondent.ask(samples.images, samples.targets)
    model = unwrap_model(respondent.model)
    rows = []
    for layer in find_layout(model).attention:
        for head in range(int(getattr(model.get_submodule(layer.name), "num_heads"))):  # noqa: B009 - any module
            with without_head(model, layer.name, head):
                answers = respondent.ask(samples.images, samples.targets)
            rows.append(
                {
                    "module": layer.name,
                    "block": layer.number,
                    "stage": layer.stage,
                    "kind": layer.kind,
                    "head": head + 1,
                    "top1_drop": clean.accuracy - answers.accuracy,
                    "loss_rise": answers.mean_loss - clean.mean_loss,
                    "consistency": answers.agreement(clean),
                }
            )
    facts = {"images": len(samples), "clean_top1": clean.accuracy, "clean_loss": clean.mean_loss}
    return Table("heads", COLUMNS, rows, facts)


@contextmanager
def without_head(model: nn.Module, path: str, head: int) -> Iterator[None]:
    """Inside, a head (0-based) of an attention module gives nothing; afterwards it is as it was."""
    attention: Any = model.get_submodule(path)
    projection = getattr(attention, "proj", None)
    if not isinstance(projection, nn.Linear) or projection.in_features % attention.num_heads:
        raise ValueError(f"robustness=heads: {path} has no output projection of its heads")
    width = projection.in_features // attention.num_heads
    columns = projection.weight.data[:, head * width : (head + 1) * width]
    kept = columns.clone()
    try:
        with torch.no_grad():
            columns.zero_()
        yield
    finally:
        with torch.no_grad():
            columns.copy_(kept)
