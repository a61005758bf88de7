"""Gradients of biases summed in the kernel that makes what they sum, where the model is compiled for a GPU.

A linear layer's bias has the sum of its output's gradient over images and tokens. Inductor sums (images x tokens, C) in
a kernel of its own, which reads the whole gradient again. Written as a sum over an image's tokens, then over images,
the first becomes part of the kernel that writes the gradient: images x C sums are enough for a GPU, none longer than
an image. Sums are made in float32, as Inductor's are; their order differs. Found by counting (``docs/gpu.md``).

A gradient that is taken to float32 for a sum and back for a product is the gradient itself, and no copy of it. Where a
sum in float32 and a product take the same gradient, the product comes first: it has the gradient written, which the sum
then reads in its narrow format.
"""

from typing import Any, Final

import torch
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

_MM: Final = torch.ops.aten.mm.default
_SUM: Final = torch.ops.aten.sum.dim_IntList
_CONVERT: Final = torch.ops.prims.convert_element_type.default
_VIEWS: Final = (torch.ops.aten.view.default, torch.ops.aten.reshape.default)


class BiasSums(CustomGraphPass):
    """A pass over Inductor's graphs: ``torch._inductor.config.post_grad_custom_post_pass``.

    Args:
        device_type: of the tensors whose sums are changed.
    """

    def __init__(self, device_type: str = "cuda") -> None:
        self.device_type = device_type

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            if (before := _before_round_trip(node)) is not None:
                node.replace_all_uses_with(before)
                graph.erase_node(node)
                continue
            if node.target is _SUM and (product := _product_of_summed(node)) is not None:
                _bring_before(node.args[0], product)
            made = _by_image(node)
            if made is not None and made.meta["val"].device.type == self.device_type:
                _split(graph, node, made)

    def uuid(self) -> Any:
        """Of the cache of compiled graphs: what this file says."""
        return get_hash_for_files((__file__,), self.device_type)


def _before_round_trip(node: fx.Node) -> fx.Node | None:
    """What came before two casts, the first of which lost nothing and the second of which leads back; else None."""
    wide: Any = node.args[0] if node.target is _CONVERT else None
    if not isinstance(wide, fx.Node) or wide.target is not _CONVERT or not isinstance(wide.args[0], fx.Node):
        return None
    types = [one.meta["val"].dtype for one in (wide.args[0], wide, node)]
    return wide.args[0] if types[0] == types[2] and torch.promote_types(types[0], types[1]) == types[1] else None


def _product_of_summed(node: fx.Node) -> fx.Node | None:
    """The first product that takes, as it is, what a sum takes in float32; None where there is none."""
    wide: Any = node.args[0]
    if wide.target is not _CONVERT or wide.meta["val"].dtype != torch.float32:
        return None
    views = [view for view in wide.args[0].users if view.target in _VIEWS]
    return next((user for view in views for user in view.users if user.target is _MM), None)


def _bring_before(place: fx.Node, product: fx.Node) -> None:
    """Move a product, and what it takes, before a node that it does not depend on; otherwise leave all as it is."""
    waiting, moved = [product], []
    while waiting:
        node = waiting.pop()
        if node is place:
            return
        if node > place and node not in moved:
            moved.append(node)
            waiting += node.all_input_nodes
    for node in sorted(moved):
        place.prepend(node)


def _by_image(node: fx.Node) -> fx.Node | None:
    """What a sum over images and tokens together sums, as it was made, (images, tokens, ...); None for other nodes."""
    if node.op != "call_function" or node.target is not _SUM or list(node.args[1]) != [0]:  # type: ignore[arg-type]
        return None
    summed: Any = node.args[0]
    made = summed
    while made.op == "call_function" and made.target in _VIEWS:
        made = made.args[0]
    rows, value = summed.meta["val"].shape, made.meta["val"]
    if made is summed or len(rows) != 2 or not isinstance(rows[1], int) or value.dim() < 3:
        return None
    return made if value.shape[0] * value.shape[1] == rows[0] and value.shape[0] > 1 else None


def _split(graph: fx.Graph, node: fx.Node, made: fx.Node) -> None:
    value: Tensor = node.meta["val"]
    with graph.inserting_before(node):
        of_images = _call(graph, _SUM, made, [1], dtype=torch.float32)
        flat = _call(graph, torch.ops.aten.reshape.default, of_images, [-1, value.shape[-1]])
        total = _call(graph, _SUM, flat, [0], value.dim() > 1, dtype=value.dtype)
    node.replace_all_uses_with(total)
    graph.erase_node(node)


def _call(graph: fx.Graph, target: Any, *args: Any, **keywords: Any) -> fx.Node:
    """A node with its fake value, which Inductor reads."""
    made = graph.call_function(target, args, keywords)
    made.meta["val"] = target(*(one.meta["val"] if isinstance(one, fx.Node) else one for one in args), **keywords)
    return made
