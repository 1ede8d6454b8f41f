"""Multi-head attention along the edges of a graph, with features, types and biases of edges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.linear import Linear
from shared_attention.primitives.edge_products import edge_scores, edge_sums
from shared_attention.primitives.segment_softmax import segment_softmax
from shared_attention.references.graph_attention import reference_graph_attention
from shared_attention.spec import Capabilities, MechanismSpec, Option


class GraphAttention(nn.Module):
    """Attend from each node to the sources of its incoming edges.

    For an edge e from j to i, of type t and with features f,
    s_e = q_i (k_j + W_f f)ᵀ / √d + b_t + bias_e, A = softmax of s over the edges into i, and
    out_i = Σ_e A_e (v_j + W_f f + u_t). Edge features enter keys and values by one map.

    W_f is never applied to edges: q_i (W_f f)ᵀ = (q_i W_f) fᵀ and Σ A_e W_f f = W_f Σ A_e f, so
    it costs as much as the nodes do. Nodes without an incoming edge get zero: there is no root
    weight and no output projection (PyG's TransformerConv with `root_weight=False`).

    Args:
        channels: Width of node inputs and outputs.
        num_heads: Heads; must divide `channels`.
        edge_dim: Width of edge features; 0 for none.
        edge_types: Number of edge types, each with a bias b for every head and a value u; 0 for
            none. Hop distances of a skeleton are types (`shared_attention.priors`).
        qkv_bias: Whether the query, key and value projections have biases.

    Raises:
        ValueError: Sizes do not fit together.

    Source: Shi et al., Masked Label Prediction (UniMP), IJCAI 2021, eq. 1-4; typed edges after
    HopFIR, ICCV 2023, and the structural biases of Graphormer, NeurIPS 2021.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 4,
        edge_dim: int = 0,
        edge_types: int = 0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f"graph_attention: num_heads {num_heads} does not divide channels {channels}"
            )
        self.channels, self.num_heads = channels, num_heads
        self.edge_dim, self.edge_types = edge_dim, edge_types
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        if edge_dim:
            self.edge = Linear(edge_dim, channels, bias=False)
        if edge_types:
            self.type_bias = nn.Parameter(torch.zeros(edge_types, num_heads))
            self.type_value = nn.Parameter(torch.zeros(edge_types, channels))

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_features: Tensor | None = None,
        edge_type: Tensor | None = None,
        edge_bias: Tensor | None = None,
    ) -> Tensor:
        """Attend along edges.

        Args:
            x: Nodes `[N, C]`; graphs of a batch side by side.
            edge_index: int64 `[2, E]`, source and target of each edge.
            edge_features: `[E, edge_dim]`.
            edge_type: int64 `[E]` in 0..edge_types-1.
            edge_bias: Added to the scores, `[E, heads]` or `[E, 1]`; -inf hides an edge.

        Returns:
            `[N, C]`; zero for nodes without an incoming edge.

        Raises:
            ValueError: The tensors do not fit together.
        """
        self._check(x, edge_index, edge_features, edge_type, edge_bias)
        nodes = len(x)
        source, target = edge_index
        wide = torch.promote_types(x.dtype, torch.float32)
        qkv = self.qkv(x).to(wide).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.unbind(1)
        q = q / math.sqrt(q.shape[-1])
        scores = edge_scores(q, k, source, target)
        if edge_features is not None:
            features = edge_features.to(wide)
            edge = self.edge.weight.to(wide).unflatten(0, (self.num_heads, -1))
            asked = torch.einsum("nhd,hdf->nhf", q, edge)
            scores = scores + edge_scores(asked, features[:, None], None, target)
        if edge_type is not None:
            scores = scores + self.type_bias.to(wide).index_select(0, edge_type)
        if edge_bias is not None:
            scores = scores + edge_bias.to(wide)
        weights = segment_softmax(scores, target, nodes)
        out = edge_sums(weights, v, source, target, nodes)
        if edge_features is not None:
            seen = edge_sums(weights, features[:, None], None, target, nodes)
            out = out + torch.einsum("nhf,hdf->nhd", seen, edge)
        if edge_type is not None:
            cell = target * self.edge_types + edge_type
            share = weights.new_zeros(nodes * self.edge_types, self.num_heads)
            share = share.index_add(0, cell, weights).unflatten(0, (nodes, -1))
            values = self.type_value.to(wide).unflatten(-1, (self.num_heads, -1))
            out = out + torch.einsum("nth,thd->nhd", share, values)
        return out.flatten(1).to(x.dtype)

    def _check(
        self,
        x: Tensor,
        edge_index: Tensor,
        edge_features: Tensor | None,
        edge_type: Tensor | None,
        edge_bias: Tensor | None,
    ) -> None:
        if x.dim() != 2 or not x.is_floating_point() or x.shape[1] != self.channels:
            raise ValueError(
                f"graph_attention: x is {x.dtype} of shape {list(x.shape)}, "
                f"expected floats [nodes, {self.channels}]"
            )
        if edge_index.dtype != torch.int64 or edge_index.dim() != 2 or len(edge_index) != 2:
            raise ValueError(
                f"graph_attention: edge_index is {edge_index.dtype} of shape "
                f"{list(edge_index.shape)}, expected int64 [2, edges]"
            )
        edges = edge_index.shape[1]
        for name, given, built in (
            ("edge_features", edge_features, self.edge_dim),
            ("edge_type", edge_type, self.edge_types),
        ):
            if (given is None) != (built == 0):
                raise ValueError(
                    f"graph_attention: {name} are {'not given' if given is None else 'given'}, "
                    f"but the layer was built for {built}"
                )
        if edge_type is not None and (edge_type.dtype, tuple(edge_type.shape)) != (
            torch.int64,
            (edges,),
        ):
            raise ValueError(
                f"graph_attention: edge_type is {edge_type.dtype} of shape "
                f"{list(edge_type.shape)}, expected int64 {[edges]}"
            )
        for name, given, widths in (
            ("edge_features", edge_features, (self.edge_dim,)),
            ("edge_bias", edge_bias, (1, self.num_heads)),
        ):
            if given is None:
                continue
            fits = given.dim() == 2 and len(given) == edges and given.shape[1] in widths
            if not fits or not given.is_floating_point():
                raise ValueError(
                    f"graph_attention: {name} is {given.dtype} of shape {list(given.shape)}, "
                    f"expected floats {[edges, widths[-1]]}"
                )


