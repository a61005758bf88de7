"""Whether and how a model is compiled: the words of ``compile=``, and what ``auto`` makes of a device and a model."""

import importlib.util
import os
import shutil
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

AUTO: Final = "auto"
DEFAULT: Final = "default"
CUDA_GRAPH_MODES: Final = ("reduce-overhead", "max-autotune")
"""Modes that replay CUDA graphs, whose results lie in memory that the next pass takes again."""
MODES: Final = (DEFAULT, "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

_OLDEST_GPU: Final = (7, 0)  # Triton's
_GRAPHS_OF_A_RUN: Final = 64  # sizes of images x (training, evaluation, the average's); torch gives up after 8
_COMPILERS: Final = {"cuda": ("CC", "cc", "gcc", "clang"), "cpu": ("CXX", "c++", "g++", "clang++")}


@dataclass(frozen=True)
class Compilation:
    """What becomes of the modules of a run.

    Attributes:
        mode: of torch.compile; None leaves them eager.
        must: they were to be compiled by the user's word, so that a failure is an error; otherwise what cannot be
            compiled runs eagerly, with a warning.
        note: what ``auto`` decided and why, for people; empty where there is nothing to say.
    """

    mode: str | None = None
    must: bool = False
    note: str = ""

    @property
    def replays_graphs(self) -> bool:
        """Whether results have to be copied before the next pass if they are to last."""
        return self.mode in CUDA_GRAPH_MODES

    def apply(self, model: nn.Module, *, static_shapes: bool = False) -> None:
        """Let the model's forward pass be compiled when it is first called; its state dict keeps its names.

        Args:
            model: changed in place.
            static_shapes: compile once for each size of images, instead of once for all sizes.
        """
        if self.mode is None:
            return
        dynamo: Any = torch._dynamo
        dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, _GRAPHS_OF_A_RUN)
        dynamo.config.suppress_errors = not self.must
        _give_inductor_our_passes()
        mode = None if self.mode == DEFAULT else self.mode
        model.compile(dynamic=False if static_shapes else None, mode=mode)


EAGER: Final = Compilation()


def _give_inductor_our_passes() -> None:
    """The project's passes over graphs, where there are no others."""
    from torch._inductor import config  # noqa: PLC0415 - seconds, only where something is compiled

    from vitaos.engine.asked_tokens import AskedTokens  # noqa: PLC0415 - imports Inductor
    from vitaos.engine.bias_sums import BiasSums  # noqa: PLC0415 - imports Inductor

    if config.pre_grad_custom_pass is None:
        config.pre_grad_custom_pass = AskedTokens()
    if config.post_grad_custom_post_pass is None:
        config.post_grad_custom_post_pass = BiasSums()


def choose(asked: bool | str, device: torch.device, *, recomputes_losses: bool = False) -> Compilation:
    """What ``compile=ASKED`` means on a device.

    Args:
        asked: False; True or "default"; "auto", which compiles on CUDA what is known to compile; or a mode of
            torch.compile.
        device: where the model runs.
        recomputes_losses: blocks that add terms to the loss run again in the backward pass, which breaks the graph.

    Raises:
        ValueError: an unknown word, or a mode that cannot be had here.
    """
    if isinstance(asked, int):
        asked = bool(asked)
    elif asked not in {AUTO, *MODES}:
        raise ValueError(f"compile={asked!r} is unknown; choose one of auto, true, false, {', '.join(MODES)}")
    if asked is False:
        return EAGER
    missing = _missing(device)
    if asked != AUTO:
        if missing:
            raise ValueError(f"compile={str(asked).lower()} cannot be had: {missing}. Use compile=false")
        return Compilation(DEFAULT if asked is True else str(asked), must=True)
    if device.type != "cuda":
        return EAGER
    reason = missing or _had_better_not(recomputes_losses)
    if reason:
        return Compilation(note=f"compile=auto: not compiled, since {reason}")
    return Compilation(DEFAULT, note="compile=auto: compiled by torch.compile; the first steps take their time")


def _missing(device: torch.device) -> str:
    """What compiled code needs on this machine and is not there; empty where nothing is missing."""
    variable, *names = _COMPILERS["cuda" if device.type == "cuda" else "cpu"]
    if not any(shutil.which(name) for name in (os.environ.get(variable, ""), *names) if name):
        language = "C" if device.type == "cuda" else "C++"
        return f"there is no {language} compiler ({', '.join(names)}, or one that {variable} names)"
    if device.type != "cuda":
        return ""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.cuda.get_device_capability(device) < _OLDEST_GPU:
        return f"{torch.cuda.get_device_name(device)} is older than what Triton makes code for (compute capability 7.0)"
    return ""


def _had_better_not(recomputes_losses: bool) -> str:
    """Why a model that could be tried had better stay eager; empty where nothing speaks against it."""
    if torch.are_deterministic_algorithms_enabled():
        return "deterministic=true asks for the same kernels on every start (compile=true compiles nevertheless)"
    if recomputes_losses:
        return "checkpoint_gradients=true runs blocks again that add a term to the loss"
    return ""
