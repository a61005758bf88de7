"""Passes that gradient checkpointing runs a second time, in the backward pass, and what cannot run twice."""

import torch


def refuse_recomputation(technique: str) -> None:
    """Called in a training pass that moves running statistics: a second run moves them again, and starts elsewhere.

    Raises:
        ValueError: this is such a second run.
    """
    if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise ValueError(
            f"{technique}: a training pass moves what the next one starts from, and gradient checkpointing runs blocks "
            "again in the backward pass: checkpoint_gradients=true (set_grad_checkpointing) cannot be used."
        )
