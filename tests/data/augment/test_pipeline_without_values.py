"""Nothing on the device depends on a value that the host would have to fetch, as far as that shows without a GPU.

On fake tensors, which have shapes but no values, every operation whose result's shape depends on values (a boolean
mask, ``nonzero``, ``item``) raises. The transform must run on them.
"""

from typing import Any

import numpy as np
import pytest
import torch
from flat_settings import device_augment
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from vitaos.batch import Batch
from vitaos.data.augment import pipeline as augment

SETTINGS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "jitter": {"randaugment": None, "color_jitter": 0.4, "erasing_mode": "rand"},
    "three_augment": {"randaugment": None, "three_augment": True, "channels_last": True, "dtype": torch.bfloat16},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_transform_runs_without_values(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    transform = device_augment(img_size=32, num_classes=10, seed=0, erasing=0.5, **settings)
    monkeypatch.setattr(augment, "host_positions", lambda _: np.arange(64))
    with FakeTensorMode(allow_non_fake_inputs=True):
        images, targets = torch.empty(64, 3, 32, 32, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64)
        for step in range(4):
            out, mixed = transform(Batch(images, targets, targets), epoch=0, step=step)
            assert out.shape == images.shape
            assert mixed.shape == (64, 10)
        with pytest.raises(DynamicOutputShapeException):
            images[images > 3]  # what this test would catch
