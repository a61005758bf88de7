"""What a study's techniques and metrics are called in tables, axes and file names."""

import re
from typing import Final

__all__ = [
    "axis_label",
    "blocks_text",
    "decimals",
    "file_stem",
    "interval_text",
    "mean_text",
    "metric_column",
    "metric_title",
    "technique_title",
]

_TITLES: Final = {
    "attnscale": "AttnScale",
    "featscale": "FeatScale",
    "layerscale": "LayerScale",
    "contranorm": "ContraNorm",
    "neutreno": "NeuTRENO",
    "gfsa": "GFSA",
    "centered_attention": "centered attention",
    "re_attention": "re-attention",
    "shaped_attention": "shaped attention",
    "value_residual": "value residual",
    "laplacian_heads": "Laplacian heads",
    "gated_attention": "gated attention",
    "fdam": "FDAM (attention inversion)",
    "ggem": "GGeM pooling",
    "locality": "locality",
    "diversity_loss": "diversity loss",
    "contrast_loss": "contrast loss",
    "attention_diversity_loss": "attention diversity loss",
    "token_merging": "token merging",
    "token_selection": "token selection",
    "sigma_reparam": "sigmaReparam",
    "tap": "TAP",
    "freqscale": "FreqScale",
    "register_tokens": "register tokens",
}
_METRICS: Final = {
    "val_top1": "top-1",
    "ema_top1": "top-1 of the EMA",
    "val_top5": "top-5",
    "ema_top5": "top-5 of the EMA",
    "val_loss": "held-out loss",
    "ema_loss": "held-out loss of the EMA",
    "train_loss": "training loss",
    "token_similarity": "token similarity",
    "hf_dc_ratio": "high-frequency to direct-current ratio",
    "attn_scale": "mean w of AttnScale",
    "feat_scale_dc": "mean s of FeatScale",
    "feat_scale_hf": "mean t of FeatScale",
}


def technique_title(technique: str) -> str:
    """A technique's name as its authors write it; combinations part by part, options kept."""
    parts = []
    for part in technique.split(" + "):
        name, bracket, options = part.partition("(")
        parts.append(_TITLES.get(name, name) + (f" ({options}" if bracket else ""))
    return " + ".join(parts)


def metric_title(metric: str) -> str:
    """A metric as the field writes it."""
    return _METRICS.get(metric, metric)


def axis_label(metric: str) -> str:
    """A metric as the field writes it, with its unit where it has one."""
    return f"{metric_title(metric)} (%)" if _is_percentage(metric) else metric_title(metric)


def metric_column(metric: str) -> str:
    """Of a file or a column: "accuracy" for top-1, however it was averaged."""
    return "accuracy" if metric in ("val_top1", "ema_top1") else metric


def decimals(metric: str) -> int:
    """How many decimals of a metric are worth showing."""
    return 2 if _is_percentage(metric) else 4


def is_lower_better(metric: str) -> bool:
    """Whether a smaller value of a metric is what is wanted: losses, and how alike tokens are."""
    return metric.endswith("loss") or metric == "token_similarity"


def mean_text(mean: float, std: float | None, digits: int) -> str:
    """A mean with the standard deviation over its runs, where there are several."""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def interval_text(interval: tuple[float, float], digits: int, brackets: str = "[]") -> str:
    """An interval of a difference, its ends with their signs."""
    return f"{brackets[0]}{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}{brackets[1]}"


def blocks_text(depth: int | None) -> str:
    """What follows a model's name where its depth is known."""
    return "" if depth is None else f", {depth} blocks"


def file_stem(*names: str, depth: int | None = None) -> str:
    """Part of a file's name; what a run folder names its model and data never leads out of the report's folder."""
    return re.sub(r"[^\w.+-]", "-", "_".join([*names, *([] if depth is None else [str(depth)])]))


def _is_percentage(metric: str) -> bool:
    return metric.endswith(("_top1", "_top5"))
