"""Numbers of the random streams of the augmentation (16 to 63; the loaders use those below).

Each purpose has its own stream, so that adding or removing one draw never changes another. They address
:func:`vitaos.counter_rng.uniforms` and its relatives.
"""

from typing import Final

FLIP: Final = 16
OPERATION: Final = 17
APPLY: Final = 18
MAGNITUDE: Final = 19
SIGN: Final = 20
JITTER_ORDER: Final = 24
JITTER_FACTOR: Final = 25
THREE_AUGMENT_CHOICE: Final = 28
THREE_AUGMENT_RADIUS: Final = 29
ERASE_CHOICE: Final = 32
ERASE_COUNT: Final = 33
ERASE_SHAPE: Final = 34
ERASE_PLACE: Final = 35
ERASE_NOISE: Final = 36
MIX: Final = 48
MIX_CHOICE: Final = 49
MIX_BOOST: Final = 50
MIX_NORMAL: Final = 51
MIX_ACCEPT: Final = 52
MASK_MIX: Final = 53
