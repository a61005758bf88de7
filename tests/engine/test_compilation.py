"""What compile= means on a device, and what becomes of a model that cannot be compiled."""

from collections.abc import Iterator
from functools import partialmethod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.miniature import ALONE, make_trainer
from vitaos.config import TrainConfig, declared_fields
from vitaos.engine import compilation
from vitaos.engine.compilation import EAGER, MODES, Compilation, choose
from vitaos.engine.micro_batch import add_gradient

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def a_gpu_that_triton_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.fixture
def dynamo() -> Iterator[Any]:
    """torch's settings of this process, as they were afterwards."""
    import torch._dynamo as loaded  # noqa: PLC0415 - a second of imports

    with loaded.config.patch(suppress_errors=False, recompile_limit=8):
        yield loaded
    loaded.reset()


@pytest.mark.usefixtures("a_gpu_that_triton_knows")
def test_auto_compiles_on_a_gpu_and_says_so() -> None:
    assert choose("auto", CPU) == EAGER
    found = choose("auto", GPU)
    assert (found.mode, found.must) == ("default", False)
    assert "compile=auto: compiled" in found.note


@pytest.mark.usefixtures("a_gpu_that_triton_knows")
@pytest.mark.parametrize("device", [CPU, GPU])
def test_the_words_are_torchs_modes(device: torch.device) -> None:
    for no in (False, 0):
        assert choose(no, device) == EAGER
    for yes in (True, 1, "default"):
        assert choose(yes, device) == Compilation("default", must=True)
    for mode in MODES:
        assert choose(mode, device) == Compilation(mode, must=True)
    with pytest.raises(ValueError, match=r"compile='fast' is unknown; choose one of auto, true, false, default"):
        choose("fast", device)


def test_the_key_takes_the_words_of_the_engine() -> None:
    (key,) = (key for key, _ in declared_fields(TrainConfig) if key.name == "compile")
    assert set(key.metadata["choices"]) == {"auto", True, False, *MODES}


@pytest.mark.usefixtures("a_gpu_that_triton_knows")
def test_auto_leaves_alone_what_had_better_not_be_compiled() -> None:
    found = choose("auto", GPU, recomputes_losses=True)
    assert found.mode is None
    assert "not compiled, since checkpoint_gradients=true" in found.note
    torch.use_deterministic_algorithms(True)
    try:
        assert "deterministic=true" in choose("auto", GPU).note
        assert choose(True, GPU).mode == "default"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("a_gpu_that_triton_knows")
@pytest.mark.parametrize("missing", ["compiler", "triton", "capability"])
def test_what_is_missing_is_said_by_auto_and_refused_otherwise(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "compiler":
        monkeypatch.setattr(compilation.shutil, "which", lambda name: None)
    elif missing == "triton":
        monkeypatch.setattr(compilation.importlib.util, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    found = choose("auto", GPU)
    assert found.mode is None
    reason = {"compiler": "no C compiler", "triton": "Triton is not installed", "capability": "Tesla P100 is older"}
    assert reason[missing] in found.note
    with pytest.raises(ValueError, match=rf"compile=true cannot be had: .*{reason[missing]}.*Use compile=false"):
        choose(True, GPU)


def test_modes_reach_torch(monkeypatch: pytest.MonkeyPatch, dynamo: Any) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **keywords: seen.append(keywords))
    for found in (EAGER, Compilation("default"), Compilation("max-autotune", must=True)):
        found.apply(nn.Linear(1, 1), static_shapes=True)
    assert seen == [{"dynamic": False, "mode": None}, {"dynamic": False, "mode": "max-autotune"}]
    assert dynamo.config.recompile_limit >= 64


@pytest.mark.parametrize("must", [False, True])
def test_a_model_that_does_not_compile_runs_eagerly_under_auto(
    must: bool, monkeypatch: pytest.MonkeyPatch, dynamo: Any
) -> None:
    def refuse(graph: Any, inputs: Any) -> Any:
        raise NotImplementedError("no code for this")

    monkeypatch.setattr(nn.Module, "compile", partialmethod(_compile_by, refuse))
    model, x = _Halves(), torch.ones(1, 2)
    expected = model(x)
    Compilation("default", must=must).apply(model)
    if must:
        with pytest.raises(dynamo.exc.BackendCompilerFailed):
            model(x)
    else:
        assert torch.equal(model(x), expected)


class _Halves(nn.Module):
    """A module that is not torch's own: PyTorch 2.11 does not compile those alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def _compile_by(module: nn.Module, backend: Any, **keywords: Any) -> None:
    module._compiled_call_impl = torch.compile(module._call_impl, backend=backend)


def test_gradients_outlast_a_graph_that_overwrites_them() -> None:
    """Micro-batches under a mode with CUDA graphs: what the first left in .grad is overwritten by the second pass."""
    expected, trainer = (make_trainer(ALONE, images=24, batch_size=6, accumulate=2) for _ in range(2))
    trainer.compilation = Compilation("reduce-overhead")
    of_the_graph: list[Tensor] = []

    def remember(parameter: Tensor) -> None:
        assert parameter.grad is not None
        of_the_graph.append(parameter.grad)

    def overwrite(module: nn.Module, args: Any) -> None:
        for gradient in of_the_graph:
            gradient.fill_(float("nan"))
        of_the_graph.clear()

    for parameter in trainer.model.parameters():
        parameter.register_post_accumulate_grad_hook(remember)
    trainer.model.register_forward_pre_hook(overwrite)
    for one in (expected, trainer):
        for part, batch in zip(range(2), one.loader.epoch(0, 0), strict=False):
            add_gradient(one, batch, part)
    for left, right in zip(expected.model.parameters(), trainer.model.parameters(), strict=True):
        assert left.grad is not None
        assert right.grad is not None
        assert torch.equal(left.grad, right.grad)
