"""Graph attention node by node over its list of incoming edges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_graph_attention(
    x: Tensor,
    edge_index: Tensor,
    parameters: Mapping[str, Tensor],
    *,
    num_heads: int,
    edge_features: Tensor | None = None,
    edge_type: Tensor | None = None,
    edge_bias: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Form the key and value of every edge and attend.

    Args:
        x: `[N, C]`.
        edge_index: `[2, E]`.
        parameters: Of the module, by name.
        num_heads: Heads.
        edge_features: `[E, F]` or None.
        edge_type: `[E]` or None.
        edge_bias: `[E, H]` or None.
        **options: Not needed: the parameters show them.

    Returns:
        float64 `[N, C]`.
    """
    qkv = F.linear(x.double(), parameters["qkv.weight"], parameters.get("qkv.bias"))
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(1)
    source, target = edge_index.tolist()
    rows = []
    for node in range(len(x)):
        edges = [e for e, into in enumerate(target) if into == node]
        if not edges:
            rows.append(torch.zeros_like(q[node]).flatten())
            continue
        keys, values, added = [], [], []
        for e in edges:
            key, value = k[source[e]], v[source[e]]
            bias = torch.zeros(num_heads, dtype=torch.float64)
            if edge_features is not None:
                edge = F.linear(edge_features[e].double(), parameters["edge.weight"])
                key, value = key + edge.view_as(key), value + edge.view_as(value)
            if edge_type is not None:
                bias = bias + parameters["type_bias"][edge_type[e]]
                value = value + parameters["type_value"][edge_type[e]].view_as(value)
            if edge_bias is not None:
                bias = bias + edge_bias[e].double()
            keys.append(key)
            values.append(value)
            added.append(bias)
        scores = torch.einsum("hd,ehd->eh", q[node], torch.stack(keys)) / q.shape[-1] ** 0.5
        weights = (scores + torch.stack(added)).softmax(0)
        rows.append(torch.einsum("eh,ehd->hd", weights, torch.stack(values)).flatten())
    return torch.stack(rows)
