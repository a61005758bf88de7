"""Token merging: exact beside every other technique, its schedules, its criteria, and what it refuses."""

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from technique_models import build, distilled, images, stir, token_counts, vit
from torch import Tensor

from vitaos import techniques
from vitaos.techniques import TECHNIQUES, attach, training_pass
from vitaos.techniques.merge_criteria import CRITERIA, score_pairs
from vitaos.techniques.record import PassRecord, record_in
from vitaos.techniques.token_matching import split
from vitaos.techniques.token_merging import PUBLISHED_KEPT, schedule

OTHERS = [name for name, technique in TECHNIQUES.items() if "token_merging" not in technique.conflicts]
OTHERS = [name for name in OTHERS if name != "token_merging" and name not in TECHNIQUES["token_merging"].conflicts]
TOGETHER = ("attnscale", "featscale", "gfsa", "contranorm", "neutreno", "shaped_attention", "value_residual")


def twins(count: int = 2) -> Tensor:
    """Images of 16 patches, each the same as its neighbor."""
    patches = torch.randn(count, 8, 3, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    grid = patches.repeat_interleave(2, dim=1).view(count, 4, 4, 3, 4, 4)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, 16, 16)


def without_positions(*names: str, merged: dict[str, Any] | None = None, **keywords: Any) -> Any:
    """A ViT that gives equal patches equal tokens, with techniques at work, in float64."""
    model = build("ViT", *names, pos_embed="none", **keywords)
    attach(model, token_merging=merged)
    return stir(model, *names).double()


@pytest.mark.parametrize("names", [(), *((name,) for name in OTHERS), TOGETHER], ids="+".join)
def test_duplicates_give_the_same_logits_merged(names: tuple[str, ...]) -> None:
    x = twins()
    for pool, registers, criterion in (("token", 2, "keys"), ("avg", 0, "hf"), ("avgmax", 3, "keys")):
        keywords: dict[str, Any] = {"global_pool": pool, "reg_tokens": registers, "fc_norm": False}
        merged = without_positions(*names, merged={"kept": [9 + registers] * 3, "criterion": criterion}, **keywords)
        whole = without_positions(*names, **keywords)
        torch.testing.assert_close(merged(x), whole(x), rtol=0, atol=1e-10)
        assert token_counts(merged, x) == [9 + registers] * 3
        record = record_in(merged)
        assert record is not None
        assert record.sizes_BN is record.sources_BO is None, "the record of a pass is not empty after it"
        assert not record.seen
        assert not record.carried


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_ggem_counts_merged_tokens_in_either_order_and_in_copies(pool: str) -> None:
    x, merging = twins(), {"kept": [9, 9, 9]}
    whole = without_positions("ggem", global_pool=pool, fc_norm=False)
    after = attach(without_positions(merged=merging, global_pool=pool, fc_norm=False), ggem=True).double()
    after.load_state_dict(whole.state_dict())
    before = without_positions("ggem", merged=merging, global_pool=pool, fc_norm=False)
    compiled = torch.compile(before, backend="eager", fullgraph=True)
    for model in (before, after, copy.deepcopy(before), pickle.loads(pickle.dumps(before)), compiled):
        torch.testing.assert_close(model(x), whole(x), rtol=0, atol=1e-10)
    both = attach(build("ViT", "ggem", global_pool=pool), token_selection={"keep": 0.5})
    assert token_counts(both, images(both)) == [10, 7, 5]


def test_duplicates_give_the_same_gradients_and_statistics_in_training() -> None:
    names = ("attnscale", "featscale", "re_attention")
    found = []
    for merged in (None, {"kept": [9, 9, 9]}):
        model = without_positions(*names, merged=merged, global_pool="avg").train()
        model(twins()).square().sum().backward()
        found.append((dict(model.named_parameters()), dict(model.named_buffers())))
    for (whole, statistics), (parameters, buffers) in [found]:
        for name, parameter in whole.items():
            torch.testing.assert_close(parameters[name].grad, parameter.grad, rtol=1e-6, atol=1e-9, msg=name)
        for name, buffer in statistics.items():
            torch.testing.assert_close(buffers[name], buffer, rtol=1e-9, atol=1e-12, msg=name)


def test_duplicates_give_the_same_losses() -> None:
    names = ("diversity_loss", "contrast_loss", "attention_diversity_loss")
    found = []
    for merged in (None, {"kept": [9, 9, 9]}):
        model = without_positions(*names, merged=merged).train()
        with training_pass(model)() as terms:
            model(twins())
            found.append(dict(terms))
    assert found[0].keys() == set(names)
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-9, atol=0, msg=name)


def test_without_proportional_attention_duplicates_count_once() -> None:
    x = twins()
    merged = without_positions(merged={"kept": [9] * 3, "proportional": False})
    assert (merged(x) - without_positions()(x)).abs().max() > 1e-4


