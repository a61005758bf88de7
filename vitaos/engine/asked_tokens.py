"""Compute for the class token alone what only the class token is asked for, where the model is compiled.

A head that reads one token leaves the others of the last block without use: its projection, its MLP and the last norm
are made for all tokens, forward and backward, and all rows of them but one are thrown away. Each of these steps works
token by token, so the token can be chosen before them instead of after. Results are the same but for the order of sums
in products of another size. What anything else looks at (a technique's loss, a returned feature) is left alone.
"""

import operator
from collections.abc import Callable
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

_LAYERS: Final[tuple[Callable[..., Any], ...]] = (F.linear, F.layer_norm, F.gelu, F.silu, F.relu, F.dropout)
"""Functions of the tokens that are their first argument; the others hold no tokens."""
_SUMS: Final[tuple[Callable[..., Any], ...]] = (operator.add, operator.sub, operator.mul, operator.truediv)
_METHODS: Final = ("to", "float")
_TOKEN: Final = "token"  # argument of operators of this project (``techniques.banded_product``)
_TEMPLATE: Final = "new_empty"  # asks a tensor for its type and device only: the draws of stochastic depth


class AskedTokens(CustomGraphPass):
    """A pass over graphs of PyTorch's functions: ``torch._inductor.config.pre_grad_custom_pass``."""

    def __call__(self, graph: fx.Graph) -> None:
        for node in list(graph.nodes):
            token = _token_asked_for(node)
            if token is not None and (found := _only_for(node, list(graph.nodes))):
                _narrow(graph, node, token, found)

    def uuid(self) -> Any:
        """Of the cache of compiled graphs: what this file says."""
        return get_hash_for_files((__file__,))


def _token_asked_for(node: fx.Node) -> int | None:
    """The number of the token in ``x[:, token]`` of tokens x, (B, N, C); None for other nodes."""
    if node.op != "call_function" or node.target is not operator.getitem or not isinstance(node.args[1], tuple):
        return None
    rows, *others = node.args[1]
    shape = _shape(node.args[0])
    if rows != slice(None) or len(others) != 1 or type(others[0]) is not int or len(shape) != 3:
        return None
    return others[0] % shape[1] if isinstance(shape[1], int) else None


def _only_for(asking: fx.Node, nodes: list[fx.Node]) -> list[fx.Node]:
    """The steps, in their order, that work token by token and whose results only `asking` needs in the end."""
    tokens = _shape(asking.args[0])[1]
    found = {asking}
    for node in reversed(nodes[: nodes.index(asking)]):
        users = [user for user in node.users if user.target != _TEMPLATE]
        asked_for = users and all(user in found and not _takes_token(user) for user in users)
        if asked_for and (_takes_token(node) or _is_token_by_token(node, tokens)):
            found.add(node)
    return [node for node in nodes if node in found and node is not asking]


def _is_token_by_token(node: fx.Node, tokens: int) -> bool:
    shape = _shape(node)
    if len(shape) != 3 or shape[1] != tokens:
        return False
    if node.op == "call_method":
        return node.target in _METHODS and not any(isinstance(one, fx.Node) for one in node.args[1:])
    if node.target in _SUMS:
        return all(_may_stand_beside(one, tokens) for one in node.args)
    return node.target in _LAYERS and not _mixes_or_draws(node)


def _takes_token(node: fx.Node) -> bool:
    """Whether it is an operator that can be asked for one token's result, and looks at all tokens for it."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(argument.name == _TOKEN for argument in schema.arguments)


def _mixes_or_draws(node: fx.Node) -> bool:
    """Whether a layer norm reaches over tokens, or a dropout draws for each of them."""
    if node.target is F.layer_norm:
        normalized: Any = node.args[1]
        return len(normalized) != 1
    if node.target is F.dropout:
        rate, training = _argument(node, 1, "p", 0.5), _argument(node, 2, "training", True)
        return rate != 0 and training is not False
    return False


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _may_stand_beside(argument: Any, tokens: int) -> bool:
    """Whether an argument of a sum or a product has tokens, (B, N, C), or the same for all of them."""
    shape = _shape(argument)
    return len(shape) < 2 or (len(shape) == 3 and shape[1] in {1, tokens})


def _narrow(graph: fx.Graph, asking: fx.Node, token: int, found: list[fx.Node]) -> None:
    """Make `found` anew for one token, (B, 1, C), and let `asking` take that."""
    tokens = _shape(asking.args[0])[1]
    narrowed: dict[fx.Node, fx.Node] = {}

    def one_token(argument: fx.Node) -> fx.Node:
        shape = _shape(argument)
        if argument in narrowed or len(shape) != 3 or shape[1] != tokens:
            return narrowed.get(argument, argument)
        rows = (slice(None), slice(token, token + 1))
        narrowed[argument] = graph.call_function(operator.getitem, (argument, rows))
        return narrowed[argument]

    for node in found:
        with graph.inserting_before(node):
            made = graph.node_copy(node, (lambda argument: argument) if _takes_token(node) else one_token)
        if _takes_token(node):
            made.kwargs = {**made.kwargs, _TOKEN: token}
        made.meta["example_value"] = node.meta["example_value"][:, token : token + 1]
        narrowed[node] = made
    asking.replace_input_with(asking.args[0], narrowed[asking.args[0]])  # type: ignore[arg-type, index]
    asking.update_arg(1, (slice(None), 0))
    for node in reversed(found):
        node.replace_all_uses_with(narrowed[node])  # of templates
        graph.erase_node(node)


def _shape(node: Any) -> tuple[Any, ...]:
    """Of the tensor that a node stands for; empty for anything else."""
    value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, Tensor) else ()
