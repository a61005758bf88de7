"""FreqScale: Y + IDFT(w DFT(Y)), every frequency of a branch's output re-weighed by gains that the image sets.

Source: Chen, Gu, Zheng, Fu, "Frequency-Dynamic Attention Modulation for Dense Prediction", ICCV 2025 (arXiv
2507.12006), as in the authors' code, where it goes with attention inversion (``fdam``). DFT is the two-dimensional one
over the grid of patches; channels are cut into ``groups``, and channel c of group g has the real gains

    w_gc = sum_f tanh(r_gf) W_fc,    r = W_2 star(W_1 mean(Y)),    star(z) = a relu(z)^2 + b,

with F = ``filters`` filters W of 14 x 8 frequencies, taken to those of the grid bicubically, W_1 (C/16, C) and W_2
(groups F, C/16) without bias. On the output of attention and of the MLP, before LayerScale, each with a module of its
own, ``freqscale_attention`` and ``freqscale_mlp`` of a block. FeatScale is the case of two bands and no image.

W starts at 0, the identity (the authors' code: a normal deviation of 1e-5, option ``gain``). Class and register tokens,
which have no place, are left as they are, and are not in the mean; in Swin the grid is the whole map. Where ``groups``
(16) does not divide the width, their greatest common divisor is taken. The transform is computed in float32, by
products with its small matrices along rows and columns, which needs no FFT library.

Shapes: B images, C channels, G groups, F filters, Y x X tokens of the grid, Z = X // 2 + 1 frequencies along a row,
P = 2 parts of a complex number, V = 2 Y.
"""

import math
from typing import Any, Final

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn.utils import skip_init

from vitaos.dtypes import at_least_float32, no_autocast
from vitaos.techniques.grid import NO_GRID, check_grid, grid_of_image
from vitaos.techniques.sites import Site, fill
from vitaos.techniques.technique import Technique

_PRIORITY: Final = 60  # after FeatScale, which may be within the projection
_ROWS: Final = 14
_COLUMNS: Final = 8
_REDUCTION: Final = 16


