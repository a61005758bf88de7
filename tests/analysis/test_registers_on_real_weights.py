"""Test-time registers on a ViT that others have trained, on photographs: opt-in, since neither is in the repository.

With VITAOS_VIT=TIMM_NAME=FILE and VITAOS_PHOTOGRAPHS=FOLDER: ``python -m pytest -s -m long`` and this file. Where none
of its patch tokens is long, a channel of an MLP two thirds up is made to fire on 1% of the patches and to make these
long, as register neurons do in larger models.
"""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from vitaos.analysis.robustness import registers
from vitaos.analysis.robustness.samples import Respondent, Samples
from vitaos.weights.load import load_weights

_IMAGES, _SIDE, _CHANNEL, _FIRES_ON = 12, 224, 11, 0.01

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not ("VITAOS_VIT" in os.environ and "VITAOS_PHOTOGRAPHS" in os.environ),
        reason="set VITAOS_VIT=NAME=FILE and VITAOS_PHOTOGRAPHS=FOLDER",
    ),
]


def real_vit() -> Any:
    name, _, file = os.environ["VITAOS_VIT"].partition("=")
    model = timm.create_model(name, img_size=_SIDE, num_classes=0)
    load_weights(model, file)
    return model.eval()


def photographs() -> Samples:
    files = sorted(path for path in Path(os.environ["VITAOS_PHOTOGRAPHS"]).rglob("*") if path.suffix.lower() == ".jpeg")
    chosen = files[:: max(1, len(files) // _IMAGES)][:_IMAGES]
    squares = [ImageOps.fit(Image.open(file).convert("RGB"), (_SIDE, _SIDE)) for file in chosen]
    count = len(chosen)
    return Samples(
        torch.stack([pil_to_tensor(square) for square in squares]), torch.zeros(count).long(), torch.arange(count)
    )


def respondent(model: Any) -> Respondent:
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(-1, 1, 1) for name in ("mean", "std"))
    return Respondent(model, lambda x: (x / 255 - mean) / std, nullcontext, torch.device("cpu"), _IMAGES)


def make_some_tokens_long(model: Any, x: Tensor) -> str:
    """Let a channel fire where the patches are most unlike the rest along one direction; returns its name."""
    index = 2 * len(model.blocks) // 3 - 1
    block, entering = model.blocks[index], []
    hook = block.mlp.register_forward_pre_hook(lambda _, args: entering.append(args[0][:, model.num_prefix_tokens :]))
    model(x)
    hook.remove()
    tokens_NC = entering[0].flatten(0, 1)
    mean_C = tokens_NC.mean(0)
    direction_C = torch.linalg.svd(tokens_NC - mean_C, full_matrices=False).Vh[3]
    along_N = (tokens_NC - mean_C) @ direction_C
    threshold = along_N.quantile(1 - _FIRES_ON)
    steepness = 10 / (along_N.max() - threshold)
    gain = block.ls2.gamma if hasattr(block.ls2, "gamma") else torch.ones_like(mean_C)
    length = torch.linalg.vector_norm(mean_C)
    block.mlp.fc1.weight[_CHANNEL] = steepness * direction_C
    block.mlp.fc1.bias[_CHANNEL] = -steepness * (threshold + mean_C @ direction_C)
    sign_C = torch.randn(len(mean_C), generator=torch.Generator().manual_seed(0)).sign()
    block.mlp.fc2.weight[:, _CHANNEL] = sign_C * length / gain.clamp(min=1e-2) / 10
    return f"blocks.{index}.mlp:{_CHANNEL}"


@torch.no_grad()
def test_the_register_takes_over_the_long_tokens() -> None:
    model, data = real_vit(), photographs()
    asked = respondent(model)
    planted = None
    table = registers.measure_registers(asked, data)
    print(f"\nas it is: longest patch {table.rows[0]['longest_patch']:.2f} x the median, {table.facts}")
    if not table.facts["long_tokens"]:
        planted = make_some_tokens_long(model, asked.normalize(data.images))
        table = registers.measure_registers(asked, data)
    for row in table.rows:
        print({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()})
    print({name: value for name, value in table.facts.items() if name != "register_neurons"})
    assert planted in {None, table.facts["register_neurons"][0]}
    plain, best = table.rows[0], min(table.rows[1:], key=lambda row: row["longest_patch"])
    assert plain["longest_patch"] > registers.LONG > best["longest_patch"]
    assert best["register"] > registers.LONG
