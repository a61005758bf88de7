"""The values of the first block, handed to the later ones within one forward pass.

What lies here belongs to that pass: it is let go of in the last block, and in every copy. Gradient checkpointing, which
runs blocks again in the backward pass, and a trace of one block alone do not find it, and are refused.
"""

from typing import Any

from torch import Tensor


class FirstValues:
    """Where V_0 lies during a forward pass; empty between passes, and in every copy.

    Attributes:
        technique: whose it is, for what is said when it is empty.
    """

    def __init__(self, technique: str) -> None:
        self.technique = technique
        self.v_BHND: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"technique": self.technique, "v_BHND": None}

    def keep(self, v_BHND: Tensor) -> None:
        """The first block's values."""
        self.v_BHND = v_BHND

    def take(self, last: bool) -> Tensor:
        """The first block's values, in a later block; the last one lets go of them.

        Raises:
            ValueError: there are none.
        """
        first_BHND = self.v_BHND
        if first_BHND is None:
            raise ValueError(
                f"{self.technique}: the first block's values are gone: gradient checkpointing cannot be used, nor "
                "single blocks."
            )
        if last:
            self.v_BHND = None
        return first_BHND
