"""timm's own training transforms, for comparison."""

from typing import Any

from timm.data import create_transform

from vitaos.data.folder.timm_transform import posterize_to_black


def timm_stages(size: int, **settings: Any) -> tuple[Any, ...]:
    """timm's training transform of the DeiT recipe as (crop and flip, color, tensor and erasing).

    Pillow from 13 on refuses to keep 0 bits, which timm's PosterizeIncreasing asks for at magnitude 10; earlier ones
    made the image black. Black it is here as well.
    """
    recipe = {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic", "re_prob": 0.25, "re_mode": "pixel"}
    stages = create_transform(size, is_training=True, separate=True, **{**recipe, **settings})
    posterize_to_black(stages[1])
    return stages
