"""3D deformable attention (DFA3D): deformable attention to image features lifted by depth."""

from __future__ import annotations

import dataclasses
from functools import partial

from shared_attention.mechanisms import deformable
from shared_attention.mechanisms.deformable import DeformableAttention


class DeformableAttention3d(DeformableAttention):
    """Read points (x, y, z) of features spread over depth; see `DeformableAttention`.

    The lifted features value ⊗ depth are never built: a trilinear reading of the product equals
    bilinear readings of the features weighted by their depth distribution at z.
    """

    name = "deformable_3d"

    def __init__(
        self, channels: int, *, num_heads: int = 8, levels: int = 4, points: int = 8
    ) -> None:
        super().__init__(channels, num_heads=num_heads, levels=levels, points=points, dims=3)


SPEC = dataclasses.replace(
    deformable.SPEC,
    name="deformable_3d",
    title="3D deformable attention (DFA3D)",
    paper="Li et al., DFA3D: 3D Deformable Attention For 2D-to-3D Feature Lifting, ICCV 2023 "
    "(arXiv:2307.12972)",
    equation="out_q = W_o Σ_h Σ_lp A_hlp (W_v value_l ⊗ depth_l)(r_ql + W_Δ x_q)",
    complexity="As deformable; memory free of the number of depths times the channels",
    when_to_use="Lifting views of cameras with estimated depth into a space of three dimensions.",
    correctness="Against trilinear grid_sample of value ⊗ depth in float64, gradients included.",
    options=(
        *deformable.SPEC.options[:2],
        dataclasses.replace(deformable.SPEC.options[2], default=8),
    ),
    module=DeformableAttention3d,
    sample=partial(deformable.sample, depths=5),
)
