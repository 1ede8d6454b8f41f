"""Hyena: gates and convolutions with implicit filters as long as the input, on any grid."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.errors import unsupported
from shared_attention.grid import accept_grid, blank
from shared_attention.masks import Mask, split
from shared_attention.primitives.depthwise import depthwise_conv
from shared_attention.primitives.long_conv import causal_conv, grid_conv
from shared_attention.references.hyena import reference_hyena
from shared_attention.spec import Capabilities, MechanismSpec, Option

SHORT = 3
"""Size of the short convolution in every dimension."""
FAST, SLOW, TARGET = 0.3, 1.5, 1e-2
"""The windows of the channels decay to TARGET within FAST to SLOW times the reference length."""


class ImplicitFilter(nn.Module):
    """Filter values as a function of the lag: an MLP with sines, times an exponential window.

    h(t) = MLP([t, cos 2πf t', -sin 2πf t'] of every axis) · Π_axes exp(-|δ| t), with
    t = lag / (length - 1), t' = lag / length, `bands` frequencies f from 1e-4 to bands - 1.

    Args:
        channels: Filters.
        axes: Axes of the lag.
        length: Lag at which t is 1. Lags beyond it are as good: nothing is tabulated.
        hidden: Width of the MLP.
        bands: Frequencies of the positional features.
    """

    def __init__(self, channels: int, axes: int, length: int, hidden: int, bands: int) -> None:
        super().__init__()
        self.length, self.bands = length, bands
        self.layers = nn.ModuleList(
            [nn.Linear((2 * bands + 1) * axes, hidden)]
            + [nn.Linear(hidden, hidden) for _ in range(2)]
        )
        self.out = nn.Linear(hidden, channels, bias=False)
        self.frequency = nn.Parameter(torch.ones(hidden))
        fast, slow = math.log(TARGET) / FAST, math.log(TARGET) / SLOW
        self.register_buffer("decay", torch.linspace(slow, fast, channels).abs())
        self.decay: Tensor

    def forward(self, grid: tuple[int, ...]) -> Tensor:
        """Return the filters at all lags of a grid, `[*grid, channels]`."""
        wide = torch.promote_types(self.decay.dtype, torch.float32)
        steps = [torch.arange(size, dtype=wide, device=self.decay.device) for size in grid]
        bands = torch.linspace(
            1e-4, self.bands - 1, self.bands, dtype=wide, device=self.decay.device
        )
        features, window = [], torch.zeros(1, dtype=wide, device=self.decay.device)
        for axis, lag in enumerate(steps):
            lag = lag.view(-1, *[1] * (len(grid) - axis))
            t, angle = lag / (self.length - 1), 2 * math.pi * lag / self.length * bands
            own = torch.cat([t, angle.cos(), -angle.sin()], -1)
            features.append(own.expand(*grid, -1))
            window = window + t
        y = torch.cat(features, -1)
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            y = F.linear(y, layer.weight.to(wide), layer.bias.to(wide))
            y = torch.sin(self.frequency.to(wide) * y)
        return F.linear(y, self.out.weight.to(wide)) * torch.exp(-window * self.decay)


class Hyena(nn.Module):
    """Hyena of order N on grids of 1 to 3 dimensions.

    x_0, ..., x_{N-1}, v = short convolution of (W_in x + b), 3 taps per axis; then
    v <- (h_n * (x_{N-n} · v)) + D_n · x_{N-n} · v for n = 1..N-1, and y = W_out (x_0 · v) + b.
    The filters h_n exist at lags >= 0 of every axis, so position i sees what lies before it along
    every axis: in one dimension Hyena is causal, with a mask or without.

    `directions`: "forward" as above; "sequential" runs the first convolution from the opposite
    corner; "all" computes every combination of directions of the axes with the same filters and
    mixes them with learned weights. `filters`: "joint" is an MLP of the lag along all axes,
    "product" is a product of one filter per axis, convolved axis by axis.

    Differences from the published code: grids of any size and shape, not only squares of the
    size given; no extra factor 1 / (2 · length) on two-dimensional filters; positional features
    are not trained. In one dimension the short convolution is causal (going forward), in more it
    is centred, as published.

    Without a mask the convolution is one Fourier transform, whose rounding errors spread over the
    whole sequence. With `masks.causal()` it is computed such that no later value enters an earlier
    output at all. Padded positions are zero before each convolution and filters depend on lags
    only, so padding on either side changes nothing. There is no state of fixed size: streaming
    is not offered.

    Args:
        channels: C.
        order: N, at least 2.
        dims: Dimensions of the grid.
        length: Lag that the filters' features take as 1: about the longest axis in use.
        directions: "forward", "sequential" or "all".
        filters: "joint" or "product".
        hidden: Width of the filter MLP.
        bands: Frequencies of the lag's features.

    Raises:
        ValueError: A size is out of range or a name unknown.

    Source: Poli et al., Hyena Hierarchy, ICML 2023; Zimerman and Wolf, Multi-Dimensional Hyena
    for Spatial Inductive Bias, AISTATS 2024.
    """

    def __init__(
        self,
        channels: int,
        *,
        order: int = 2,
        dims: int = 1,
        length: int = 1024,
        directions: Literal["forward", "sequential", "all"] = "forward",
        filters: Literal["joint", "product"] = "joint",
        hidden: int = 64,
        bands: int = 1,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("order", order, 2), ("length", length, 2), ("hidden", hidden, 1), ("bands", bands, 1)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"hyena: {name} got {value}, expected at least {least}")
        if dims not in SPEC.dims:
            raise ValueError(f"hyena: dims got {dims}, expected 1, 2 or 3")
        for option in SPEC.options:
            if option.choices:
                option.check("hyena", {"directions": directions, "filters": filters}[option.name])
        self.channels, self.order, self.dims, self.directions = channels, order, dims, directions
        inner = (order + 1) * channels
        self.in_proj = nn.Linear(channels, inner)
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.short = convolution(inner, inner, SHORT, groups=inner)
        separate = filters == "product" and dims > 1
        self.filters = nn.ModuleList(
            ImplicitFilter((order - 1) * channels, 1 if separate else dims, length, hidden, bands)
            for _ in range(dims if separate else 1)
        )
        self.skip = nn.Parameter(torch.randn(order - 1, channels))
        self.mix = nn.Parameter(torch.full((2**dims,), 0.5**dims)) if directions == "all" else None
        self.out_proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Mix `x [B, *grid, C]`.

        Args:
            x: `[B, *grid, C]`.
            mask: `masks.causal()` in one dimension going forward, `masks.keys(valid)` with valid
                `[B, S]`, S the positions of the grid in order, or both.

        Returns:
            `[B, *grid, C]`, zero where not valid.

        Raises:
            ValueError: Inputs of another shape or type.
            UnsupportedError: The mask is not one of these.
        """
        valid = accept_grid(SPEC, x, self.channels, mask, dims=(self.dims,))
        sequence = self.dims == 1 and self.directions == "forward"
        exact = split(mask).causal
        if exact and not sequence:
            what = f"a causal mask with directions={self.directions!r} in {self.dims} dimensions"
            raise unsupported("hyena", "causal", what)
        y = blank(self.in_proj(blank(x, valid)), valid)
        y = depthwise_conv(y, self.short.weight, self.short.bias, causal=sequence)
        *gates, v = y.split(self.channels, -1)
        grid = tuple(x.shape[1:-1])
        kernels = [own(grid if len(self.filters) == 1 else grid[axis : axis + 1])
                   for axis, own in enumerate(self.filters)]  # fmt: skip
        axes = tuple(range(1, 1 + self.dims))
        if self.mix is None:
            first = axes if self.directions == "sequential" else ()
            out = self._recur(gates, v, valid, kernels, exact, first, ())
        else:
            corners = [
                tuple(a for a in axes if number >> (a - 1) & 1) for number in range(2**self.dims)
            ]
            ways = [self._recur(gates, v, valid, kernels, exact, c, c) for c in corners]
            out = torch.einsum("k,k...->...", self.mix, torch.stack(ways))
        return blank(self.out_proj(gates[0] * out), valid)

    def _recur(
        self,
        gates: list[Tensor],
        v: Tensor,
        valid: Tensor | None,
        kernels: list[Tensor],
        exact: bool,
        first: tuple[int, ...],
        rest: tuple[int, ...],
    ) -> Tensor:
        """Gate and convolve N - 1 times; `first` and `rest` are the axes that run backwards."""
        for n, gate in enumerate(reversed(gates[1:])):
            v = blank(v * gate, valid)
            own = [kernel.unflatten(-1, (self.order - 1, -1))[..., n, :] for kernel in kernels]
            back = rest if n else first
            v = _convolve(v.flip(back), own, exact).flip(back) + v * self.skip[n]
        return v


