"""Channel attention (CAM): every channel attends to every other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from shared_attention.grid import accept_grid, blank
from shared_attention.masks import Mask
from shared_attention.references.channel import reference_channel
from shared_attention.spec import Capabilities, MechanismSpec


class ChannelAttention(nn.Module):
    """Channel attention of dual attention networks, on grids of 1 to 3 dimensions.

    E = Σ_i x_i x_iᵀ `[C, C]` over positions; y_i = x_i + γ softmax(-E) x_i.

    The published code takes the softmax of max(E) - E, which is the softmax of -E: each channel
    attends most to those it resembles least. That is kept. γ starts at 0, so a new module is the
    identity. Energies are summed in float32 for half-precision inputs.

    Args:
        channels: C.

    Source: Fu et al., Dual Attention Network, CVPR 2019, section 3.3, as used by Sinha and Dolz,
    Multi-scale self-guided attention, 2020, section III-B; the sign is the official code's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Attend between the channels of `x [B, *grid, C]`.

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
        wide = flat.to(torch.promote_types(x.dtype, torch.float32))
        weights = torch.softmax(-_energies(wide), -1)
        out = torch.baddbmm(wide, wide, (self.gamma.to(wide.dtype) * weights).mT)
        return out.to(x.dtype).view(x.shape)


def _energies(x: Tensor) -> Tensor:
    """Return Xᵀ X of `x [B, S, C]` in its own type, under autocast too."""
    if not torch.is_autocast_enabled(x.device.type):
        return _Gram.apply(x)
    with torch.autocast(x.device.type, enabled=False):
        return _Gram.apply(x)


class _Gram(torch.autograd.Function):
    """Xᵀ X of `x [B, S, C]`, whose gradient is one product with X instead of two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.mT @ x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x @ (gradients[0] + gradients[0].mT)


SPEC = MechanismSpec(
    name="channel",
    family="spatial",
    title="Channel attention (CAM)",
    paper="Sinha and Dolz, Multi-scale self-guided attention for medical image segmentation, "
    "IEEE JBHI 2020 (arXiv 1906.02849); Fu et al., Dual Attention Network, CVPR 2019",
    equation="y_i = x_i + γ softmax(-X Xᵀ) x_i, X = [x_1 ... x_S]",
    complexity="O(S · C²), S positions",
    when_to_use="Feature maps of segmentation networks, beside position attention.",
    correctness="Equal to the official class; to a float64 reference that loops over channels.",
    capabilities=Capabilities(key_padding=True, linear_in_v=False),
    module=ChannelAttention,
    reference=reference_channel,
    dims=(1, 2, 3),
)
