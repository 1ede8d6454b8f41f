"""Histogram self-attention: pixels are sorted into bins of like intensity, wherever they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.grid import accept_grid
from shared_attention.masks import Mask
from shared_attention.primitives.depthwise import depthwise_conv
from shared_attention.primitives.permutation import ascending, put_back, take
from shared_attention.references.histogram import reference_histogram
from shared_attention.spec import Capabilities, MechanismSpec, Option


class HistogramAttention(nn.Module):
    """Dynamic-range histogram self-attention on images.

    1. The first half of the channels is sorted along columns, then along rows.
    2. q_1, k_1, q_2, k_2, v = 3x3 depthwise convolution of W x, C channels each.
    3. Each channel's pixels are put into the order of v, and cut into as many bins as there are
       heads: bins of consecutive ranks with q_1, k_1, and bins of every n-th rank with q_2, k_2.
    4. Within a head the rows are (channel, bin) pairs; row r attends to row s with
       e^{a_rs} / (1 + Σ_s e^{a_rs}), a = temperature · cosine(q_r, k_s).
    5. The two results are multiplied, put back in place and projected, and the first half of the
       output channels is put back where step 1 took its pixels from.

    The published code writes the sorted pixels into its input and exponentiates without
    subtracting the maximum; here the input is left alone and no temperature overflows. Bins that
    the pixels do not fill end in zeros, as published. Ranks of nearly equal values depend on
    rounding, so half-precision inputs are computed in float32.

    Args:
        channels: C, even and divisible by num_heads.
        num_heads: Heads, and bins of each channel.
        bias: Whether convolutions have a bias.

    Raises:
        ValueError: The sizes do not fit together.

    Source: Sun et al., Histoformer, ECCV 2024, section 3.2.
    """

    def __init__(self, channels: int, *, num_heads: int = 4, bias: bool = False) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads or channels % 2:
            raise ValueError(
                f"histogram: num_heads got {num_heads} with {channels} channels, "
                "expected a divisor of an even number of channels"
            )
        self.channels, self.num_heads = channels, num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 5 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(
            5 * channels, 5 * channels, 3, padding=1, groups=5 * channels, bias=bias
        )
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Attend within `x [B, H, W, C]`.

        Args:
            x: `[B, H, W, C]`.
            mask: None.

        Returns:
            `[B, H, W, C]`.

        Raises:
            ValueError: Inputs of another shape or type.
            UnsupportedError: There is a mask.
        """
        accept_grid(SPEC, x, self.channels, mask)
        half = self.channels // 2
        image = x.to(torch.promote_types(x.dtype, torch.float32)).movedim(-1, 1)
        columns = image[:, :half].mT.contiguous()
        by_column = ascending(columns)
        rows = take(columns, by_column).mT.contiguous()
        by_row = ascending(rows)
        mixed = torch.cat([take(rows, by_row), image[:, half:]], 1).movedim(1, -1)
        mixed = _pointwise(self.qkv, mixed)
        layer = self.qkv_dwconv
        bias = None if layer.bias is None else layer.bias.to(mixed.dtype)
        mixed = depthwise_conv(mixed, layer.weight.to(mixed.dtype), bias)
        mixed = mixed.flatten(1, 2).mT.contiguous()
        q1, k1, q2, k2, v = mixed.unflatten(1, (5, self.channels)).unbind(1)
        order = ascending(v)
        q1, k1, q2, k2, v = (take(y, order) for y in (q1, k1, q2, k2, v))
        out = self._bins(q1, k1, v, consecutive=True) * self._bins(q2, k2, v, consecutive=False)
        out = put_back(out, order).unflatten(2, image.shape[2:])
        out = _pointwise(self.project_out, out.movedim(1, -1)).movedim(-1, 1)
        first = put_back(out[:, :half], by_row).mT
        first = put_back(first.contiguous(), by_column).mT
        return torch.cat([first, out[:, half:]], 1).movedim(1, -1).to(x.dtype)

    def _bins(self, q: Tensor, k: Tensor, v: Tensor, *, consecutive: bool) -> Tensor:
        """Attend between the bins of sorted pixels `[B, C, S]`."""
        pixels, bins = q.shape[-1], self.num_heads
        size = -(-pixels // bins)

        def cut(y: Tensor) -> Tensor:
            y = F.pad(y, (0, size * bins - pixels)).unflatten(1, (self.num_heads, -1))
            if consecutive:
                return y.unflatten(-1, (bins, size)).flatten(2, 3)
            return y.unflatten(-1, (size, bins)).mT.flatten(2, 3)

        q, k = F.normalize(cut(q), dim=-1), F.normalize(cut(k), dim=-1)
        scores = (q @ k.mT) * self.temperature.to(q.dtype)
        out = (_softmax_plus_one(scores) @ cut(v)).unflatten(2, (-1, bins))
        out = out if consecutive else out.mT
        return out.flatten(-2).flatten(1, 2)[..., :pixels]


def _pointwise(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1x1 convolution to `x [B, H, W, C]` in its type."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.flatten(1).to(x.dtype), bias)


def _softmax_plus_one(scores: Tensor) -> Tensor:
    """e^x / (1 + Σ e^x) along the last dimension: a softmax beside an entry of score zero."""
    return F.pad(scores, (0, 1)).softmax(-1)[..., :-1]


SPEC = MechanismSpec(
    name="histogram",
    family="spatial",
    title="Histogram self-attention",
    paper="Sun et al., Restoring Images in Adverse Weather Conditions via Histogram Transformer, "
    "ECCV 2024 (arXiv 2407.10172)",
    equation="y = P⁻¹(A_1 P v · A_2 P v), P sorts by v, "
    "A = softmax_{+1}(τ · cos(q_r, k_s)) between (channel, bin) rows",
    complexity="O(S log S · C + S · C²), S pixels",
    when_to_use="Restoring images in which alike pixels are far apart: rain, snow, haze.",
    correctness="Equal to the official class with the same weights; to a float64 reference that "
    "builds every bin from explicit ranks.",
    capabilities=Capabilities(linear_in_v=False),
    options=(
        Option("num_heads", int, 4, "heads, and bins of each channel"),
        Option("bias", bool, False, "whether convolutions have a bias"),
    ),
    module=HistogramAttention,
    reference=reference_histogram,
    dims=(2,),
    example={"bias": True},
)
