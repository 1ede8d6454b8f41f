"""Position attention (PAM): every place of a grid attends to every other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared_attention.grid import accept_grid, blank
from shared_attention.masks import Mask
from shared_attention.primitives.query_blocks import narrow_attention
from shared_attention.references.position import reference_position
from shared_attention.spec import Capabilities, MechanismSpec, Option


class PositionAttention(nn.Module):
    """Position attention of dual attention networks, on grids of 1 to 3 dimensions.

    y_i = x_i + γ Σ_j softmax_j(q_i · k_j) v_j with q, k of C / reduction channels and v of C.
    Scores are not scaled, as published. γ starts at 0, so a new module is the identity. Memory is
    linear in positions for inference, and for training on many positions.

    Args:
        channels: C.
        reduction: How many times narrower queries and keys are than C.

    Raises:
        ValueError: The reduction leaves no channel.

    Source: Fu et al., Dual Attention Network, CVPR 2019, section 3.2, as used by Sinha and Dolz,
    Multi-scale self-guided attention, 2020, section III-B.
    """

    def __init__(self, channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        if not 1 <= reduction <= channels:
            raise ValueError(
                f"position: reduction got {reduction}, expected 1 to {channels}, the channels"
            )
        self.channels = channels
        self.query = nn.Linear(channels, channels // reduction)
        self.key = nn.Linear(channels, channels // reduction)
        self.value = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Attend within `x [B, *grid, C]`.

        Args:
            x: `[B, *grid, C]`.
            mask: `masks.keys(valid)`, valid `[B, S]`, S the positions of the grid in order.

        Returns:
            `[B, *grid, C]`, zero where not valid.

        Raises:
            ValueError: Inputs of another shape or type.
            UnsupportedError: The mask is not one of keys.
        """
        valid = accept_grid(SPEC, x, self.channels, mask)
        x = blank(x, valid)
        flat = x.flatten(1, -2)
        real = None if valid is None else valid.flatten(1)
        v = F.linear(flat, self.gamma * self.value.weight, self.gamma * self.value.bias)
        out = narrow_attention(self.query(flat), self.key(flat), v, valid=real)
        return blank(out.view(x.shape) + x, valid)


SPEC = MechanismSpec(
    name="position",
    family="spatial",
    title="Position attention (PAM)",
    paper="Sinha and Dolz, Multi-scale self-guided attention for medical image segmentation, "
    "IEEE JBHI 2020 (arXiv 1906.02849); Fu et al., Dual Attention Network, CVPR 2019",
    equation="y_i = x_i + γ Σ_j softmax_j(q_i · k_j) v_j",
    complexity="O(S² · C) time, S positions",
    when_to_use="Feature maps of segmentation networks, beside channel attention.",
    correctness="Equal to the official class with the same weights; to a float64 reference that "
    "loops over positions.",
    capabilities=Capabilities(key_padding=True, linear_in_v=False),
    options=(Option("reduction", int, 8, "how many times narrower queries and keys are"),),
    module=PositionAttention,
    reference=reference_position,
    dims=(1, 2, 3),
    example={"reduction": 4},
)
