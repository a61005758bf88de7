"""sigmaReparam beyond the walk: its vectors as state, gradients of the weights, weights from elsewhere, no norms."""

from typing import Any

import pytest
import torch
from technique_models import BACKBONES, build, images
from torch import nn

import vitaos
from vitaos.techniques import attach
from vitaos.techniques.sigma_reparam import with_plain_layers


def largest(layer: Any) -> torch.Tensor:
    return torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)


def test_weights_get_the_gradient_of_the_equation() -> None:
    layer = build("ViT", "sigma_reparam").blocks[0].attn.qkv.double()
    layer.settle()  # the vector in float64
    cotangent = torch.randn(72, 24, generator=torch.Generator().manual_seed(0)).double()
    found, expected = (
        torch.autograd.grad((weight * cotangent).sum(), layer.weight)[0]
        for weight in (layer.effective_weight(), layer.weight / largest(layer) * layer.sigma_gain)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_step_of_power_iteration_a_pass_in_training_and_none_in_evaluation() -> None:
    model = build("ViT", "sigma_reparam")
    layer = model.blocks[1].mlp.fc1
    with torch.no_grad():
        layer.weight.add_(0.3 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)))
    before, x = layer.sigma_vector.clone(), images(model)
    model(x)
    assert torch.equal(layer.sigma_vector, before)
    model.train()
    for _ in range(200):
        layer(x.new_zeros(1, 24))
    assert not torch.equal(layer.sigma_vector, before)
    torch.testing.assert_close(largest(layer) * layer.effective_weight() / layer.sigma_gain, layer.weight)


@pytest.mark.parametrize("kind", BACKBONES)
def test_plain_weights_start_as_themselves_and_go_back_to_plain_layers(kind: str) -> None:
    plain, model = build(kind, seed=1), build(kind, "sigma_reparam", seed=0)
    x = images(plain)
    report = vitaos.load_weights(model, plain.state_dict())
    assert not report.missing_backbone
    assert torch.equal(model(x), plain(x))
    names = {path.rpartition(".")[0] for path, _ in model.named_parameters() if path.endswith("sigma_gain")}
    linear = {path for path, layer in plain.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    assert names == {path for path in linear if not path.startswith("head") and not path.endswith(("proj_l", "proj_w"))}
    with torch.no_grad():
        for name in names:
            model.get_submodule(name).sigma_gain.mul_(1.1)
    expected = model(x)
    assert with_plain_layers(model).state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(model(x), expected)


def test_norms_may_be_left_out() -> None:
    model = attach(build("ViT"), sigma_reparam={"keep_norms": False}).train()
    assert not any(isinstance(module, nn.LayerNorm) for module in model.modules())
    model(images(model)).square().sum().backward()
    assert model.blocks[0].attn.qkv.sigma_gain.grad.isfinite().all()


def test_techniques_layers_stay_plain_and_a_weight_of_0_is_refused() -> None:
    for names in (("gated_attention", "sigma_reparam"), ("sigma_reparam", "gated_attention")):
        assert type(build("ViT", *names).blocks[0].attn.output_gate) is nn.Linear
    model = build("ViT")
    nn.init.zeros_(model.blocks[2].mlp.fc2.weight)
    with pytest.raises(ValueError, match=r"the weight of blocks\.2\.mlp\.fc2 is 0"):
        attach(model, sigma_reparam=True)
