"""Multi-scale deformable attention: each query reads a few learned points of a pyramid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.linear import Linear
from shared_attention.primitives.deformable_sampling import Shapes, deformable_sample
from shared_attention.references.deformable import reference_deformable
from shared_attention.spec import Capabilities, MechanismSpec, Option


class DeformableAttention(nn.Module):
    """Attend to sampled points around a reference point, on several levels.

    out_q = W_o Σ_h Σ_lp A_hlp W_v value_l(r_ql + Δ_hlp), where offsets Δ = W_Δ x_q (in positions
    of their level) and weights A = softmax(W_A x_q) over levels and points come from the query.

    Args:
        channels: Width of queries, values and outputs.
        num_heads: Heads; must divide `channels`.
        levels: Levels of the pyramid.
        points: Points that each head reads on each level.
        dims: 2, or 3 to read values lifted by depth distributions.

    Raises:
        ValueError: Sizes do not fit together.

    Source: Zhu et al., Deformable DETR, ICLR 2021, eq. 3; with `dims=3` Li et al., DFA3D, ICCV
    2023, its depth-weighted form. Both published ones run compiled CUDA code (their form in plain
    PyTorch calls `grid_sample` for each level); this one is plain PyTorch on every device.
    """

    name = "deformable"

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 8,
        levels: int = 4,
        points: int = 4,
        dims: int = 2,
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(
                f"{self.name}: num_heads {num_heads} does not divide channels {channels}"
            )
        if dims not in (2, 3):
            raise ValueError(f"{self.name}: dims got {dims}, expected 2 or 3")
        self.channels, self.num_heads, self.dims = channels, num_heads, dims
        self.levels, self.points = levels, points
        self.sampling_offsets = Linear(channels, num_heads * levels * points * dims)
        self.attention_weights = Linear(channels, num_heads * levels * points)
        self.value_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with points on rays around the reference, one direction for each head."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        ray = torch.cat([ray, ray.new_zeros(self.num_heads, self.dims - 2)], -1)
        far = torch.arange(1.0, self.points + 1)[:, None]
        rays = (ray[:, None, None] * far).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(rays.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Shapes,
        depth: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Read the pyramid from every query.

        Args:
            x: Queries `[B, Q, C]`.
            reference_points: `[B, Q, levels, dims]` from 0 to 1, as (x, y) or (x, y, z).
            value: Features `[B, S, C]`, the levels one after the other.
            spatial_shapes: Height and width of each level.
            depth: With three dimensions: `[B, S, D]`, how each feature spreads over depth.
            valid: bool `[B, S]`, features that are real; the others are never read.

        Returns:
            `[B, Q, C]`.

        Raises:
            ValueError: The tensors do not fit together.
        """
        self._check(x, reference_points, value, spatial_shapes, depth, valid)
        wide = torch.promote_types(x.dtype, torch.float32)
        split = (self.num_heads, self.levels, self.points)
        offsets = self.sampling_offsets(x).to(wide).unflatten(-1, (*split, self.dims))
        weights = self.attention_weights(x).to(wide).unflatten(-1, (self.num_heads, -1))
        weights = weights.softmax(-1).unflatten(-1, split[1:])
        deep = [] if depth is None else [depth.shape[2]]
        sizes = offsets.new_tensor([[w, h, *deep] for h, w in spatial_shapes])
        locations = reference_points.to(wide)[:, :, None, :, None] + offsets / sizes[:, None]
        if valid is not None:
            value = value.masked_fill(~valid[..., None], 0)
        value = self.value_proj(value)
        if valid is not None:
            value = value.masked_fill(~valid[..., None], 0)
        value = value.unflatten(-1, (self.num_heads, -1))
        depth = None if depth is None else depth.to(wide)
        out = deformable_sample(value, spatial_shapes, locations, weights, depth)
        return self.output_proj(out.to(x.dtype))

    def _check(
        self,
        x: Tensor,
        reference_points: Tensor,
        value: Tensor,
        shapes: Shapes,
        depth: Tensor | None,
        valid: Tensor | None,
    ) -> None:
        batch, queries = x.shape[:2]
        total = sum(h * w for h, w in shapes)
        if len(shapes) != self.levels:
            raise ValueError(
                f"{self.name}: spatial_shapes has {len(shapes)} levels, expected {self.levels}"
            )
        if (depth is None) != (self.dims == 2):
            raise ValueError(f"{self.name}: depth goes with dims=3, got dims={self.dims}")
        points = (batch, queries, self.levels, self.dims)
        expected: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
            "x": (x, (batch, queries, self.channels)),
            "reference_points": (reference_points, points),
            "value": (value, (batch, total, self.channels)),
            "depth": (depth, (batch, total, depth.shape[-1] if depth is not None else 0)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and (tensor.shape != shape or not tensor.is_floating_point()):
                raise ValueError(
                    f"{self.name}: {name} is {tensor.dtype} of shape {list(tensor.shape)}, "
                    f"expected floats {list(shape)}"
                )
        if valid is not None and (valid.dtype != torch.bool or valid.shape != (batch, total)):
            raise ValueError(
                f"{self.name}: valid is {valid.dtype} of shape {list(valid.shape)}, "
                f"expected bool {[batch, total]}"
            )


def sample(batch: int, generator: torch.Generator, *, depths: int = 0) -> Mapping[str, Any]:
    """Draw small inputs for two levels; points reach a little over the border."""
    shapes = ((5, 4), (3, 2))
    total = sum(h * w for h, w in shapes)
    dims = 3 if depths else 2

    def each(draw: Any, *shape: int) -> Tensor:
        drawn = [draw(*shape, generator=generator, dtype=torch.float64) for _ in range(batch)]
        return torch.stack(drawn)

    drawn = {
        "x": each(torch.randn, 6, 8),
        "reference_points": each(torch.rand, 6, 2, dims),
        "value": each(torch.randn, total, 8),
        "spatial_shapes": shapes,
    }
    if depths:
        drawn["depth"] = each(torch.rand, total, depths)
    return drawn


SPEC = MechanismSpec(
    name="deformable",
    family="spatial",
    title="Multi-scale deformable attention",
    paper="Zhu et al., Deformable DETR, ICLR 2021 (arXiv:2010.04159)",
    equation="out_q = W_o Σ_h Σ_lp A_hlp W_v value_l(r_ql + W_Δ x_q), A = softmax(W_A x_q)",
    complexity="O(Q · levels · points · C) after O(S · C²) projections; free of Q · S",
    when_to_use="Detection and dense prediction on feature pyramids: few points instead of all.",
    correctness="Against grid_sample in float64, gradients included.",
    capabilities=Capabilities(linear_in_v=False),
    options=(
        Option("num_heads", int, 8, "heads; must divide channels"),
        Option("levels", int, 4, "levels of the pyramid"),
        Option("points", int, 4, "points that each head reads on each level"),
    ),
    module=DeformableAttention,
    reference=reference_deformable,
    example={"num_heads": 2, "levels": 2, "points": 3},
    sample=sample,
)
