"""How long the tokens are: a trained ViT may keep a few that are many times longer than the rest.

Source of the question: Darcet et al., "Vision Transformers Need Registers", ICLR 2024, which calls them artifacts.
"""

import torch
from torch import Tensor


def token_norm(tokens_BNC: Tensor) -> Tensor:
    """Mean over the tokens of their Euclidean norm, (B,)."""
    return _norms(tokens_BNC).mean(dim=1)


def largest_token_norm(tokens_BNC: Tensor) -> Tensor:
    """Norm of the longest token, (B,)."""
    return _norms(tokens_BNC).amax(dim=1)


def _norms(tokens_BNC: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tokens_BNC.float(), dim=-1)