class BandGains(nn.Module):
    """The gains of one branch.

    Args:
        site: the block.
        groups: of channels.
        filters: each group mixes.
        gain: standard deviation of the filters at the start.
    """

    rows: Tensor
    columns: Tensor
    along_rows: Tensor
    along_columns: Tensor
    back: Tensor

    def __init__(self, site: Site, groups: int, filters: int, gain: float) -> None:
        super().__init__()
        like, dim = site.attention.proj.weight, site.dim
        self.groups = math.gcd(dim, groups)
        self.grid, self.prefix = grid_of_image(site), site.prefix_tokens
        self.built = self.grid.size
        hidden = max(1, dim // _REDUCTION)
        self.filters = nn.Parameter(like.new_zeros(filters, dim // self.groups, _ROWS, _COLUMNS))
        self.reduce, self.route = (
            skip_init(nn.Linear, inputs, outputs, bias=False, device=like.device, dtype=like.dtype)
            for inputs, outputs in ((dim, hidden), (hidden, self.groups * filters))
        )
        self.scale, self.shift = nn.Parameter(like.new_ones(1)), nn.Parameter(like.new_zeros(1))
        for layer in (self.reduce, self.route):
            trunc_normal_(layer.weight, std=0.02)
        if gain > 0:
            trunc_normal_(self.filters, std=gain)
        height, width = self.built
        constants = {
            "rows": _resizing(_ROWS, height),
            "columns": _resizing(_COLUMNS, width // 2 + 1),
            "along_rows": _along_rows(width),
            "along_columns": _along_columns(height),
            "back": _back(width) / height,
        }
        for name, matrix in constants.items():
            self.register_buffer(name, matrix.to(like.device), persistent=False)

    def forward(self, y_BNC: Tensor) -> Tensor:
        """What a branch gives: (B, N, C) -> the same."""
        self.grid.check("freqscale", self.built)
        with no_autocast(y_BNC.device.type):
            wide_BNC = at_least_float32(y_BNC[:, self.prefix :])
            change_BYXC = self._reweigh(wide_BNC.unflatten(1, self.built), self._gains(wide_BNC.mean(1)))
            changed_BNC = (wide_BNC + change_BYXC.flatten(1, 2)).to(y_BNC.dtype)
        return torch.cat([y_BNC[:, : self.prefix], changed_BNC], dim=1) if self.prefix else changed_BNC

    def _reweigh(self, y_BYXC: Tensor, gains_BYZC: Tensor) -> Tensor:
        """IDFT(gains DFT(y)); real and imaginary part lie one after the other."""
        along_rows, along_columns, back = (
            matrix.to(y_BYXC.dtype) for matrix in (self.along_rows, self.along_columns, self.back)
        )
        half_BYPZC = torch.einsum("wx,byxc->bywc", along_rows, y_BYXC).unflatten(2, (2, -1))
        half_BVZC = half_BYPZC.transpose(1, 2).flatten(1, 2)
        spectrum_BPYZC = torch.einsum("uv,bvzc->buzc", along_columns, half_BVZC).unflatten(1, (2, -1))
        spectrum_BVZC = (spectrum_BPYZC * gains_BYZC.unsqueeze(1)).flatten(1, 2)
        half_BPYZC = torch.einsum("uv,buzc->bvzc", along_columns, spectrum_BVZC).unflatten(1, (2, -1))
        return torch.einsum("xw,bywc->byxc", back, half_BPYZC.transpose(1, 2).flatten(2, 3))

    def _gains(self, mean_BC: Tensor) -> Tensor:
        """(B, Y, Z, C)."""
        reduced = F.relu(F.linear(mean_BC, at_least_float32(self.reduce.weight))).square()
        reduced = at_least_float32(self.scale) * reduced + at_least_float32(self.shift)
        route_BGF = F.linear(reduced, at_least_float32(self.route.weight)).tanh().unflatten(1, (self.groups, -1))
        filters_FCRK = at_least_float32(self.filters)
        rows, columns = self.rows.to(filters_FCRK.dtype), self.columns.to(filters_FCRK.dtype)
        filters_FCYZ = torch.einsum("yr,fcrk,zk->fcyz", rows, filters_FCRK, columns)
        return torch.einsum("bgf,fcyz->byzgc", route_BGF, filters_FCYZ).flatten(3)


def _resizing(old: int, new: int) -> Tensor:
    """(new, old): bicubic interpolation along an axis whose ends stay, as a matrix: its gradient is deterministic."""
    unit = torch.eye(old, dtype=torch.float64).view(old, 1, old, 1)
    resized = F.interpolate(unit, size=(new, 1), mode="bicubic", align_corners=True)
    return resized.view(old, new).T.contiguous()


def _angles(frequencies: int, length: int) -> Tensor:
    """(frequencies, length): 2 pi k n / length."""
    turns = torch.outer(torch.arange(frequencies), torch.arange(length)) % length
    return turns.double() * (2 * math.pi / length)


def _along_rows(width: int) -> Tensor:
    """(2 Z, X): the transform of a real row, its real part over its imaginary part."""
    angles = _angles(width // 2 + 1, width)
    return torch.cat([angles.cos(), -angles.sin()])


def _along_columns(height: int) -> Tensor:
    """(2 Y, 2 Y): the transform of a complex column; transposed, the inverse times Y."""
    cos, sin = _angles(height, height).cos(), _angles(height, height).sin()
    return torch.cat([torch.cat([cos, sin], dim=1), torch.cat([-sin, cos], dim=1)])


def _back(width: int) -> Tensor:
    """(X, 2 Z): the inverse of a half spectrum; what is left out counts by its conjugate."""
    counts = torch.full((width // 2 + 1, 1), 2.0, dtype=torch.float64)
    counts[0] = 1
    if width % 2 == 0:
        counts[-1] = 1
    return (_along_rows(width) * counts.repeat(2, 1)).T.contiguous() / width


def scale_attention(block: Any, y_BNC: Tensor) -> Tensor:
    """What attention gives, its frequencies re-weighed."""
    scaled: Tensor = block.freqscale_attention(y_BNC)
    return scaled


def scale_mlp(block: Any, y_BNC: Tensor) -> Tensor:
    """What the MLP gives, its frequencies re-weighed."""
    scaled: Tensor = block.freqscale_mlp(y_BNC)
    return scaled


def _check(sites: list[Site], groups: int, filters: int, gain: float) -> None:
    check_grid("freqscale", sites)
    if groups < 1 or filters < 1 or gain < 0:
        raise ValueError(f"freqscale: groups={groups} and filters={filters} are 1 at least, gain={gain} 0 or more.")


def _fill(sites: list[Site], groups: int, filters: int, gain: float) -> None:
    for site in sites:
        site.block.freqscale_attention = BandGains(site, groups, filters, gain)
        site.block.freqscale_mlp = BandGains(site, groups, filters, gain)
        fill(site.block, "post_attention", _PRIORITY, scale_attention)
        fill(site.block, "post_mlp", _PRIORITY, scale_mlp)


_PARTS: Final = ("filters", "reduce.weight", "route.weight", "scale", "shift")

FREQSCALE: Final = Technique(
    name="freqscale",
    summary="re-weighs the spatial frequencies of both branches by gains that the image sets",
    fill=_fill,
    check=_check,
    identity={"freqscale_attention.filters": 0, "freqscale_mlp.filters": 0},
    parameters=tuple(f"freqscale_{branch}.{part}" for branch in ("attention", "mlp") for part in _PARTS),
    options={"groups": 16, "filters": 4, "gain": 0.0},
    conflicts={"token_merging": NO_GRID, "token_selection": NO_GRID},
)
