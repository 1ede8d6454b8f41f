"""gⁿConv: recursive gated convolution, interactions of order n between neighbours."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.grid import accept_grid, blank
from shared_attention.masks import Mask
from shared_attention.primitives.depthwise import depthwise_conv
from shared_attention.references.gn_conv import reference_gn_conv
from shared_attention.spec import Capabilities, MechanismSpec, Option


class GnConv(nn.Module):
    """Recursive gated convolution of order n on grids of 1 to 3 dimensions.

    p_0, q_0, ..., q_{n-1} = W_in x + b, of C / 2^{n-1} and C / 2^{n-1}, ..., C / 2, C channels;
    p_1 = p_0 · s D(q_0), p_{k+1} = (W_k p_k + b_k) · s D(q_k); y = W_out p_n + b,
    with D a depthwise convolution over all q at once.

    s is 1/3, as in every model of the paper; the default of the published class is 1. The
    published class takes images only, channels first; weights are the same except that its 1x1
    convolutions are linear layers here.

    Padded positions are zero before the convolution, as what lies beyond the edge is, so padding
    changes nothing.

    Args:
        channels: C, divisible by 2^(order - 1).
        order: n, at least 1.
        kernel: Size of the depthwise kernel in every dimension, odd.
        scale: s.
        dims: Dimensions of the grid.

    Raises:
        ValueError: A size is out of range.

    Source: Rao et al., HorNet, NeurIPS 2022, eq. 3.3-3.5.
    """

    def __init__(
        self,
        channels: int,
        *,
        order: int = 5,
        kernel: int = 7,
        scale: float = 1 / 3,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if order < 1 or channels % 2 ** (order - 1):
            raise ValueError(
                f"gn_conv: order got {order} with {channels} channels, "
                "expected at least 1, and channels divisible by 2^(order - 1)"
            )
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"gn_conv: kernel got {kernel}, expected an odd size")
        if dims not in SPEC.dims:
            raise ValueError(f"gn_conv: dims got {dims}, expected 1, 2 or 3")
        self.channels, self.scale, self.dims = channels, scale, dims
        self.widths = [channels // 2**k for k in reversed(range(order))]
        total = sum(self.widths)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.proj_in = nn.Linear(channels, 2 * channels)
        self.dwconv = convolution(total, total, kernel, groups=total)
        self.pws = nn.ModuleList(nn.Linear(narrow, 2 * narrow) for narrow in self.widths[:-1])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix `x [B, *grid, C]`.

        Args:
            x: `[B, *grid, C]`.
            mask: `masks.keys(valid)`, valid `[B, S]`, S the positions of the grid in order.

        Returns:
            `[B, *grid, C]`, zero where not valid.

        Raises:
            ValueError: Inputs of another shape or type.
            UnsupportedError: The mask is not one of keys.
        """
        valid = accept_grid(SPEC, x, self.channels, mask, dims=(self.dims,))
        total = sum(self.widths)
        mixed = F.linear(blank(x, valid), self.proj_in.weight, self.proj_in.bias)
        p, q = mixed.split((self.widths[0], total), -1)
        weight, bias = self.dwconv.weight, self.dwconv.bias
        assert bias is not None
        gates = depthwise_conv(blank(q, valid), weight * self.scale, bias * self.scale)
        first, *rest = gates.split(self.widths, -1)
        p = p * first
        for widen, gate in zip(self.pws, rest, strict=True):
            p = widen(p) * gate
        return blank(self.proj_out(p), valid)


SPEC = MechanismSpec(
    name="gn_conv",
    family="mixer",
    title="Recursive gated convolution (gⁿConv)",
    paper="Rao et al., HorNet: Efficient High-Order Spatial Interactions with Recursive Gated "
    "Convolutions, NeurIPS 2022 (arXiv 2207.14284)",
    equation="p_{k+1} = (W_k p_k) · s DWConv(q_k), k = 0..n-1; y = W_out p_n",
    complexity="O(S · C · (C + K)), S positions, K kernel taps",
    when_to_use="Images and volumes, where what interacts is near; drop-in for attention there.",
    correctness="Equal to the official class with the same weights; to a float64 reference that "
    "shifts the grid tap by tap.",
    capabilities=Capabilities(key_padding=True, linear_in_v=False),
    options=(
        Option("order", int, 5, "order n of the interactions; 2^(n-1) divides the channels"),
        Option("kernel", int, 7, "size of the depthwise kernel, odd"),
        Option("scale", float, 1 / 3, "factor s of every gate"),
        Option("dims", int, 2, "dimensions of the grid"),
    ),
    module=GnConv,
    reference=reference_gn_conv,
    dims=(1, 2, 3),
    example={"channels": 16, "order": 4, "kernel": 5, "dims": 1},
)
