"""Where tokens can become fewer."""

from typing import Any, Final

from timm.models._features import FeatureGetterNet

from vitaos.techniques.sites import Site
from vitaos.techniques.sized_pooling import SizedPooling

REFUSES: Final = {
    "CaiT": "its talking heads add a bias to every entry of the maps, and its class attention has no slots: neither "
    "would count a token as the tokens that it stands for",
    "Swin": "its windows and position biases need the whole grid of tokens",
}
_POOLS: Final = ("", "token", "avg", "avgmax", "max")


def check_reducible(technique: str, sites: list[Site]) -> None:
    """Refuse a ViT whose tokens have to keep their places.

    Raises:
        ValueError: features are wanted as maps, or attention pools the tokens at the end.
    """
    model: Any = sites[0].model
    if isinstance(model, FeatureGetterNet):
        raise ValueError(f"{technique}: features_only=True gives maps of all tokens, of which some would be gone.")
    weighs = (
        model.attn_pool is None
        or isinstance(model.attn_pool, SizedPooling)
        or hasattr(model.attn_pool, "weigh_by_size")
    )
    if not weighs or model.global_pool not in _POOLS:
        raise ValueError(
            f"{technique}: this model pools by attention (global_pool={model.global_pool!r}), which would not weigh "
            "tokens by what they stand for; use token, avg, avgmax or max."
        )
