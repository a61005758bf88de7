"""skip_gain: the residual around attention is r x + branch on every backbone; 1 is the plain model, bit for bit."""

import copy
import pickle

import pytest
import torch
from technique_models import BACKBONES, CASES, build, images
from torch import Tensor, nn

from vitaos import create_model
from vitaos.techniques import attach

GAINS = (0.0, 0.3)


def expected(model: nn.Module, kind: str, index: int, x: Tensor, gain: float) -> Tensor:
    """Output of a plain timm block computed from its submodules with the residual around attention damped."""
    blocks = [b for stage in model.layers for b in stage.blocks] if kind == "Swin" else list(model.blocks)
    block = blocks[index]
    if kind == "CaiT":
        x = gain * x + block.gamma_1 * block.attn(block.norm1(x))
        return x + block.gamma_2 * block.mlp(block.norm2(x))
    branch = block._attn if kind == "Swin" else block.attn
    x = gain * x + branch(block.norm1(x))
    return x + block.mlp(block.norm2(x))


def block_of(model: nn.Module, kind: str) -> nn.Module:
    return model.layers[0].blocks[1] if kind == "Swin" else model.blocks[1]


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("gain", GAINS)
def test_the_residual_around_attention_is_damped_and_no_other(kind: str, gain: float) -> None:
    plain = build(kind)
    damped = attach(copy.deepcopy(plain), skip_gain=gain)
    shape = (2, 6, 6, 16) if kind == "Swin" else (2, 17, 24)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(block_of(damped, kind)(x), expected(plain, kind, 1, x, gain))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_gain_of_one_is_the_model_of_before_bit_for_bit(name: str, kind: str) -> None:
    before, after = build(kind, name), build(kind)
    attach(after, skip_gain=1.0, **{name: True})
    after.load_state_dict(before.state_dict())
    assert torch.equal(before(images(before)), after(images(after)))


@pytest.mark.parametrize("kind", BACKBONES)
def test_one_without_techniques_touches_nothing(kind: str) -> None:
    model = build(kind)
    classes = [type(module) for module in model.modules()]
    attach(model, skip_gain=1)
    assert [type(module) for module in model.modules()] == classes


@pytest.mark.parametrize("kind", BACKBONES)
def test_the_gain_survives_a_copy_a_pickle_and_a_technique_attached_later(kind: str) -> None:
    model = attach(build(kind), skip_gain=0.3)
    wanted = model(images(model))
    assert torch.equal(copy.deepcopy(model)(images(model)), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images(model)), wanted)
    assert torch.equal(attach(model, attnscale=True, featscale=True)(images(model)), wanted)


def test_tokens_of_a_deep_network_grow_alike_without_their_skip() -> None:
    """What the dial is for: at 0 attention's low-pass filter has the last word."""

    def similarity(gain: float) -> float:
        torch.manual_seed(0)
        model = create_model("deit_ti12", img_size=32, patch_size=8, embed_dim=64, num_heads=4, skip_gain=gain).eval()
        with torch.no_grad():
            tokens = model.forward_features(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
        tokens = nn.functional.normalize(tokens[:, 1:].float(), dim=-1)
        return float((tokens @ tokens.transpose(1, 2)).mean())

    assert similarity(1.0) < 0.6
    assert similarity(0.0) > 0.99


@pytest.mark.parametrize("gain", [-0.1, 1.5, float("nan"), True, "0.5"])
def test_a_gain_outside_its_range_is_refused_and_nothing_is_touched(gain: object) -> None:
    model = build("ViT")
    with pytest.raises(ValueError, match=r"skip_gain=.*between 0 and 1"):
        attach(model, skip_gain=gain, attnscale=True)
    assert not hasattr(model.blocks[0], "skip_gain")
