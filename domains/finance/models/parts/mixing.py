"""The two-layer network along one axis and the pyramid that ends TLOB and MLPLOB."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from shared_attention.dropout import Dropout
from shared_attention.linear import Linear

_WIDEST = 128


class MixingNetwork(nn.Module):
    """GELU(LayerNorm(x + W2 GELU(W1 x))); the residual only where the width stays.

    Args:
        width: of the input.
        hidden: of the middle.
        out: of the output.
        dropout: probability, in the middle.
    """

    def __init__(self, width: int, hidden: int, out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.widen = Linear(width, hidden)
        self.narrow = Linear(hidden, out)
        self.norm = nn.LayerNorm(out)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., width]` to `[..., out]`."""
        hidden = self.narrow(self.dropout(functional.gelu(self.widen(x))))
        if hidden.shape[-1] == x.shape[-1]:
            hidden = hidden + x
        return functional.gelu(self.norm(hidden))


class Pyramid(nn.Sequential):
    """Quarter the width until it is at most 128, then give the class scores.

    Args:
        width: of the input.
        classes: scores.
        dropout: probability, before every layer.
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.0) -> None:
        layers: list[nn.Module] = []
        while width > _WIDEST:
            layers += [Dropout(dropout), Linear(width, width // 4), nn.GELU()]
            width //= 4
        super().__init__(*layers, Dropout(dropout), Linear(width, classes))


def quarter(width: int) -> int:
    """Return a quarter of a width, at least 1."""
    return max(1, width // 4)
