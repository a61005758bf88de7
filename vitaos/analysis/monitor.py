"""Oversmoothing as it happens: the cheap measures, on a few held-out images, while a model trains.

Shape suffixes: B images, N tokens, C channels.
"""

import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos.analysis.capture import Grid, watch
from vitaos.analysis.measured import LEARNED
from vitaos.analysis.similarity import token_similarity
from vitaos.analysis.spectrum import high_frequency_ratio

__all__ = ["MEASURES", "Monitor", "learned_means"]

MEASURES = ("token_similarity", "hf_dc_ratio")  # of features; the others are learned values

Values = float | list[float]


class Monitor:
    """Token similarity, high-frequency ratio and learned w, s, t of a model, as numbers that fit into JSON.

    One forward pass of the batch with fused attention left on, a reduction behind every block, and one copy to the
    host at the end. The model's mode, hooks and random state are afterwards what they were.
    """

    def __call__(self, model: nn.Module, images: Tensor) -> dict[str, Values]:
        """Measure.

        Args:
            model: a timm ViT, CaiT or Swin. ``torch.compile`` and DDP wrappers are looked through and the model runs
                eagerly, so nothing is compiled again.
            images: (B, 3, height, width), normalized, on the model's device.

        Returns:
            ``token_similarity`` and ``hf_dc_ratio``: means over images and blocks; ``token_similarity_by_block`` and
            ``hf_dc_ratio_by_block``: mean over images of the input of the first block, then of every block's output;
            and what :func:`learned_means` gives.

        Raises:
            ValueError: if the model is not a transformer whose blocks can be watched.
        """
        similarity: list[Tensor] = []
        ratio: list[Tensor] = []

        def on_features(_: int, tokens_BNC: Tensor, __: Grid) -> None:
            similarity.append(token_similarity(tokens_BNC).mean())
            ratio.append(high_frequency_ratio(tokens_BNC).mean())

        with watch(model, on_features, without_lost=True) as run:
            run(images)
        by_block = torch.stack([torch.stack(similarity), torch.stack(ratio)]).tolist()
        result: dict[str, Values] = {}
        for name, values in zip(MEASURES, by_block, strict=True):
            result |= _with_mean(name, values, values[1:])
        return result | learned_means(model)


@torch.no_grad()
def learned_means(model: nn.Module) -> dict[str, Values]:
    """The learned w, s, t alone, of those parameters that the model has.

    Returns:
        ``attn_scale``, ``feat_scale_dc``, ``feat_scale_hf``: mean over all blocks; ``NAME_by_block``: mean over the
        heads or channels of every block.
    """
    found: dict[str, list[Tensor]] = {}
    for path, parameter in unwrap_model(model).named_parameters():
        name = path.rpartition(".")[2]
        if name in LEARNED:
            found.setdefault(name, []).append(parameter.float().mean())
    means: dict[str, Values] = {}
    for name in LEARNED:
        if name in found:
            values = torch.stack(found[name]).tolist()
            means |= _with_mean(name, values, values)
    return means


def _with_mean(name: str, values: list[float], averaged: list[float]) -> dict[str, Values]:
    return {name: sum(averaged) / len(averaged), f"{name}_by_block": values}
