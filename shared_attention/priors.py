"""What is known of a skeleton or a sequence of frames, as biases or as typed edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def adjacency(edges: Sequence[tuple[int, int]], count: int) -> Tensor:
    """Return the symmetric adjacency `[count, count]`, bool, of an undirected graph.

    Args:
        edges: Pairs of node numbers, such as the bones of a skeleton.
        count: Number of nodes.

    Raises:
        ValueError: An edge names a node that does not exist.
    """
    joined = torch.zeros(count, count, dtype=torch.bool)
    for a, b in edges:
        if not (0 <= a < count and 0 <= b < count):
            raise ValueError(f"adjacency: edge {(a, b)} names nodes outside 0..{count - 1}")
        joined[a, b] = joined[b, a] = True
    return joined


def chain(frames: int) -> Tensor:
    """Return the adjacency of consecutive frames: the trajectory of a joint (KTPFormer)."""
    return adjacency([(i, i + 1) for i in range(frames - 1)], frames)


def hop_distance(joined: Tensor) -> Tensor:
    """Return the number of hops between nodes, int64 `[n, n]`; -1 where there is no path.

    Args:
        joined: Adjacency, bool `[n, n]`.
    """
    reached = torch.eye(len(joined), dtype=torch.bool, device=joined.device)
    distance = torch.where(reached, 0, -1)
    for hops in range(1, len(joined)):
        further = (reached.float() @ joined.float()) > 0
        distance = torch.where(further & (distance < 0), hops, distance)
        reached = reached | further
    return distance


def hop_masks(distance: Tensor, hops: int) -> Tensor:
    """Return who is exactly k hops away, bool `[hops + 1, n, n]` for k from 0: HopFIR's groups."""
    return distance == torch.arange(hops + 1, device=distance.device)[:, None, None]


def typed_edges(types: Tensor, graphs: int = 1) -> tuple[Tensor, Tensor]:
    """List the pairs of nodes that have a type as edges, for `graphs` copies side by side.

    Args:
        types: int64 `[n, n]` by target and source, such as `hop_distance`; negative is no edge.
        graphs: Number of copies.

    Returns:
        `edge_index [2, E]` (source, target) and `edge_type [E]`.
    """
    target, source = (types >= 0).nonzero(as_tuple=True)
    start = torch.arange(graphs, device=types.device)[:, None] * len(types)
    pairs = torch.stack([(source + start).flatten(), (target + start).flatten()])
    return pairs, types[target, source].repeat(graphs)


class HopBias(nn.Module):
    """A learned score bias for each head and number of hops.

    Args:
        distance: int64 `[n, n]` from `hop_distance`; pairs without a path count as farthest.
        num_heads: Heads.
        hops: Farthest distance told apart; larger ones share its bias.
    """

    def __init__(self, distance: Tensor, num_heads: int, hops: int) -> None:
        super().__init__()
        kinds = torch.where(distance < 0, hops, distance).clamp(max=hops)
        self.kinds: Tensor
        self.register_buffer("kinds", kinds, persistent=False)
        self.table = nn.Parameter(torch.zeros(hops + 1, num_heads))

    def forward(self) -> Tensor:
        """Return the bias `[1, H, n, n]` for `attention(..., bias=)`."""
        return self.table[self.kinds].permute(2, 0, 1)[None]


class LearnedTopology(nn.Module):
    """A known topology plus a learned symmetric one over all pairs: K + (M + Mᵀ) / 2.

    This is the prior of KTPFormer, CVPR 2024: kinematic with the adjacency of a skeleton,
    trajectory with `chain(frames)`. Rows of the known part, self-loops added, sum to one. The
    published code sets the diagonal to one after normalising, so its rows do not, and keeps the
    known part outside the module's state, on one device.

    Args:
        joined: Adjacency, bool `[n, n]`.
        start: Value that the learned part starts with, as published.
    """

    def __init__(self, joined: Tensor, *, start: float = 1e-6) -> None:
        super().__init__()
        looped = (joined | torch.eye(len(joined), dtype=torch.bool)).float()
        self.known: Tensor
        self.register_buffer("known", looped / looped.sum(-1, keepdim=True), persistent=False)
        self.learned = nn.Parameter(torch.full(joined.shape, start))

    def forward(self) -> Tensor:
        """Return `[n, n]`: mixes nodes as `K @ x`, or biases scores as `K[None, None]`."""
        return self.known + (self.learned + self.learned.T) / 2
