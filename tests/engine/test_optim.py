"""Parameter groups, names of optimizers, and the error where one is not there."""

import sys
from types import SimpleNamespace

import pytest
import torch
from miniature import tiny_vit
from timm.models import create_model as timm_model
from torch import nn

import vitaos
from vitaos.engine.optim import build_optimizer, parameter_groups, scaled_lr


def names_without_decay(model: nn.Module) -> set[str]:
    undecayed = {id(p) for group in parameter_groups(model, 0.05) if not group["weight_decay"] for p in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in undecayed}


@pytest.mark.parametrize("name", ["deit_ti12", "cait_xxs24", "swin_t"])
def test_weight_decay_spares_what_the_recipes_spare(name: str) -> None:
    depth = {} if name.startswith("swin") else {"depth": 1}
    with torch.device("meta"):
        model = vitaos.create_model(name, attnscale=True, featscale=True, num_classes=10, **depth)
    spared = names_without_decay(model)
    for key, parameter in model.named_parameters():
        table = any(word in key for word in ("pos_embed", "cls_token", "relative_position_bias_table"))
        assert (key in spared) == (parameter.ndim <= 1 or table), key
    assert any("attn_scale" in key for key in spared)
    assert any("feat_scale" in key for key in spared)


def test_every_parameter_is_in_one_group() -> None:
    model = timm_model("vit_tiny_patch16_224", depth=1)
    listed = [id(parameter) for group in parameter_groups(model, 0.05) for parameter in group["params"]]
    assert sorted(listed) == sorted(id(parameter) for parameter in model.parameters())
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd", "lion", "adafactor"])
def test_optimizers_by_name_take_a_step(name: str) -> None:
    model = tiny_vit(depth=1)
    optimizer = build_optimizer(model, name=name, lr=1e-2, weight_decay=0.05)
    before = model.head.weight.detach().clone()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.head.weight)
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}


@pytest.mark.parametrize(
    ("name", "betas"),
    [("lion", (0.9, 0.99)), ("muon", (0.9, 0.95)), ("adan", (0.98, 0.92, 0.99)), ("adamw", (0.9, 0.999))],
)
def test_betas_of_none_are_the_optimizers_own(name: str, betas: tuple[float, ...]) -> None:
    optimizer = build_optimizer(tiny_vit(depth=1), name=name, lr=1e-3, weight_decay=0.05)
    assert all(tuple(group["betas"]) == betas for group in optimizer.param_groups)


@pytest.mark.parametrize(("name", "count"), [("adan", 3), ("lion", 2), ("adamw", 2)])
def test_another_number_of_betas_is_refused(name: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"optimizer={name} takes {count} numbers, or null"):
        build_optimizer(tiny_vit(depth=1), name=name, lr=1e-3, weight_decay=0.05, betas=[0.9] * (5 - count))


def test_unknown_optimizer_names_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"'adamv' is unknown; did you mean .*adam.* It is adamw, apex_adam, apex_lamb or one of"
    ):
        build_optimizer(tiny_vit(depth=1), name="adamv", lr=1e-3, weight_decay=0.0)


def test_second_order_optimizers_are_refused() -> None:
    with pytest.raises(ValueError, match="second derivatives"):
        build_optimizer(tiny_vit(depth=1), name="adahessian", lr=1e-3, weight_decay=0.0)


@pytest.mark.parametrize("name", ["apex_adam", "apex_lamb"])
def test_missing_apex_says_how_to_build_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apex", None)
    with pytest.raises(ValueError, match=r"(?s)NVIDIA apex.*git clone https://github.com/NVIDIA/apex.*pip install"):
        build_optimizer(tiny_vit(depth=1), name=name, lr=1e-3, weight_decay=0.0)


def test_apex_is_given_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: dict[str, object] = {}

    def fused(groups: object, **keywords: object) -> str:
        taken.update(keywords)
        return "fused"

    def without_kernels(groups: object, **keywords: object) -> None:
        raise RuntimeError("apex.optimizers.FusedLAMB requires cuda extensions")

    optimizers = SimpleNamespace(FusedAdam=fused, FusedLAMB=without_kernels)
    monkeypatch.setitem(sys.modules, "apex", SimpleNamespace(optimizers=optimizers))  # type: ignore[arg-type]  # a stand-in
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)  # type: ignore[arg-type]  # a stand-in
    with pytest.raises(ValueError, match="CUDA devices only"):
        build_optimizer(tiny_vit(depth=1), name="apex_adam", lr=1e-3, weight_decay=0.05)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert build_optimizer(tiny_vit(depth=1), name="apex_adam", lr=1e-3, weight_decay=0.05) == "fused"
    assert {key: taken[key] for key in ("adam_w_mode", "lr", "betas", "eps")} == {
        "adam_w_mode": True,
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
    }
    with pytest.raises(ValueError, match=r"(?s)requires cuda extensions.*APEX_CUDA_EXT=1"):
        build_optimizer(tiny_vit(depth=1), name="apex_lamb", lr=1e-3, weight_decay=0.05)


def test_linear_rule() -> None:
    assert scaled_lr(5e-4, 1024) == 1e-3
    assert scaled_lr(5e-4, 1024, reference=None) == 5e-4
