"""Techniques that act through the loss alone: their terms against loops over tokens; nothing else is touched."""

from typing import Any

import pytest
import torch
from technique_models import build, images, vit
from torch import Tensor

from vitaos.analysis.similarity import token_similarity
from vitaos.techniques import attach, training_pass


def term_and_gradients(model: Any, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.train()
    with training_pass(model)() as terms:
        model(x)
        (name,) = terms
        terms[name].backward()
    return terms[name].detach(), {
        path: value.grad for path, value in model.named_parameters() if value.grad is not None
    }


def outputs_of_blocks(model: Any, x: Tensor) -> list[Tensor]:
    """Patch tokens behind every block of a plain ViT or CaiT, with gradients."""
    found: list[Tensor] = []
    prefix = getattr(model, "num_prefix_tokens", 0) if type(model).__name__ == "VisionTransformer" else 0
    handles = [
        block.register_forward_hook(lambda _, __, output: found.append(output.flatten(1, -2)[:, prefix:]))
        for stage in getattr(model, "layers", [model])
        for block in stage.blocks
    ]
    model.train()(x)
    for handle in handles:
        handle.remove()
    return found


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def expected_diversity(model: Any, x: Tensor) -> Tensor:
    tokens = outputs_of_blocks(model, x)[-1]
    pairs = [
        cosine(image[i], image[j]) for image in tokens for i in range(len(image)) for j in range(len(image)) if i != j
    ]
    return 0.5 * torch.stack(pairs).mean()


def expected_contrast(model: Any, x: Tensor) -> Tensor:
    blocks = outputs_of_blocks(model, x)
    terms = []
    for first, last in zip(blocks[0].detach(), blocks[-1], strict=True):
        for i in range(len(first)):
            like = torch.stack([cosine(first[i], other) for other in last])
            others = (like.sum() - like[i]) / (len(last) - 1)
            terms.append(-(like[i].exp() / (like[i].exp() + others.exp())).log())
    return 0.5 * torch.stack(terms).mean()


def expected_attention_diversity(model: Any, x: Tensor) -> Tensor:
    maps: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0]))
    model.train()(x)
    terms = []
    for layer in maps:
        for mean in layer.mean(1):
            least = 2.0 / mean.shape[-1]
            common = mean.mean(0)
            common = common * (common > least)
            for row in mean:
                kept = row * (row > least)
                terms.append(cosine(common, kept) if common.any() and kept.any() else 0 * row.sum())
    return torch.stack(terms).mean()


EXPECTED = {
    "diversity_loss": expected_diversity,
    "contrast_loss": expected_contrast,
    "attention_diversity_loss": expected_attention_diversity,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("diversity_loss", "ViT"),
        ("diversity_loss", "Swin"),
        ("contrast_loss", "ViT"),
        ("contrast_loss", "CaiT"),
        ("attention_diversity_loss", "ViT"),
        ("attention_diversity_loss", "CaiT"),
    ],
)
def test_the_term_and_its_gradients_are_those_of_its_equation(name: str, kind: str) -> None:
    keywords = {} if kind == "Swin" else {"depth": 2}
    model, plain = (build(kind, *names, **keywords).double() for names in ((name,), ()))
    x = images(model, dtype=torch.float64)
    found, gradients = term_and_gradients(model, x)
    expected = EXPECTED[name](plain, x)
    expected.backward()
    torch.testing.assert_close(found, expected.detach())
    for path, parameter in plain.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            torch.testing.assert_close(gradients[path], parameter.grad, rtol=1e-6, atol=1e-10, msg=path)


def test_diversity_is_the_monitors_number() -> None:
    plain, model = build("ViT"), attach(build("ViT"), diversity_loss={"weight": 1.0, "every_block": True})
    x = images(model)
    tokens = outputs_of_blocks(plain, x)
    expected = torch.stack([token_similarity(part).mean() for part in tokens]).mean()
    torch.testing.assert_close(term_and_gradients(model, x)[0], expected.detach())


def test_merged_tokens_count_as_often_as_what_they_stand_for() -> None:
    """Every patch twice over: merging the pairs changes no term."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    x[..., 4:8] = x[..., :4]
    x[..., 12:] = x[..., 8:12]
    kept = {"kept": (9, 9)}
    merged = attach(build("ViT", pos_embed="none", depth=2), diversity_loss=True, token_merging=kept).double()
    whole = attach(build("ViT", pos_embed="none", depth=2), diversity_loss=True).double()
    found, expected = (term_and_gradients(model, x.double())[0] for model in (merged, whole))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", EXPECTED)
def test_evaluation_and_the_forward_pass_know_nothing_of_it(name: str) -> None:
    model, plain = build("ViT", name), build("ViT")
    x = images(model)
    assert torch.equal(model(x), plain(x))
    with training_pass(model)() as terms:
        model.eval()(x)
    assert not terms


def test_refusals() -> None:
    for flags, message in (
        ({"diversity_loss": {"weight": -1.0}}, "reward tokens that are alike"),
        ({"contrast_loss": {"weight": -1.0}}, "away from their own"),
        ({"attention_diversity_loss": {"tau": -1.0}}, "0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            attach(vit(), **flags)
    with pytest.raises(ValueError, match="contrast_loss: a model of one block"):
        attach(vit(depth=1), contrast_loss=True)
    model = build("ViT", "contrast_loss").train()
    model.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match="contrast_loss"), training_pass(model)() as terms:
        (model(images(model)).sum() + terms["contrast_loss"]).backward()
