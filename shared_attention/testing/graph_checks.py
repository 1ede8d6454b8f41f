"""Checks of graph operators: order means nothing, graphs side by side do not meet."""

from __future__ import annotations

import torch
from torch import Tensor

from shared_attention.testing.operator import Inputs, Operator
from shared_attention.testing.report import NotClaimed
from shared_attention.testing.tolerances import assert_close


def _graph(operator: Operator, batch: int = 3) -> Inputs:
    if operator.spec.family != "graph":
        raise NotClaimed("is no graph operator")
    return operator.inputs(batch=batch, grad=False)


def check_node_order(operator: Operator) -> None:
    """Renumbering the nodes renumbers the output."""
    inputs = _graph(operator)
    module = operator.module()
    count = len(inputs["x"])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    place = torch.empty_like(order)
    place[order] = torch.arange(count)
    renamed = {name: x[order] if _is_node_wise(name, x, count) else x for name, x in inputs.items()}
    renamed["edge_index"] = place[inputs["edge_index"]]
    out = operator.run(module, renamed)
    assert_close(out, operator.run(module, inputs)[order], "output with nodes renumbered")


def check_edge_order(operator: Operator) -> None:
    """The order in which edges are listed changes nothing."""
    inputs = _graph(operator)
    module = operator.module()
    edges = inputs["edge_index"].shape[1]
    order = torch.randperm(edges, generator=torch.Generator().manual_seed(2))
    mixed = {name: x[order] if _is_edge_wise(name, x, edges) else x for name, x in inputs.items()}
    mixed["edge_index"] = inputs["edge_index"][:, order]
    out = operator.run(module, mixed)
    assert_close(out, operator.run(module, inputs), "output with edges in another order")


def check_separate_graphs(operator: Operator) -> None:
    """A graph gives the same alone and beside others."""
    whole, first = _graph(operator, 3), _graph(operator, 1)
    module = operator.module()
    count = len(first["x"])
    assert torch.equal(whole["x"][:count], first["x"]), "sample: the first graph changes with batch"
    out = operator.run(module, whole)[:count]
    assert_close(out, operator.run(module, first), "a graph alone and beside others")


def check_isolated_nodes(operator: Operator) -> None:
    """Nodes without an incoming edge get exactly zero, and no NaN."""
    inputs = _graph(operator)
    keep = inputs["edge_index"][1] != 0
    edges = len(keep)
    cut = {name: x[keep] if _is_edge_wise(name, x, edges) else x for name, x in inputs.items()}
    cut["edge_index"] = inputs["edge_index"][:, keep]
    out = operator.run(operator.module(), cut)
    assert (out[0] == 0).all(), "a node without an incoming edge is not exactly zero"
    assert out.isfinite().all(), "output is not finite beside a node without an incoming edge"


def _is_node_wise(name: str, x: object, count: int) -> bool:
    return isinstance(x, Tensor) and not name.startswith("edge") and len(x) == count


def _is_edge_wise(name: str, x: object, edges: int) -> bool:
    return isinstance(x, Tensor) and name.startswith("edge_") and len(x) == edges
