"""Similarities against sums over all pairs, and the stream against one pass over everything."""

import pytest
import torch
from torch.nn import functional as F

from vitaos.analysis.norms import largest_token_norm, token_norm
from vitaos.analysis.similarity import effective_rank, map_similarity, token_similarity
from vitaos.analysis.streaming import RunningMoments


def test_token_similarity_is_the_mean_over_all_pairs() -> None:
    tokens = torch.randn(3, 9, 5, dtype=torch.float64) + 0.3
    expected = []
    for image in tokens:
        pairs = [F.cosine_similarity(image[i], image[j], dim=0) for i in range(9) for j in range(9) if i != j]
        expected.append(torch.stack(pairs).mean())
    torch.testing.assert_close(token_similarity(tokens), torch.stack(expected))


def test_equal_tokens_are_all_alike_and_orthogonal_ones_are_not() -> None:
    equal = torch.randn(2, 1, 6).expand(2, 8, 6)
    torch.testing.assert_close(token_similarity(equal), torch.ones(2))
    torch.testing.assert_close(token_similarity(torch.eye(6).unsqueeze(0)), torch.zeros(1))


def test_a_token_of_norm_zero_is_orthogonal_to_the_others() -> None:
    tokens = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]])
    torch.testing.assert_close(token_similarity(tokens), torch.tensor([2 / 6]))


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-38, 1e-42, 1e30])
def test_token_similarity_does_not_depend_on_the_scale(scale: float) -> None:
    """Squares of 1e-20 are 0 below float64; 1e-42 itself has a few bits left, 1e30 squared is infinite."""
    tokens = torch.randn(3, 6, 8)
    scaled = tokens * scale
    expected = token_similarity(scaled.double() * 1e30)
    torch.testing.assert_close(token_similarity(scaled).double(), expected, rtol=0, atol=1e-6)


def test_token_similarity_needs_two_tokens() -> None:
    with pytest.raises(ValueError, match="two tokens"):
        token_similarity(torch.randn(2, 1, 4))


def test_norms_are_the_mean_and_the_longest_of_an_image() -> None:
    tokens = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [6.0, 8.0]]])
    torch.testing.assert_close(token_norm(tokens), torch.tensor([3.0, 5.0]))
    torch.testing.assert_close(largest_token_norm(tokens), torch.tensor([5.0, 10.0]))


@pytest.mark.parametrize("shape", [(2, 6, 9), (2, 9, 6)])
def test_effective_rank_is_the_exponential_entropy_of_the_singular_values(shape: tuple[int, ...]) -> None:
    tokens = torch.randn(*shape, dtype=torch.float64)
    values = torch.linalg.svdvals(tokens)
    share = values / values.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(effective_rank(tokens), (-(share * share.log()).sum(dim=-1)).exp())


def test_effective_rank_of_known_matrices() -> None:
    torch.testing.assert_close(effective_rank(torch.eye(7).unsqueeze(0)), torch.tensor([7.0], dtype=torch.float64))
    rank_one = torch.outer(torch.arange(1.0, 5.0), torch.randn(6)).unsqueeze(0)
    torch.testing.assert_close(effective_rank(rank_one), torch.ones(1, dtype=torch.float64), atol=1e-3, rtol=0)


def test_map_similarity_is_the_cosine_of_every_pair_of_layers() -> None:
    maps = torch.rand(3, 4, 25)
    result = map_similarity(maps)
    for first in range(3):
        for second in range(3):
            expected = F.cosine_similarity(maps[first], maps[second], dim=-1)
            torch.testing.assert_close(result[:, first, second], expected)


@pytest.mark.parametrize("sizes", [[10], [3, 3, 4], [1] * 10, [9, 0, 1]])
def test_streaming_equals_one_shot(sizes: list[int]) -> None:
    values = 100 + torch.randn(10, 2, 3, dtype=torch.float64)
    moments = RunningMoments()
    for batch in values.split(sizes):
        moments.update(batch)
    assert moments.count == 10
    torch.testing.assert_close(moments.mean, values.mean(dim=0))
    torch.testing.assert_close(moments.std, values.std(dim=0))


def test_one_image_has_no_spread_and_none_is_an_error() -> None:
    moments = RunningMoments()
    with pytest.raises(ValueError, match="no images"):
        _ = moments.mean
    moments.update(torch.ones(1, 2))
    torch.testing.assert_close(moments.std, torch.zeros(2, dtype=torch.float64))