@pytest.mark.parametrize(
    "make", [distilled, lambda: vit(reg_tokens=4), lambda: vit(class_token=False, global_pool="avg")]
)
def test_tokens_in_front_are_never_merged(make: Any) -> None:
    model = attach(make().eval(), token_merging={"r": 3})
    prefix, seen = model.num_prefix_tokens, []
    record: Any = record_in(model)
    for block in model.blocks:
        block.register_forward_hook(lambda *_: seen.append((record.sizes_BN, record.sources_BO)))
    handle = model.blocks[-1].register_forward_pre_hook(lambda *_: setattr(record, "keeps_sizes", True))
    model(images(model))
    handle.remove()
    for number, (sizes_BN, sources_BO) in enumerate(seen, start=1):
        assert sizes_BN.shape == (2, prefix + 16 - 3 * number)
        assert torch.equal(sizes_BN[:, :prefix], torch.ones(2, prefix))
        assert sizes_BN.sum(1).tolist() == [prefix + 16] * 2
        assert torch.equal(sources_BO[:, :prefix], torch.arange(prefix).expand(2, -1))
        for sizes_N, sources_O in zip(sizes_BN, sources_BO, strict=True):
            assert torch.equal(torch.bincount(sources_O, minlength=len(sizes_N)).float(), sizes_N)


def test_schedules_and_clipping(caplog: pytest.LogCaptureFixture) -> None:
    assert schedule(13, 0.0, 12) == [13] * 12
    assert schedule(8, -1.0, 5) == [16, 12, 8, 4, 0]
    assert schedule(8, 1.0, 5) == [0, 4, 8, 12, 16]
    assert token_counts(attach(vit().eval(), token_merging={"r": 2, "inflection": -1.0}), images(vit())) == [13, 11, 11]
    assert token_counts(attach(vit().eval(), token_merging={"r": 0}), images(vit())) == [17, 17, 17]
    assert not caplog.records
    assert token_counts(attach(vit().eval(), token_merging={"r": 7}), images(vit())) == [10, 6, 4]
    assert "r=7 is more than half of the patch tokens in blocks.1 (7 -> 4), blocks.2 (7 -> 2)" in caplog.text
    assert token_counts(attach(vit().eval(), token_merging={"kept": [17, 4, 3]}), images(vit())) == [17, 4, 3]


def test_published_rates_are_those_of_a_deit() -> None:
    with torch.device("meta"):
        model = attach(timm.create_model("deit_small_patch16_224"), token_merging={"kept": "diffrate_s_2.9"})
        assert token_counts(model, torch.empty(1, 3, 224, 224)) == list(PUBLISHED_KEPT["diffrate_s_2.9"])
    for name, counts in PUBLISHED_KEPT.items():
        assert len(counts) == 12, name
        assert counts == tuple(sorted(counts, reverse=True)), name


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_merges_the_same_for_each_image_of_a_batch(criterion: str) -> None:
    model = attach(build("ViT"), token_merging={"r": 3, "criterion": criterion}).double()
    x = images(model, 3, torch.float64)
    assert token_counts(model, x) == [14, 11, 8]
    alone = torch.cat([model(image) for image in x.split(1)])
    torch.testing.assert_close(model(x), alone, rtol=0, atol=1e-12)


def test_scores_of_the_criteria_are_their_equations() -> None:
    record, x = PassRecord(1), torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(0)).double()
    received, sizes = torch.rand(9).double(), torch.tensor([1.0, 1, 2, 3, 1, 1, 4, 1, 2]).double()
    record.seen = {"received": received.view(1, 9, 1), "keys": x[..., :3]}
    record.sizes_BN = sizes.view(1, 9)
    sides = split(9, 1, x.device)
    mctf, _ = score_pairs(record, x, sides, "mctf")
    keys, rank = score_pairs(record, x, sides, "hf")
    information, small = (1 / received) / (1 / received).max(), (1 / sizes) / (1 / sizes).max()
    mean = (x[0] * sizes[:, None]).sum(0) / sizes.sum()
    for a, i in enumerate(sides.a.tolist()):
        for b, j in enumerate(sides.b.tolist()):
            similar = (torch.cosine_similarity(x[0, i], x[0, j], dim=0) + 1) / 2
            other = (information[i] * information[j]) ** (1 / 20) * (small[i] * small[j]) ** (1 / 40)
            torch.testing.assert_close(mctf[0, a, b], similar * other)
            torch.testing.assert_close(keys[0, a, b], torch.cosine_similarity(x[0, i, :3], x[0, j, :3], dim=0))
        assert rank is not None
        torch.testing.assert_close(rank[0, a], -(x[0, i] - mean).norm())


