"""All measures of one model on a stream of image batches, gathered in one pass.

Memory grows with the size of a batch and with the model, not with the number of images: every measure of an image is
reduced to a few numbers before the next block runs, except the head-averaged maps of one batch, which wait for their
cosines.

Shape suffixes: B images, N tokens, C channels, H heads, M queries, G windows of an image, L layers, D entries of a map.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos.analysis.capture import Grid, Layout, find_layout, watch
from vitaos.analysis.measured import LEARNED, Analysis, Array, AttentionMeasures, FeatureMeasures, Moments, Provenance
from vitaos.analysis.norms import largest_token_norm, token_norm
from vitaos.analysis.similarity import effective_rank, map_similarity, token_similarity
from vitaos.analysis.spectrum import (
    class_attention_spectrum,
    feature_amplitude,
    high_frequency_ratio,
    scaled_spectral_response,
    spectral_response,
)
from vitaos.analysis.streaming import RunningMoments

_PER_IMAGE: dict[str, Callable[[Tensor], Tensor]] = {
    "hf_dc_ratio": high_frequency_ratio,
    "token_similarity": token_similarity,
    "effective_rank": effective_rank,
    "token_norm": token_norm,
    "largest_token_norm": largest_token_norm,
}


def measure(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    label: str,
    images: int | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
    provenance: Provenance | None = None,
) -> Analysis:
    """Run a model over normalized images and measure every block and every attention module.

    Args:
        model: any timm ViT, CaiT or Swin, with or without techniques; left in its mode and without hooks.
        batches: (B, 3, height, width) float images.
        label: name in legends and tables.
        images: stop after so many (all by default).
        device: where to run; the model must be there already.
        progress: called after each batch with the number of images seen.
        provenance: which weights and dataset these are, for figures and summary.

    Raises:
        ValueError: if the model has no attention that can be read, its tokens are not finite, or there are no images.
    """
    gathered = _Gathered(model)
    seen = 0

    def on_features(index: int, tokens_BNC: Tensor, grid: Grid) -> None:
        if not bool(torch.isfinite(tokens_BNC).all()):
            where = f"behind block {index}" if index else "before the first block"
            raise ValueError(f"{label}: the tokens {where} hold NaN or infinity, of which nothing can be measured")
        with torch.autocast(tokens_BNC.device.type, enabled=False):  # the model may run in it, its measures do not
            gathered.add_features(index, tokens_BNC, grid)

    def on_attention(index: int, map_BHMN: Tensor) -> None:
        with torch.autocast(map_BHMN.device.type, enabled=False):
            gathered.add_attention(index, map_BHMN)

    with watch(model, on_features, on_attention) as run:
        for batch in batches:
            part = batch if images is None else batch[: images - seen]
            if part.shape[0]:
                gathered.images_in_batch = part.shape[0]
                run(part.to(device))
                gathered.end_batch()
                seen += part.shape[0]
                if progress is not None:
                    progress(seen)
            if images is not None and seen >= images:
                break
    if seen == 0:
        raise ValueError(f"no images to measure {label} on: the validation set is empty")
    return gathered.result(label, seen, provenance or Provenance())


def learned_scales(model: nn.Module) -> dict[str, dict[str, Array]]:
    """The learned w, s, t: parameter -> module path -> (H,) or (C,) values; what no module has is left out."""
    found: dict[str, dict[str, Array]] = {}
    for path, parameter in unwrap_model(model).named_parameters():
        module, _, name = path.rpartition(".")
        if name in LEARNED:
            found.setdefault(name, {})[module] = parameter.detach().double().cpu().numpy()
    return found


@dataclass
class _Gathered:
    """Running means of everything, filled by the callbacks of :func:`watch`."""

    model: nn.Module
    layout: Layout = field(init=False)
    images_in_batch: int = 0

    def __post_init__(self) -> None:
        self.layout = find_layout(self.model)
        self.values: dict[tuple[int, str], RunningMoments] = {}
        self.amplitude: dict[int, RunningMoments] = {}
        self.grids: dict[int, Grid] = {}
        self.response: dict[int, RunningMoments] = {}
        self.applied: dict[int, RunningMoments] = {}
        self.similarity: dict[tuple[int, ...], RunningMoments] = {}
        self._maps: dict[int, Tensor] = {}

    def add_features(self, index: int, tokens_BNC: Tensor, grid: Grid) -> None:
        for name, function in _PER_IMAGE.items():
            self.values.setdefault((index, name), RunningMoments()).update(function(tokens_BNC))
        self.amplitude.setdefault(index, RunningMoments()).update(feature_amplitude(tokens_BNC, grid))
        self.grids[index] = grid

    def add_attention(self, index: int, map_BHMN: Tensor) -> None:
        layer = self.layout.attention[index]
        maps_BGHMN = map_BHMN.reshape(self.images_in_batch, -1, *map_BHMN.shape[1:])
        self._maps[index] = maps_BGHMN.float().mean(dim=2).flatten(1)
        if layer.kind == "class":
            response = class_attention_spectrum(maps_BGHMN)
        else:
            response = spectral_response(maps_BGHMN)
            scale = getattr(unwrap_model(self.model).get_submodule(layer.name), "attn_scale", None)
            if isinstance(scale, Tensor):
                scale_H = scale.detach().repeat_interleave(maps_BGHMN.shape[2] // len(scale))  # diff: two maps a head
                applied = scaled_spectral_response(maps_BGHMN, scale_H)
                self.applied.setdefault(index, RunningMoments()).update(applied.mean(dim=1))
        self.response.setdefault(index, RunningMoments()).update(response.mean(dim=1))

    def end_batch(self) -> None:
        """Cosines between the maps of the batch that was just run."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, maps_BD in self._maps.items():
            layer = self.layout.attention[index]
            groups.setdefault((layer.kind, layer.stage, layer.shift, maps_BD.shape), []).append(index)
        for members in groups.values():
            maps_LBD = torch.stack([self._maps[index] for index in members])
            self.similarity.setdefault(tuple(members), RunningMoments()).update(map_similarity(maps_LBD))
        self._maps.clear()

    def result(self, label: str, images: int, provenance: Provenance) -> Analysis:
        count = len(self.layout.attention)
        similarity = np.full((count, count), np.nan)
        for members, moments in self.similarity.items():
            similarity[np.ix_(members, members)] = moments.mean.numpy()
        return Analysis(
            label=label,
            images=images,
            features=[self._features(index) for index in range(len(self.layout.blocks) + 1)],
            attention=[self._attention(index) for index in range(count)],
            map_similarity=similarity,
            learned=learned_scales(self.model),
            provenance=provenance,
        )

    def _features(self, index: int) -> FeatureMeasures:
        block = self.layout.blocks[max(index - 1, 0)]
        values = {}
        for name in _PER_IMAGE:
            moments = self.values[index, name]
            values[name] = Moments(float(moments.mean), float(moments.std))
        return FeatureMeasures(
            name=block.name if index else "input",
            number=index,
            stage=block.stage,
            grid=self.grids[index],
            values=values,
            amplitude=self.amplitude[index].mean.numpy(),
        )

    def _attention(self, index: int) -> AttentionMeasures:
        response = self.response[index].mean.numpy()
        applied = self.applied.get(index)
        return AttentionMeasures(
            layer=self.layout.attention[index],
            tokens=response.shape[-1],
            response=response,
            applied=None if applied is None else applied.mean.numpy(),
        )
