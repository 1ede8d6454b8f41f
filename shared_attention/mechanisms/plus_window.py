"""Plus-shaped attention of token pairs: along the row and the column of a banded grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.grid import accept_grid
from shared_attention.primitives.topk import gather
from shared_attention.references.plus_window import reference_plus_window
from shared_attention.spec import Capabilities, MechanismSpec, Option

PIECE = 2**17
"""Numbers of keys that are read at once, per thread of the processor."""
Three = tuple[Tensor, Tensor, Tensor]


def plus_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    column: Three | None = None,
    valid: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attend from each pair (i, j) with |i - j| <= w to the pairs of its row and of its column.

    The grid holds the band only: cell (i, o) is the pair (i, i + o - w) of M = 2 w + 1 offsets
    o. Pairs beyond either end of the sequence are hidden, also in columns, which the published
    code rolls around the ends and hides by its mask; there True means hidden, here visible.

    Convolutions, normalisation and the projection that joins both halves belong to the model.
    For rotary positions along a column, rotate its queries and keys by 2 w - o.

    Args:
        q: Queries along rows `[B, H, N, M, D]`.
        k: Keys along rows, of the same shape.
        v: Values along rows `[B, H, N, M, Dv]`.
        column: Queries, keys and values along columns; those of the rows where None.
        valid: Cells that are real, bool `[B, N, M]`; the others are neither read nor written.
        scale: Defaults to 1 / sqrt(D).

    Returns:
        `[B, H, N, M, 2 Dv]`: along the row, then along the column; zero in hidden cells.

    Raises:
        ValueError: The tensors are not grids of an odd number of offsets that fit together.

    Source: Ding et al., SeNER, AAAI 2025, section 3.2 (BiSPA).
    """
    across = (q, k, v) if column is None else column
    _check(q, k, v, across, valid)
    rows, offsets = q.shape[2:4]
    half = offsets // 2
    place = torch.arange(rows, device=q.device)[:, None]
    shift = torch.arange(offsets, device=q.device) - half
    other = place + shift
    real = ((other >= 0) & (other < rows))[None]
    real = real if valid is None else real & valid
    into = place - shift
    inside = (into >= 0) & (into < rows)
    index = into.clamp(0, rows - 1) * offsets + shift + half
    seen = real.flatten(1)[:, index] & inside
    if not torch.compiler.is_compiling() and not _needs_gradients((q, k, v, *across)):
        return _in_pieces((q, k, v), across, real, seen, index, inside, scale)
    row = _attend(q, k, v, real, scale)
    one, key, value = (_read(x, index) for x in across)
    found = _attend(one, key, value, seen, scale)
    back = other.clamp(0, rows - 1) * offsets + shift + half
    out = torch.cat([row, _read(found, back)], dim=-1)
    return out.masked_fill(~real[:, None, ..., None], 0)


def _needs_gradients(tensors: tuple[Tensor, ...]) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def _in_pieces(
    along: Three,
    across: Three,
    real: Tensor,
    seen: Tensor,
    index: Tensor,
    inside: Tensor,
    scale: float | None,
) -> Tensor:
    """The same without gradients, some rows and columns at a time, which stay in the cache."""
    batch, heads, rows, offsets, _ = along[0].shape
    width, wide = along[2].shape[-1], across[2].shape[-1]
    out = along[2].new_empty(batch, heads, rows, offsets, width + wide)
    cells = out.view(-1, width + wide)[:, width:]
    each = batch * heads * offsets * max(along[0].shape[-1], width, wide)
    piece = max(PIECE * torch.get_num_threads() // max(each, 1), 1)
    grids = torch.arange(batch * heads, device=out.device) * rows * offsets
    grids = grids.view(batch, heads, 1, 1)
    flat = [x.reshape(-1, x.shape[-1]) for x in across]
    for at in range(0, rows, piece):
        own = slice(at, at + piece)
        q, k, v = (x[:, :, own] for x in along)
        out[:, :, own, :, :width] = _attend(q, k, v, real[:, own], scale)
        column = grids + index[own]
        q, k, v = (x.index_select(0, column.flatten()).view(*column.shape, -1) for x in flat)
        found = _attend(q, k, v, seen[:, own], scale).flatten(0, 3)
        there = inside[own].expand(batch, heads, -1, -1).flatten()
        column = column.flatten()
        if not there.all():
            column, found = column[there], found[there]
        cells.index_copy_(0, column, found)
    for at in range(0, rows, piece):
        own = slice(at, at + piece)
        if not _every(real[:, own]):
            out[:, :, own].masked_fill_(~real[:, None, own, :, None], 0)
    return out


def _every(real: Tensor) -> bool:
    """Say whether all cells are real; where asking is slow, assume that some are not."""
    return real.device.type == "cpu" and not torch.compiler.is_compiling() and bool(real.all())


def _attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor, scale: float | None) -> Tensor:
    """Attend within each row of the grid to the cells that are real."""
    batch, _, rows, offsets, _ = q.shape
    mask = None
    if not _every(real):
        hidden = ~real[:, None, ..., None]
        k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
        mask = real.expand(batch, -1, -1).flatten(0, 1)[:, None, None].expand(-1, -1, offsets, -1)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return out.unflatten(0, (batch, rows)).transpose(1, 2)