def test_graph_propagation_is_its_equation() -> None:
    """Two blocks in which tokens leave, from the map and the tokens that the plain modules give."""
    model = attach(build("ViT", depth=2).double(), token_merging={"kept": [12, 9], "select": "gtp", "alpha": 0.3})
    plain, x = build("ViT", depth=2).double(), images(model, dtype=torch.float64)
    tokens = plain._pos_embed(plain.patch_embed(x))
    unit = torch.nn.functional.normalize(tokens[:, 1:], dim=-1)
    graph = torch.zeros(2, 16, 16).double()
    for image, similar in enumerate(unit @ unit.transpose(1, 2)):
        for i in range(16):
            nearest = [j for j in similar[i].argsort(descending=True).tolist() if j != i][:8]
            beside = [j for j in range(16) if j != i and max(abs(i // 4 - j // 4), abs(i % 4 - j % 4)) == 1]
            graph[image, i, [*nearest, *beside]] = 1
    degree = graph.sum(-1).rsqrt()
    graph = degree[:, :, None] * graph * degree[:, None]
    left = [list(range(16)) for _ in range(2)]
    for block, kept in zip(plain.blocks, (12, 9), strict=True):
        q, k, _ = block.attn.qkv(block.norm1(tokens)).reshape(2, tokens.shape[1], 3, 3, 8).permute(2, 0, 3, 1, 4)
        maps = (q @ k.transpose(-2, -1) * block.attn.scale).softmax(-1)
        tokens = tokens + block.attn(block.norm1(tokens))
        fewer = []
        for image in range(2):
            rank = maps[image].diagonal(dim1=1, dim2=2).amax(0) * maps[image].sum(1).amax(0)
            order = rank[1:].argsort(descending=True).tolist()
            stay, gone = order[: kept - 1], order[kept - 1 :]
            old, patches = left[image], tokens[image, 1:]
            rows = [patches[i] + 0.3 * sum(graph[image, old[i], old[j]] * patches[j] for j in gone) for i in stay]
            fewer.append(torch.stack([tokens[image, 0], *rows]))
            left[image] = [old[i] for i in stay]
        tokens = torch.stack(fewer)
        tokens = tokens + block.mlp(block.norm2(tokens))
    torch.testing.assert_close(model.forward_features(x), plain.norm(tokens), rtol=0, atol=1e-6)  # the graph is float32
    record = record_in(model)
    assert record is not None
    assert not record.seen
    with pytest.raises(ValueError, match="select=gtp joins neighbors on a grid of 4 x 4 patches, but there are 9"):
        attach(vit(dynamic_img_size=True), token_merging={"select": "gtp"})(torch.zeros(1, 3, 12, 12))


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "negative": (vit, {"r": -1}, r"r=-1: the number of tokens that merge in a block is 0 or more"),
    "inflection": (vit, {"inflection": 2.0}, r"inflection=2\.0: it is between -1"),
    "criterion": (vit, {"criterion": "size"}, r"criterion='size': it is one of keys, mctf"),
    "selection": (vit, {"select": "evit"}, r"select='evit': it is one of pairs, gtp"),
    "ranks": (vit, {"select": "gtp", "criterion": "hf"}, r"select=gtp has its own ranks"),
    "too few": (vit, {"kept": [9, 9]}, r"kept has 2 numbers, but the model has 3 blocks"),
    "growing": (vit, {"kept": [9, 10, 9]}, r"kept=\[9, 10, 9\] cannot be: tokens never become more"),
    "prefix only": (vit, {"kept": [9, 9, 1]}, r"at least one patch token stays beside the 1"),
    "not a list": (vit, {"kept": 9}, r"kept must be a list of whole numbers"),
    "not a name": (vit, {"kept": "diffrate"}, r"kept='diffrate': a list of tokens, or one of diffrate_ti"),
    "attention pooling": (lambda: vit(global_pool="map"), {}, r"pools by attention \(global_pool='map'\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    make, options, message = REFUSED[case]
    model = make()
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        attach(model, token_merging=options)
    assert techniques.attached(model) == {}
    assert type(model.blocks[0]) is type(before.blocks[0])


def test_refusals_in_use() -> None:
    model = attach(vit(), token_merging={"r": 2}).train()
    x = images(model)
    with pytest.raises(ValueError, match="token_merging: an attention mask names tokens by their place"):
        model(x, attn_mask=torch.ones(17, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"token_merging: torch\.jit\.script cannot follow"):
        torch.jit.script(model)
    model.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match=r"token_merging: what the blocks hand on.*gradient checkpointing"):
        model(x).sum().backward()
    extractor: Any = timm.create_model("vit_tiny_patch16_224", features_only=True, depth=3, img_size=32)
    with pytest.raises(ValueError, match="token_merging: features_only=True gives maps"):
        attach(extractor, token_merging=True)


@pytest.mark.parametrize(
    "options",
    [{"token_merging": {"r": 3, "criterion": "mctf"}}, {"token_merging": {"r": 3, "select": "gtp"}}],
    ids=["mctf", "gtp"],
)
def test_an_exported_program_takes_any_number_of_images(options: dict[str, Any]) -> None:
    model = attach(build("ViT", depth=1), **options)
    number = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (images(model),), dynamic_shapes=number)
    x = images(model, 5)
    torch.testing.assert_close(program.module()(x), model(x))
