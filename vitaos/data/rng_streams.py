"""Numbers of the streams of random draws, one for each purpose, so that no two purposes share a number.

A loader uses the streams below 16; the augmentation that runs on the device owns those from 16 up.
"""

from typing import Final

ORDER: Final = 1
"""The shuffle of an epoch."""

CROP: Final = 2
"""Size, shape and place of an image's random resized crop."""

TIMM: Final = 3
"""The seed under which timm's transforms work on one image (``augment="timm"``)."""

CORRUPTION: Final = 4
"""The seed under which a corruption of ImageNet-C is made of one image."""