def _convolve(x: Tensor, kernels: list[Tensor], exact: bool) -> Tensor:
    """Convolve `x [B, *grid, C]` along all axes at once, or each with its own filter."""
    wide = torch.promote_types(x.dtype, torch.float32)
    dims = x.dim() - 2
    y = x.to(wide)
    if len(kernels) == 1 and not exact:
        y = grid_conv(y.movedim(-1, 1), kernels[0].movedim(-1, 0)).movedim(1, -1)
        return y.to(x.dtype)
    for axis, kernel in enumerate(kernels, 1):
        series = y.movedim((-1, axis), (0, -1))
        mixed = causal_conv(series.flatten(1, dims).contiguous(), kernel.mT)
        y = mixed.view(series.shape).movedim((0, -1), (-1, axis))
    return y.to(x.dtype)


SPEC = MechanismSpec(
    name="hyena",
    family="mixer",
    title="Hyena and Hyena N-D",
    paper="Zimerman and Wolf, Multi-Dimensional Hyena for Spatial Inductive Bias, AISTATS 2024 "
    "(arXiv 2309.13600); Poli et al., Hyena Hierarchy, ICML 2023 (arXiv 2302.10866)",
    equation="v <- (h_n + D_n δ) * (x_{N-n} · v), n = 1..N-1; y = W (x_0 · v), "
    "h_n(lag) = MLP(lag) · exp(-|δ| lag)",
    complexity="O(S log S · C), S positions",
    when_to_use="Long sequences, and images with few training samples; causal in one dimension.",
    correctness="Equal to the authors' 1-D and 2-D code with the same weights (the 2-D one without "
    "its factor 1 / fft_size); to a float64 reference with explicit filter matrices.",
    capabilities=Capabilities(causal="exact", key_padding=True, linear_in_v=False),
    options=(
        Option("order", int, 2, "order N: N - 1 long convolutions"),
        Option("dims", int, 1, "dimensions of the grid"),
        Option("length", int, 1024, "lag that the filters take as 1: about the longest axis"),
        Option(
            "directions", str, "forward", "from which corners the convolutions run",
            ("forward", "sequential", "all"),
        ),
        Option(
            "filters", str, "joint", "one filter of all axes, or a product of one per axis",
            ("joint", "product"),
        ),
        Option("hidden", int, 64, "width of the filter MLP"),
        Option("bands", int, 1, "frequencies of the lag's features"),
    ),
    module=Hyena,
    reference=reference_hyena,
    dims=(1, 2, 3),
    example={"order": 3, "length": 32, "hidden": 16, "bands": 2},
)  # fmt: skip
