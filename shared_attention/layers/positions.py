"""Positions: added to the input (sinusoidal) or turned into queries and keys (rotary)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _angles(length: int, width: int, offset: int, base: float, device: torch.device) -> Tensor:
    """Return position / base^(2i / width) `[length, ceil(width / 2)]` in float32."""
    position = torch.arange(offset, offset + length, device=device, dtype=torch.float32)
    pair = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    return position[:, None] * base ** (-pair / width)


class SinusoidalPositions(nn.Module):
    """Add sine and cosine of the position, for any length (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, d_model: int, *, base: float = 10000.0) -> None:
        super().__init__()
        self.d_model = d_model
        self.base = base

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """Return `x [B, L, d_model]` plus the code of positions `offset` to `offset + L - 1`."""
        angles = _angles(x.shape[1], self.d_model, offset, self.base, x.device)
        code = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
        return x + code[:, : self.d_model].to(x.dtype)


class RotaryPositions(nn.Module):
    """Rotate pairs of query and key channels by their position (Su et al., arXiv:2104.09864).

    The product of a query at position m and a key at position n then depends on m - n only.

    Args:
        head_dim: Width of a head; even.
        base: Wavelengths run from 2π to 2π · base.

    Raises:
        ValueError: `head_dim` is odd.
    """

    def __init__(self, head_dim: int, *, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"RotaryPositions: head_dim got {head_dim}, expected an even number")
        self.head_dim = head_dim
        self.base = base

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """Rotate `x [B, H, L, head_dim]`, whose first position is `offset`."""
        angles = _angles(x.shape[2], self.head_dim, offset, self.base, x.device)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
        return turned.flatten(-2)
