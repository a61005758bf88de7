"""Tokens between blocks in bfloat16: where they are, and where nothing changes."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitaos.assembly.narrowing import narrow_residual_stream
from vitaos.engine.residual_stream import narrow
from vitaos.models import create_model

SMALL: dict[str, Any] = {"img_size": 32, "num_classes": 5}
MODELS: dict[str, dict[str, Any]] = {
    "deit_ti12": {"depth": 2, "patch_size": 8, "attnscale": True, "featscale": True, "layerscale": True},
    "vit_tiny_patch16_224": {"depth": 2, "patch_size": 8, "init_values": 1e-5, "qk_norm": True},
    "cait_xxs24": {"depth": 2, "patch_size": 8},
    "swin_t": {"depths": (1, 1), "embed_dim": 32, "num_heads": (2, 4), "patch_size": 4, "window_size": 4},
}


@pytest.mark.parametrize("name", MODELS)
def test_tokens_between_blocks_are_bfloat16_under_autocast_alone(name: str) -> None:
    plain = create_model(name, **SMALL, **MODELS[name]).eval()
    narrowed = copy.deepcopy(plain)
    narrow_residual_stream(narrowed)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert list(narrowed.state_dict()) == list(plain.state_dict())
    assert torch.equal(narrowed(x), plain(x))
    seen: list[torch.dtype] = []
    copied = copy.deepcopy(narrowed)  # as the average is
    for module in copied.modules():
        if hasattr(module, "norm2") and hasattr(module, "mlp"):
            module.norm2.register_forward_hook(lambda _, given, made: seen.extend((given[0].dtype, made.dtype)))
    copied.train()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = copied(x), plain(x)
    inputs, outputs = seen[0:4:2], seen[1:4:2]  # of the first two blocks; CaiT's last are of the class token alone
    assert outputs == [torch.bfloat16] * 2
    assert inputs == [torch.float32 if "cait" in name else torch.bfloat16] * 2  # CaiT's gains are within its blocks
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())


def test_a_model_without_known_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"residual_stream=bf16 cannot be had: the model is a .*ResNet"):
        narrow_residual_stream(timm.create_model("resnet18"))


def test_autocasts_norm_takes_torchs_module_too() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)  # type: ignore[no-any-return]

    block = Block()
    narrow([block])
    with torch.autocast("cpu", torch.bfloat16):
        assert block(torch.randn(2, 4)).dtype == torch.bfloat16
