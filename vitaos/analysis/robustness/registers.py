"""Test-time registers: what accuracy and long tokens do when an added token takes over what makes patch tokens long.

Source: Jiang, Dravid, Efros, Gandelsman, "Vision Transformers Don't Need Trained Registers", NeurIPS 2025 (arXiv
2506.08010), as in the authors' code. A few patch tokens of a trained ViT may be many times longer than the rest
(``vitaos.analysis.norms``). Register neurons are channels of an MLP, behind its activation, that are large at these
tokens: a neuron's score is the mean over images of its mean absolute activation there, and the best k of the blocks up
to the one where such tokens appear are taken. The image then gets one more token, which starts at 0 and is thrown away
at the end; in those blocks a register neuron has its largest activation over all tokens at that token, and 0 at the
patches. Nothing is trained.

What is ours: a patch token is long if its norm behind the last block is above ``LONG`` times the median over the
patches of its image (the code takes a number for each model), and the block where long tokens appear is the first
behind which half of them are as long there.

Shapes: B images, N tokens, P patches, F channels of an MLP.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from timm.utils import unwrap_model
from torch import Tensor, nn

from vitaos.analysis.robustness.samples import Respondent, Samples
from vitaos.analysis.robustness.table import Table

COLUMNS: Final = ("neurons", "top1", "loss", "consistency", "longest_patch", "register")
COUNTS: Final = (0, 1, 5, 10, 20, 50)
LONG: Final = 3.0
_HALF: Final = 0.5

Neurons = dict[int, list[int]]
"""Block (0-based) -> channels of its MLP."""


def reason_against(model: nn.Module) -> str | None:
    """Why a model cannot be given a test-time register; None where it can."""
    model = unwrap_model(model)
    if not isinstance(model, VisionTransformer):
        return f"a {type(model).__name__} is no ViT"
    for path, block in model.blocks.named_children():
        if not isinstance(block, Block) or type(block.mlp) is not Mlp:
            return f"blocks.{path} has no MLP with one activation"
    grid = [path for path, _ in model.named_buffers() if path.endswith("locality_distances")]
    if grid:
        return f"{grid[0]} is for the tokens of the image alone (locality)"
    if any(getattr(block, "pre_attention", ()) or getattr(block, "post_mlp", ()) for block in model.blocks):
        return "its blocks take the grid of the image's tokens alone (tap, freqscale)"
    if any(getattr(block, "tokens", ()) for block in model.blocks):
        return "its tokens become fewer from block to block"
    return None


def measure_registers(respondent: Respondent, samples: Samples) -> Table:
    """Accuracy, and lengths of the longest patch and of the register, by the number of register neurons.

    Lengths are norms behind the last block over the median norm of the image's patches, means over images. Where no
    token is long there are no register neurons, and the one row is the model as it is.

    Raises:
        ValueError: the model cannot be given a register; says why.
    """
    reason = reason_against(respondent.model)
    if reason is not None:
        raise ValueError(f"robustness=registers: {reason}")
    model: Any = unwrap_model(respondent.model)
    clean = respondent.ask(samples.images, samples.targets)
    ranked, facts = find_register_neurons(model, respondent, samples)
    rows = []
    for count in (count for count in COUNTS if count <= len(ranked)):
        with test_time_register(model, by_block(ranked[:count])) as lengths:
            answers = respondent.ask(samples.images, samples.targets)
        longest, register = torch.cat(lengths).double().mean(0).tolist()
        rows.append(
            {
                "neurons": count,
                "top1": answers.accuracy,
                "loss": answers.mean_loss,
                "consistency": answers.agreement(clean),
                "longest_patch": longest,
                "register": register if count else "",
            }
        )
    names = [f"blocks.{block}.mlp:{channel}" for block, channel in ranked[: max(COUNTS)]]
    return Table("registers", COLUMNS, rows, {"images": len(samples), **facts, "register_neurons": names})


def by_block(neurons: Sequence[tuple[int, int]]) -> Neurons:
    """(block, channel) pairs, gathered."""
    return {block: [c for b, c in neurons if b == block] for block in sorted({block for block, _ in neurons})}


def lengths_of_patches(x_BNC: Tensor, prefix: int) -> Tensor:
    """(B, P): norms of the patch tokens over their median."""
    norm_BP = torch.linalg.vector_norm(x_BNC[:, prefix:].float(), dim=-1)
    return norm_BP / norm_BP.median(1, keepdim=True).values


@torch.no_grad()
def find_register_neurons(
    model: Any, respondent: Respondent, samples: Samples
) -> tuple[list[tuple[int, int]], dict[str, Any]]:
    """(block, channel) of MLPs from the strongest register neuron on, and what was found on the way."""
    prefix, depth = int(model.num_prefix_tokens), len(model.blocks)
    scores = [torch.zeros(block.mlp.fc1.out_features, dtype=torch.float64) for block in model.blocks]
    long_behind = torch.zeros(depth)
    found = {"images": 0, "tokens": 0}
    for x in respondent.batches(samples.images):
        activations, lengths = _watch(model, x, respondent, prefix)
        long_BP = lengths[-1] > LONG
        with_long_B = long_BP.any(1)
        found["images"] += int(with_long_B.sum())
        found["tokens"] += int(long_BP.sum())
        share_BP = long_BP.double() / long_BP.sum(1, keepdim=True).clamp(min=1)
        for block in range(depth):
            long_behind[block] += int(((lengths[block] > LONG) & long_BP).sum())
            scores[block] += torch.einsum("bp,bpf->f", share_BP, activations[block].abs().double()).cpu()
    facts = {"long_tokens": found["tokens"], "images_with_long_tokens": found["images"]}
    if not found["tokens"]:
        return [], {**facts, "long_from_block": None}
    onset = int((long_behind >= _HALF * found["tokens"]).nonzero()[0])
    ranked = sorted(
        ((float(score), block, channel) for block in range(onset + 1) for channel, score in enumerate(scores[block])),
        key=lambda entry: (-entry[0], *entry[1:]),
    )
    return [(block, channel) for _, block, channel in ranked], {**facts, "long_from_block": onset + 1}


def _watch(model: Any, x: Tensor, respondent: Respondent, prefix: int) -> tuple[list[Tensor], list[Tensor]]:
    """Activations of every MLP at the patches, (B, P, F), and lengths of the patches behind every block, (B, P)."""
    activations: list[Tensor] = []
    lengths: list[Tensor] = []
    hooks = []
    for block in model.blocks:
        hooks.append(block.mlp.act.register_forward_hook(lambda *call: activations.append(call[2][:, prefix:])))
        hooks.append(block.register_forward_hook(lambda *call: lengths.append(lengths_of_patches(call[2], prefix))))
    try:
        with respondent.autocast():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    return activations, lengths


@contextmanager
def test_time_register(model: Any, neurons: Neurons) -> Iterator[list[Tensor]]:
    """Inside, every image has one more token, which takes over the register neurons; none where there are none.

    Gives a list that every forward pass adds (B, 2) to: length of the longest patch and of the register, which is 0
    without one.
    """
    prefix, extra = int(model.num_prefix_tokens), int(bool(neurons))
    lengths: list[Tensor] = []

    def append_token(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.cat([args[0], torch.zeros_like(args[0][:, :extra])], dim=1), *args[1:])

    def drop_token(_: nn.Module, __: Any, y: Tensor) -> Tensor:
        patches = y.shape[1] - prefix - extra
        length_BP = lengths_of_patches(y[:, : prefix + patches], prefix)
        median_B = torch.linalg.vector_norm(y[:, prefix : prefix + patches].float(), dim=-1).median(1).values
        register_B = torch.linalg.vector_norm(y[:, prefix + patches :].float(), dim=(1, 2)) / median_B
        lengths.append(torch.stack([length_BP.amax(1), register_B], dim=1).cpu())
        return y[:, : prefix + patches]

    blocks = model.blocks
    hooks = [blocks[0].register_forward_pre_hook(append_token), blocks[-1].register_forward_hook(drop_token)]
    hooks += [blocks[b].mlp.act.register_forward_hook(_move(channels, prefix)) for b, channels in neurons.items()]
    try:
        yield lengths
    finally:
        for hook in hooks:
            hook.remove()


def _move(channels: Sequence[int], prefix: int) -> Any:
    """A hook that gives neurons their largest activation at the last token and 0 at the patches."""

    def hook(_: nn.Module, __: Any, y_BNF: Tensor) -> Tensor:
        largest_BK = y_BNF[:, :, channels].amax(1)
        moved_BNF = y_BNF.clone()
        moved_BNF[:, prefix:, channels] = 0
        moved_BNF[:, -1, channels] = largest_BK
        return moved_BNF

    return hook
