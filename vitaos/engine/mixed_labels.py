"""Labels of mixed images weighed by what the class token attends to, in place of the area that is left of an image.

With a the class token's attention to the patches in the last block, o the patches' shares of own pixels (both of shape
(B, patches)), p the model's probabilities and t the mixed label by area, smoothed as the recipe has it:

    lambda_area      = mean o
    lambda_attention = sum a o / sum a
    lambda           = alpha lambda_attention + (1 - alpha) lambda_area
    alpha            = cos(t, p)  progressive: PAL, half of MixPro (ICLR 2023, arXiv 2304.12043)
                       1/2        attention: TransMix (CVPR 2022, arXiv 2111.09833)

and the label is lambda of the own class and 1 - lambda of the partner's: as in the authors' code (fistyee/MixPro,
Beckschen/TransMix). What differs from it: labels are constants, no gradient enters by them (in MixPro's code one does,
by alpha); the loss is the recipe's, with its smoothing (MixPro leaves it out in these steps); a CutMix box counts in a
patch that it cuts by its share of the pixels (TransMix: the whole patch or nothing); images that CutMix has mixed are
weighed like those of MaskMix (MixPro: MaskMix's alone). Mixup has no places: there lambda is its own.

Shapes: B images, C classes, N patches.
"""

from typing import Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitaos.batch import MixedTargets

KINDS: Final = ("attention", "progressive")
_HALF: Final = 0.5


class ClassRow(Protocol):
    """What the class token of a model attended to in its last forward pass."""

    def take(self) -> Tensor:
        """(B, patches), without gradient."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches of an image of so many pixels."""


class AttendedLabels(nn.Module):
    """A loss whose mixed labels attention weighs.

    Args:
        loss: of logits and class weights (B, C).
        class_row: of the model that is trained.
        kind: "attention" or "progressive".
        smoothing: of the labels that the answer is compared with ("progressive").

    Raises:
        ValueError: unknown kind.
    """

    def __init__(self, loss: nn.Module, class_row: ClassRow, *, kind: str, smoothing: float = 0.0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"mix_labels={kind!r} is unknown; choose one of {', '.join(KINDS)}")
        self.loss, self.class_row, self.kind, self.smoothing = loss, class_row, kind, smoothing
        self._overlaps: dict[tuple[int, int, torch.device], Tensor] = {}

    def forward(self, logits: Tensor, targets: MixedTargets) -> Tensor:
        loss: Tensor = self.loss(logits, self.weigh(logits, targets))
        return loss

    @torch.no_grad()
    def weigh(self, logits: Tensor, targets: MixedTargets) -> Tensor:
        """The labels, (B, C) float32; logits: (B, C)."""
        grid = self.class_row.grid(*targets.size)
        own_BN = self._by_patch(targets.cells, grid).flatten(1)
        by_area_B1 = own_BN.mean(dim=1, keepdim=True)
        row_BN = self.class_row.take().float().clamp(min=0.0)  # AttnScale's can fall below 0
        whole_B1 = row_BN.sum(dim=1, keepdim=True)
        by_attention_B1 = torch.where(whole_B1 > 0, (row_BN * own_BN).sum(dim=1, keepdim=True) / whole_B1, by_area_B1)
        alpha_B1 = self._alpha(logits, targets.labels)
        lam_B1 = torch.lerp(by_area_B1.expand_as(by_attention_B1), by_attention_B1, alpha_B1)
        labels = torch.zeros_like(targets.labels).scatter_(1, targets.own.view(-1, 1), lam_B1)
        return labels.scatter_add_(1, targets.partner.view(-1, 1), 1.0 - lam_B1)

    def _by_patch(self, cells: Tensor, grid: tuple[int, int]) -> Tensor:
        """Means by patch of what is given by the cells of another grid: (B, R, S) -> (B, rows, columns)."""
        down, across = (self._overlap(*pair, cells.device) for pair in zip(cells.shape[-2:], grid, strict=True))
        return down @ cells @ across.T

    def _overlap(self, cells: int, patches: int, device: torch.device) -> Tensor:
        known = (cells, patches, device)
        if known not in self._overlaps:
            self._overlaps[known] = overlap(cells, patches, device)
        return self._overlaps[known]

    def _alpha(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.kind == "attention":
            return torch.full_like(labels[:, :1], _HALF)
        expected = labels * (1 - self.smoothing) + self.smoothing / labels.shape[1]
        return F.cosine_similarity(expected, logits.float().softmax(dim=1), dim=1).unsqueeze(1)


def overlap(cells: int, patches: int, device: torch.device | None = None) -> Tensor:
    """(patches, cells) float32: of each patch, the share that lies in each cell, along a side that both fill evenly.

    Neither number needs to divide the other.
    """
    patch = torch.arange(patches, dtype=torch.float64, device=device).view(-1, 1) * cells  # in 1 / (patches cells)
    cell = torch.arange(cells, dtype=torch.float64, device=device) * patches
    common = torch.minimum(patch + cells, cell + patches) - torch.maximum(patch, cell)
    return (common.clamp(min=0.0) / cells).float()
