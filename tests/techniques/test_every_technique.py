"""Walks every technique x backbone: numbers against its equation, and all that a model must survive."""

import copy
import io
from typing import Any

import pytest
import torch
from technique_models import BACKBONES, CASES, build, images, stir, technique_parameters
from technique_oracle import oracle

from vitaos.techniques import TECHNIQUES, attached

IDENTITIES = [case for case in CASES if TECHNIQUES[case[0]].start == "identity"]
walk = pytest.mark.parametrize(("name", "kind"), CASES)


def assert_equation(kind: str, *names: str, **keywords: Any) -> None:
    """Logits, and gradients of the techniques' parameters and of the input, equal those of the map form in float64."""
    tested = stir(build(kind, *names, **keywords), *names).double()
    state = {**dict(tested.named_parameters()), **dict(tested.named_buffers())}
    truth = oracle(build(kind, **keywords).double(), names, state)
    x = images(tested, dtype=torch.float64).requires_grad_()
    cotangent = torch.randn(2, 5, generator=torch.Generator().manual_seed(3)).double()
    wanted = [x, *(value for name in names for value in technique_parameters(tested, name).values())]

    found, expected = tested(x), truth(x)
    plain = build(kind, **keywords).double()(x)
    assert (expected - plain).abs().max() > 1e-4, "the oracle changes nothing: agreement would show nothing"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    found_gradients = torch.autograd.grad((found * cotangent).sum(), wanted)
    expected_gradients = torch.autograd.grad((expected * cotangent).sum(), wanted)
    for found_gradient, expected_gradient in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found_gradient, expected_gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if not TECHNIQUES[case[0]].losses])
def test_equals_its_equation(name: str, kind: str) -> None:
    assert_equation(kind, name)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ViT", ("attnscale", "featscale")),
        ("ViT", ("gfsa", "attnscale", "centered_attention", "neutreno", "contranorm", "layerscale", "featscale")),
        ("ViT", ("re_attention", "attnscale", "featscale")),
        ("ViT", ("value_residual", "neutreno", "shaped_attention", "laplacian_heads", "attnscale", "gfsa")),
        ("ViT", ("gated_attention", "fdam", "attnscale", "featscale", "neutreno")),
        ("CaiT", ("attnscale", "featscale", "gfsa", "neutreno", "contranorm", "value_residual", "shaped_attention")),
        ("Swin", ("featscale", "layerscale", "gfsa", "attnscale", "centered_attention", "laplacian_heads")),
    ],
)
def test_techniques_combine_in_any_order(kind: str, names: tuple[str, ...]) -> None:
    assert_equation(kind, *names)
    one, other = stir(build(kind, *names), *names), stir(build(kind, *reversed(names)), *names)
    x = images(one)
    torch.testing.assert_close(one(x), other(x), rtol=0, atol=0)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("kind", BACKBONES)
def test_identity_at_the_start_bit_for_bit(kind: str, autocast: bool) -> None:
    plain, x = build(kind), images(build(kind))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = plain(x)
        for name, _ in (case for case in IDENTITIES if case[1] == kind):
            assert torch.equal(build(kind, name)(x), expected), name
        assert torch.equal(build(kind, "attnscale", "featscale")(x), expected)


@walk
def test_every_parameter_takes_part_in_training(name: str, kind: str) -> None:
    """What DDP needs: a gradient for every parameter, also where the technique starts at the identity."""
    model = build(kind, name, proj_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.1).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(images(model, 4)).float().square().sum()
    loss.backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.isfinite().all(), path
    for path, parameter in technique_parameters(model, name).items():
        assert parameter.grad.dtype == parameter.dtype == torch.float32, path


@walk
def test_copies_pickles_and_moves(name: str, kind: str) -> None:
    model = stir(build(kind, name), name)
    x = images(model)
    expected = model(x)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    clone = copy.deepcopy(model)
    assert torch.equal(clone(x), expected)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), expected)
    assert attached(clone) == attached(model) == {name: dict(TECHNIQUES[name].options)}

    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.zero_()
    assert torch.equal(model(x), expected), "the copy shares its parameters with the original"
    fresh = build(kind, name, seed=1)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), expected)
    for dtype in (torch.float64, torch.bfloat16):
        moved = model.to(dtype)(x.to(dtype))
        assert moved.dtype == dtype
        torch.testing.assert_close(moved.float(), expected, rtol=0, atol=0.1 * float(expected.abs().max().detach()))


SHALLOW: dict[str, dict[str, Any]] = {
    "ViT": {"depth": 2},
    "CaiT": {"depth": 2, "depth_token_only": 1},
    "Swin": {"depths": (2,), "num_heads": (2,), "window_size": 3},
}


# All that can act together, in one model: what is too slow to walk is walked here.
COMBINED = {
    "ViT": ("attnscale", "featscale", "layerscale", "contranorm", "neutreno", "gfsa", "centered_attention"),
    "CaiT": ("attnscale", "featscale", "contranorm", "neutreno", "gfsa", "centered_attention"),
    "Swin": ("attnscale", "featscale", "layerscale", "gfsa", "centered_attention"),
}


CAPTURED = [
    *((pytest.param(kind, (name,), marks=[] if kind == "ViT" else pytest.mark.long)) for name, kind in CASES),
    *((kind, names) for kind, names in COMBINED.items() if kind != "ViT"),
]


@pytest.mark.parametrize(("kind", "names"), CAPTURED)
def test_exports_and_is_captured_in_one_graph(kind: str, names: tuple[str, ...]) -> None:
    model = stir(build(kind, *names, **SHALLOW[kind]), *names)
    x = images(model)
    expected = model(x)
    exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), expected)
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), expected)
    again = "something is carried from one pass into the next"
    torch.testing.assert_close(model(x.flip(0)), model(x).flip(0), rtol=1e-5, atol=1e-6, msg=again)


@pytest.mark.parametrize(
    ("kind", "names", "backend"),
    [
        ("ViT", COMBINED["ViT"], "aot_eager"),
        ("ViT", ("re_attention",), "aot_eager"),
        ("ViT", ("fdam",), "aot_eager"),
        ("CaiT", COMBINED["CaiT"], "aot_eager"),
        ("Swin", COMBINED["Swin"], "aot_eager"),
    ],
)
def test_trains_compiled(kind: str, names: tuple[str, ...], backend: str) -> None:
    """Forward and backward through the compiler give the eager model's loss and gradients."""
    eager = stir(build(kind, *names, **SHALLOW[kind]), *names).train()
    twin = copy.deepcopy(eager)
    x = images(eager)
    torch._dynamo.reset()
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    eager(x).square().sum().backward()
    compiled(x).square().sum().backward()
    gradients = dict(twin.named_parameters())
    for path, parameter in eager.named_parameters():
        torch.testing.assert_close(gradients[path].grad, parameter.grad, rtol=1e-3, atol=1e-4, msg=path)


def test_runs_compiled_by_inductor() -> None:
    model = stir(build("ViT", "attnscale", "featscale", depth=1), "attnscale", "featscale")
    torch._dynamo.reset()
    with torch.no_grad():
        x = images(model)
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-5)