def _read(x: Tensor, index: Tensor) -> Tensor:
    """Read cells `index [N, M]` of `x [B, H, N, M, D]`."""
    flat = gather(x.flatten(2, 3), index.flatten().expand(*x.shape[:2], -1))
    return flat.unflatten(2, index.shape)


def _check(q: Tensor, k: Tensor, v: Tensor, across: Three, valid: Tensor | None) -> None:
    for name, x in (("q", q), ("k", k), ("v", v), *zip(("q", "k", "v"), across, strict=True)):
        if x.dim() != 5 or x.shape[:4] != q.shape[:4] or x.shape[3] % 2 == 0:
            raise ValueError(
                f"plus_window: {name} has shape {list(x.shape)}, expected [batch, heads, rows, "
                "an odd number of offsets, dim], the same for all but dim"
            )
    expected = [q.shape[0], *q.shape[2:4]] if q.dim() == 5 else []
    if valid is not None and list(valid.shape) != expected:
        raise ValueError(
            f"plus_window: valid has shape {list(valid.shape)}, "
            f"expected [batch, rows, offsets] = {expected}"
        )


class PlusWindow(nn.Module):
    """`plus_window_attention` of pair features, with projections.

    Args:
        channels: C, which `num_heads` divides.
        num_heads: Heads; the paper has one.

    Raises:
        ValueError: `num_heads` does not divide `channels`.
    """

    def __init__(self, channels: int, num_heads: int = 1) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f"plus_window: num_heads {num_heads} does not divide channels {channels}"
            )
        self.channels = channels
        self.num_heads = num_heads
        self.project_in = nn.Linear(channels, 3 * channels)
        self.project_out = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Attend within `x [B, N, M, C]`, cell (i, o) being the pair (i, i + o - M // 2).

        Args:
            x: Features of the pairs in a band of M = 2 w + 1 offsets.
            valid: Pairs that are real, bool `[B, N, M]`; the others are zero in the output.

        Returns:
            `[B, N, M, C]`.

        Raises:
            ValueError: `x` or `valid` has another shape, or M is even.
        """
        accept_grid(SPEC, x, self.channels)
        if valid is not None:
            x = x.masked_fill(~valid[..., None], 0)
        fused = self.project_in(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = fused.permute(3, 0, 4, 1, 2, 5)
        out = self.project_out(
            plus_window_attention(q, k, v, valid=valid).permute(0, 2, 3, 1, 4).flatten(3)
        )
        rows, offsets = x.shape[1:3]
        other = torch.arange(rows, device=x.device)[:, None] + torch.arange(
            offsets, device=x.device
        )
        inside = (other >= offsets // 2) & (other < rows + offsets // 2)
        real = inside if valid is None else inside & valid
        return out.masked_fill(~real[..., None], 0)


def _sample(batch: int, generator: torch.Generator) -> dict[str, Tensor]:
    x = torch.randn(batch, 6, 5, 8, generator=generator, dtype=torch.float64)
    return {"x": x, "valid": torch.rand(batch, 6, 5, generator=generator) > 0.2}


SPEC = MechanismSpec(
    name="plus_window",
    family="spatial",
    title="Sliding-window plus-shaped attention (BiSPA)",
    paper="Ding et al., Small Language Model Makes an Effective Long Text Extractor (SeNER), "
    "AAAI 2025 (arXiv:2502.07286)",
    equation="out_ij = W [Σ_j' softmax(q_ij k_ij'ᵀ / √d) v_ij', "
    "Σ_i' softmax(q_ij k_i'jᵀ / √d) v_i'j] over |i - j'| <= w, |i' - j| <= w",
    complexity="O(N · w² · C) for a band of N · (2 w + 1) pairs",
    when_to_use="Scores of token pairs that lie near each other, as spans in long texts.",
    correctness="Against masked softmax over the whole N × N grid and pair by pair in float64; "
    "equal to the official code's attention.",
    capabilities=Capabilities(linear_in_v=False),
    options=(Option("num_heads", int, 1, "heads"),),
    module=PlusWindow,
    reference=reference_plus_window,
    dims=(2,),
    sample=_sample,
)
