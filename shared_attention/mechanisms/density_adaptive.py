"""Density adaptive attention (DAAM): weights are how likely each value is among the others."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor, nn

from shared_attention.errors import unsupported
from shared_attention.grid import accept_grid, blank
from shared_attention.masks import Mask
from shared_attention.references.density_adaptive import reference_density_adaptive
from shared_attention.spec import Capabilities, MechanismSpec, Option

EPS = 1e-8


class DensityAdaptiveAttention(nn.Module):
    """Multi-head density adaptive attention on `[B, L, C]`.

    Along the axis, with mean μ and unbiased variance σ² of x: g_k(x) = N(x; μ + δ_k, c_k² σ²) for
    the K learned offsets δ and widths c of a head; w = Π_k g_k / Σ_axis Π_k g_k; y = w · x.

    Along "time", the default, every channel is weighed over its positions and heads are groups of
    channels. Along "channels", every position is weighed over the channels of each head; then no
    position depends on another. Weights sum to 1 along the axis, so y is small: models add x to
    it.

    The published code multiplies the Gaussians as above though papers speak of a mixture;
    `combine="mixture"` sums them. It forms densities, which vanish far from the mean, and divides
    by their sum, at least 1e-8; here logarithms are normalised, and the product is one quadratic
    function of x. Along time its heads are consecutive pieces of the sequence, each with statistics
    of its own, so what a head is depends on the length; `form="published"` does that. A sequence
    of one position has variance 0 here and NaN there. Statistics and weights leave padding out.

    Args:
        channels: C, divisible by num_heads.
        num_heads: Heads.
        num_gaussians: K.
        axis: "time" or "channels".
        combine: "product" or "mixture".
        form: "corrected" or "published"; they differ along time only.

    Raises:
        ValueError: A size is out of range or a name unknown.

    Source: Ioannides et al., Density Adaptive Attention-based Speech Network, Interspeech 2024;
    Density Adaptive Attention is All You Need, 2024.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 4,
        num_gaussians: int = 4,
        axis: Literal["time", "channels"] = "time",
        combine: Literal["product", "mixture"] = "product",
        form: Literal["corrected", "published"] = "corrected",
    ) -> None:
        super().__init__()
        if num_heads < 1 or channels % num_heads:
            raise ValueError(
                f"density_adaptive: num_heads got {num_heads}, expected a divisor of {channels}, "
                "the channels"
            )
        if num_gaussians < 1:
            raise ValueError(
                f"density_adaptive: num_gaussians got {num_gaussians}, expected at least 1"
            )
        names = {"axis": axis, "combine": combine, "form": form}
        for option in SPEC.options:
            if option.name in names:
                option.check("density_adaptive", names[option.name])
        self.channels, self.num_heads = channels, num_heads
        self.axis, self.combine, self.form = axis, combine, form
        self.offsets = nn.Parameter(torch.zeros(num_heads, num_gaussians))
        self.log_widths = nn.Parameter(torch.randn(num_heads, num_gaussians))

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Weigh `x [B, L, C]`.

        Args:
            x: `[B, L, C]`.
            mask: `masks.keys(valid)`, valid `[B, L]`.

        Returns:
            `[B, L, C]`, zero where not valid.

        Raises:
            ValueError: Inputs of another shape or type, or in the published form fewer positions
                than heads.
            UnsupportedError: The mask is not one of keys, or the form is published.
        """
        valid = accept_grid(SPEC, x, self.channels, mask)
        x = blank(x, valid)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.axis == "channels":
            heads = wide.unflatten(-1, (self.num_heads, -1))
            return (x * self._weights(heads, -1, None, self._head_shape).flatten(2)).to(x.dtype)
        if self.form == "published":
            return (x * self._pieces(wide, valid)).to(x.dtype)
        return blank(x * self._weights(wide, 1, valid, self._of_channels), valid).to(x.dtype)

    def _head_shape(self, parameter: Tensor) -> Tensor:
        """One value per head, to go with `[B, L, H, C / H]`."""
        return parameter[:, None]

    def _of_channels(self, parameter: Tensor) -> Tensor:
        """One value per head, given to each of its channels."""
        return parameter.repeat_interleave(self.channels // self.num_heads)

    def _pieces(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Weights of consecutive pieces of the sequence, one per head."""
        if valid is not None:
            raise unsupported(
                "density_adaptive", "key_padding", "key padding in its published form"
            )
        size = x.shape[1] // self.num_heads
        if not size:
            raise ValueError(
                f"density_adaptive: x has length {x.shape[1]}, expected at least "
                f"{self.num_heads}, the heads of the published form"
            )
        sizes = [size] * (self.num_heads - 1)
        parts = x.split([*sizes, x.shape[1] - sum(sizes)], 1)
        weights = [
            self._weights(part, 1, None, itemgetter(head)) for head, part in enumerate(parts)
        ]
        return torch.cat(weights, 1)

    def _weights(
        self, x: Tensor, axis: int, valid: Tensor | None, spread: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Normalised density along `axis`, with head parameters laid out by `spread`."""
        count = x.shape[axis] if valid is None else valid.sum(axis, keepdim=True).clamp(min=1)
        centred = blank(x - x.sum(axis, keepdim=True) / count, valid)
        freedom = max(1, count - 1) if isinstance(count, int) else (count - 1).clamp(min=1)
        deviation = (centred.square().sum(axis, keepdim=True) / freedom + EPS).sqrt()
        z = centred / deviation
        precision = torch.exp(-2 * self.log_widths.to(z.dtype))
        offsets = self.offsets.to(z.dtype)
        if self.combine == "product":
            curve, slope = spread(precision.sum(1)), spread((precision * offsets).sum(1))
            score = z * (slope / deviation - curve / 2 * z)
        else:
            terms = [
                spread(precision[:, k]) / -2 * (z - spread(offsets[:, k]) / deviation).square()
                - spread(self.log_widths[:, k].to(z.dtype))
                for k in range(offsets.shape[1])
            ]
            score = torch.logsumexp(torch.stack(terms), 0)
        if valid is not None:
            score = score.masked_fill(~valid, torch.finfo(score.dtype).min)
        return score.softmax(axis)


SPEC = MechanismSpec(
    name="density_adaptive",
    family="mixer",
    title="Density adaptive attention (DAAM)",
    paper="Ioannides et al., Density Adaptive Attention-based Speech Network: Enhancing Feature "
    "Understanding for Mental Health Disorders, Interspeech 2024 (arXiv 2409.00391)",
    equation="y = x · Π_k N(x; μ + δ_k, c_k² σ²) / Σ_axis Π_k N(x; μ + δ_k, c_k² σ²)",
    complexity="O(L · C)",
    when_to_use="Picking out informative segments of speech features with few parameters.",
    correctness="Equal to the official class with the same weights in the published form and along "
    "channels; to a float64 reference that forms densities.",
    capabilities=Capabilities(key_padding=True, linear_in_v=False),
    options=(
        Option("num_heads", int, 4, "heads: groups of channels with their own Gaussians"),
        Option("num_gaussians", int, 4, "Gaussians of a head"),
        Option("axis", str, "time", "along which densities are normalised", ("time", "channels")),
        Option(
            "combine", str, "product", "how the Gaussians are combined", ("product", "mixture")
        ),
        Option(
            "form", str, "corrected", "published: heads are pieces of the sequence",
            ("corrected", "published"),
        ),
    ),
    module=DensityAdaptiveAttention,
    reference=reference_density_adaptive,
)  # fmt: skip
