"""Whether a model has a class token whose attention tells what its answer rests on, and how to look at it.

For labels of mixed images that attention weighs (:mod:`vitaos.engine.mixed_labels`). The model keeps its parameters,
their names and its output, bit for bit.
"""

from typing import Any

from timm.models.cait import Cait, ClassAttn
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitaos.techniques.class_row import WatchedClassAttention
from vitaos.techniques.record import PassRecord, record_in, share_record
from vitaos.techniques.sites import find_sites, kind_of, open_slots


class ClassRow:
    """The class token's attention to the patches in the last block of a model, as of its last forward pass.

    Args:
        model: the backbone.
        record: of its passes.
    """

    def __init__(self, model: Any, record: PassRecord) -> None:
        self._model, self._record = model, record

    def take(self) -> Tensor:
        """(B, patches), float32, without gradient; once a pass.

        Raises:
            ValueError: there was no forward pass within a training pass (``techniques.training_pass``).
        """
        row_BM = self._record.class_row_BM
        if row_BM is None:
            raise ValueError("there is no class row: it is left by a forward pass within techniques.training_pass")
        self._record.class_row_BM = None
        prefix = 1 if isinstance(self._model, Cait) else int(self._model.num_prefix_tokens)
        return row_BM[:, prefix:]

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patches of an image of so many pixels."""
        embed = self._model.patch_embed
        if getattr(self._model, "dynamic_img_size", False):
            rows, columns = embed.dynamic_feat_size((height, width))
        else:
            rows, columns = embed.grid_size
        return int(rows), int(columns)


def watch_class_row(model: nn.Module) -> ClassRow:
    """Let a model's last block leave the class token's row in every training pass, in place.

    Raises:
        ValueError: it has no class token by which it answers, or no row of patches that keep their places; says why.
    """
    reason = _why_not(model)
    if reason:
        raise ValueError(f"{type(model).__name__} {reason}")
    sites = find_sites(model)
    open_slots(sites)
    record = share_record(sites)
    if isinstance(model, Cait):
        attention: Any = model.blocks_token_only[-1].attn
        attention.__class__, attention.record = WatchedClassAttention, record
    else:
        sites[-1].attention.shows_class_row = True
    record.watches_class_row = True
    return ClassRow(model, record)


def _why_not(model: Any) -> str:
    """Why there is no class row to be read; empty where there is one."""
    try:
        kind = kind_of(model).name
    except ValueError:
        return "has no attention whose rows could be read; take a ViT with a class token, or CaiT"
    if kind == "Swin":
        return "has no class token: it averages the patches of its last stage; take a ViT with a class token, or CaiT"
    if isinstance(model, Cait):
        return _why_not_cait(model)
    if not isinstance(model, VisionTransformer) or kind != "ViT":
        return f"is of a kind ({kind}) whose class row is not read here; take a ViT with a class token, or CaiT"
    return _why_not_vit(model)


def _why_not_cait(model: Any) -> str:
    if model.global_pool != "token" or not model.blocks_token_only:
        return f"does not answer by its class token (global_pool={model.global_pool or 'none'})"
    last = type(model.blocks_token_only[-1].attn)
    return "" if last in (ClassAttn, WatchedClassAttention) else f"has a {last.__name__} as its last class attention"


def _why_not_vit(model: Any) -> str:
    if not model.has_class_token:
        return "has no class token (class_token=false)"
    if model.global_pool != "token" or model.attn_pool is not None:
        pooling = "ggem" if model.global_pool == "token" else f"global_pool={model.global_pool or 'none'}"
        return f"does not answer by its class token ({pooling}), whose attention in the last block is not trained"
    if not isinstance(model.patch_drop, nn.Identity):
        return "drops patches in training (patch_drop_rate): those that stay have lost their places"
    record = record_in(model)
    if record is not None and record.reduced_by:
        return f"makes its tokens fewer ({record.reduced_by}): those that stay have lost their places"
    return ""
