"""Networks of other libraries, for any grid."""

from __future__ import annotations

from torch import Tensor, nn

from domains.medical.models.parts.padding import pad_to


class WrappedNet(nn.Module):
    """A network whose grid has to be a multiple, on any grid.

    Args:
        net: maps `[B, C, *grid]` to `[B, K, *grid]`.
        multiple: of every axis, or one for each.
    """

    def __init__(self, net: nn.Module, multiple: int | tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, K, *grid]` of `image` `[B, C, *grid]`, any grid."""
        padded, crop = pad_to(image, self.multiple, two=True)
        return crop(self.net(padded))
