"""Small backbones of every kind, and every technique that is defined on them, for the walking tests."""

from collections.abc import Callable
from typing import Any

import torch
from timm.models.cait import Cait
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitaos.techniques import TECHNIQUES, attach

CLASSES = 5
_TOKENS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 3, "num_classes": CLASSES}


def vit(**keywords: object) -> nn.Module:
    return VisionTransformer(**{**_TOKENS, "num_heads": 3, **keywords})


def cait(**keywords: object) -> nn.Module:
    return Cait(**{**_TOKENS, "num_heads": 4, "init_values": 0.1, **keywords})


def swin(**keywords: object) -> nn.Module:
    """A 6x6 map in windows of 3, shifted and masked in every second block, then one 3x3 window."""
    shape = {"img_size": 24, "embed_dim": 16, "depths": (2, 1), "num_heads": (2, 4), "window_size": 3}
    return SwinTransformer(**{**shape, "num_classes": CLASSES, "drop_path_rate": 0.0, **keywords})


def distilled(**keywords: object) -> nn.Module:
    return VisionTransformerDistilled(**{**_TOKENS, "num_heads": 3, **keywords})


BACKBONES: dict[str, Callable[..., nn.Module]] = {"ViT": vit, "CaiT": cait, "Swin": swin}
CASES = [(name, kind) for name, technique in TECHNIQUES.items() for kind in BACKBONES if kind not in technique.refuses]


def images(model: nn.Module, batch: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random images of the model's size, the same every time."""
    height, width = model.patch_embed.img_size
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1)).to(dtype)


def build(kind: str, *names: str, seed: int = 0, **keywords: object) -> nn.Module:
    """A backbone with techniques attached, in eval mode; equal weights for equal seeds."""
    torch.manual_seed(seed)
    model = BACKBONES[kind](**keywords).eval()
    with torch.no_grad():  # spread the logits: timm's start of 0.02 would hide differences
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return attach(model, **dict.fromkeys(names, True))


def technique_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Parameters that a technique added."""
    ends = TECHNIQUES[name].parameters
    return {path: value for path, value in model.named_parameters() if path.endswith(ends)} if ends else {}


def stir(model: nn.Module, *names: str) -> nn.Module:
    """Move the techniques' parameters (and batch norm statistics) away from where they start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name in names:
            for parameter in technique_parameters(model, name).values():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for path, buffer in model.named_buffers():
            if path.endswith("running_var"):
                buffer.mul_(0.1)
            elif path.endswith("running_mean"):
                buffer.add_(0.05)
    return model


def token_counts(model: Any, x: Tensor) -> list[int]:
    """How many tokens leave each block."""
    counts: list[int] = []
    hooks = [block.register_forward_hook(lambda *args: counts.append(args[2].shape[1])) for block in model.blocks]
    model(x)
    for hook in hooks:
        hook.remove()
    return counts
