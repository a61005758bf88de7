"""`deterministic=true`: what cannot be repeated bit for bit is refused, never merely warned of."""

from collections.abc import Iterator

import pytest
import torch

from vitaos.engine.precision import enable_determinism


@pytest.fixture(autouse=True)
def torch_as_it_was() -> Iterator[None]:
    cudnn, sdp = torch.backends.cudnn, torch.backends.cuda.cudnn_sdp_enabled()
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
    torch.backends.cuda.enable_cudnn_sdp(sdp)


def test_an_operation_without_a_deterministic_form_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    enable_determinism()
    with pytest.raises(RuntimeError, match="put_ does not have a deterministic implementation"):
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


def test_neither_cudnn_attention_nor_timed_convolutions_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    enable_determinism()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_a_workspace_with_which_cublas_varies_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ValueError, match=r"CUBLAS_WORKSPACE_CONFIG=:0:0.*:4096:8 or :16:8"):
        enable_determinism()