def sample(batch: int, generator: torch.Generator) -> Mapping[str, Any]:
    """Draw small graphs with every kind of edge attribute, side by side."""
    pairs = torch.tensor([[0, 1, 2, 2, 3, 4, 0, 1], [1, 2, 0, 3, 1, 0, 4, 2]])
    nodes, edges = 5, pairs.shape[1]

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    drawn = [
        (
            draw(nodes, 8),
            draw(edges, 3),
            torch.randint(4, (edges,), generator=generator),
            draw(edges, 2),
        )
        for _ in range(batch)
    ]
    x, features, types, biases = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    return {
        "x": x,
        "edge_index": torch.cat([pairs + nodes * i for i in range(batch)], 1),
        "edge_features": features,
        "edge_type": types,
        "edge_bias": biases,
    }


SPEC = MechanismSpec(
    name="graph_attention",
    family="graph",
    title="Graph attention with edge features and types",
    paper="Shi et al., Masked Label Prediction: Unified Message Passing Model, IJCAI 2021 "
    "(arXiv:2009.03509)",
    equation="out_i = Σ_e A_e (v_j + W_f f_e + u_t), "
    "A = softmax_{e into i}(q_i (k_j + W_f f_e)ᵀ / √d + b_t + bias_e)",
    complexity="O(N · C · (C + heads · edge_dim) + E · C)",
    when_to_use="Nodes with given relations: molecules, skeletons, networks.",
    correctness="Against a node-by-node float64 reference and PyG's TransformerConv.",
    capabilities=Capabilities(linear_in_v=False),
    options=(
        Option("num_heads", int, 4, "heads; must divide channels"),
        Option("edge_dim", int, 0, "width of edge features; 0 for none"),
        Option("edge_types", int, 0, "number of edge types; 0 for none"),
        Option("qkv_bias", bool, True, "whether query, key and value projections have biases"),
    ),
    module=GraphAttention,
    reference=reference_graph_attention,
    example={"num_heads": 2, "edge_dim": 3, "edge_types": 4},
    sample=sample,
)
