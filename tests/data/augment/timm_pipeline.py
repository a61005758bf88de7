"""timm's own training transforms, for comparison."""

from typing import Any

from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, RandAugment


def timm_stages(size: int, **settings: Any) -> tuple[Any, ...]:
    """timm's training transform of the DeiT recipe as (crop and flip, color, tensor and erasing).

    Pillow from 13 on refuses to keep 0 bits, which timm's PosterizeIncreasing asks for at magnitude 10; earlier ones
    made the image black. Black it is here as well.
    """
    recipe = {"auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic", "re_prob": 0.25, "re_mode": "pixel"}
    stages = create_transform(size, is_training=True, separate=True, **{**recipe, **settings})
    for transform in stages[1].transforms:
        if isinstance(transform, RandAugment):
            for operation in transform.ops:
                if operation.name.startswith("Posterize"):
                    _allow_no_bits(operation)
    return stages


def _allow_no_bits(operation: AugmentOp) -> None:
    posterize = operation.aug_fn

    def safe(image: Image.Image, bits: int, **keywords: Any) -> Image.Image:
        return posterize(image, bits, **keywords) if bits else Image.new(image.mode, image.size)

    operation.aug_fn = safe
