"""Plus-shaped attention of token pairs, one pair at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def reference_plus_window(
    x: Tensor,
    *,
    valid: Tensor | None = None,
    parameters: Mapping[str, Tensor],
    num_heads: int = 1,
) -> Tensor:
    """Return `PlusWindow` `[B, N, M, C]` in float64: each pair looks along its row and column."""
    batch, rows, offsets, channels = x.shape
    half, width = offsets // 2, channels // num_heads
    fused = x.double() @ parameters["project_in.weight"].T + parameters["project_in.bias"]
    q, k, v = fused.split(channels, -1)
    samples = []
    for b in range(batch):
        real = {
            (i, i + o - half): (i, o)
            for i in range(rows)
            for o in range(offsets)
            if 0 <= i + o - half < rows and (valid is None or bool(valid[b, i, o]))
        }
        grid = x.new_zeros(rows, offsets, channels, dtype=torch.float64)
        for (i, j), cell in real.items():
            lines = ([p for p in real if p[0] == i], [p for p in real if p[1] == j])
            found = []
            for h in range(num_heads):
                own = slice(h * width, (h + 1) * width)
                for line in lines:
                    cells = [real[pair] for pair in line]
                    keys = torch.stack([k[b][c][own] for c in cells])
                    values = torch.stack([v[b][c][own] for c in cells])
                    scores = keys @ q[b][cell][own] / math.sqrt(width)
                    found.append(scores.softmax(0) @ values)
            out = torch.cat(found) @ parameters["project_out.weight"].T
            grid = grid.index_put(
                tuple(torch.tensor(n) for n in cell), out + parameters["project_out.bias"]
            )
        samples.append(grid)
    return torch.stack(samples)
