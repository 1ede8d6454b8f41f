"""Networks that turn an image into a grid of features."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 8
Backbone = Literal["residual", "resnet50"]


def make_backbone(
    name: Backbone, channels: int, spatial_dims: int, width: int, weights: str | None
) -> tuple[nn.Module, int]:
    """Return the network and the number of features it gives.

    Args:
        name: `residual` is `ResidualFeatures`; `resnet50` is torchvision's up to its third stage,
            a sixteenth of the size of a 2-D image, as Adiga et al. use it.
        channels: of the image.
        spatial_dims: 2 or 3.
        width: of the first stage of `residual`.
        weights: file of weights of `resnet50`; weights of its last stage are left out.

    Raises:
        ValueError: the network is 2-D only, or has no weights file to read.
    """
    if name == "residual":
        if weights is not None:
            raise ValueError("DynamicSubspaceLearners: weights belong to backbone=resnet50")
        return ResidualFeatures(channels, spatial_dims, width), 4 * width
    if spatial_dims != 2:
        raise ValueError("DynamicSubspaceLearners: backbone=resnet50 is for 2-D images")
    return _resnet50(channels, weights), 1024


class ResidualFeatures(nn.Module):
    """A small residual network without batch statistics: `[B, C, *grid]` to an eighth the size.

    Args:
        channels: C.
        spatial_dims: 2 or 3.
        width: features of the first stage; the second has twice, the last four times as many.
    """

    def __init__(self, channels: int, spatial_dims: int, width: int) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        self.stem = nn.Sequential(
            conv(channels, width, 3, stride=2, padding=1, bias=False), _norm(width), nn.ReLU()
        )
        widths = ((width, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2))
        self.stages = nn.Sequential(*(_Residual(spatial_dims, *sizes) for sizes in widths))

    def forward(self, image: Tensor) -> Tensor:
        """Return features `[B, 4 * width, *grid / 8]`."""
        return self.stages(self.stem(image))


class _Residual(nn.Module):
    def __init__(self, spatial_dims: int, before: int, after: int, stride: int) -> None:
        super().__init__()
        conv = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        self.first = conv(before, after, 3, stride=stride, padding=1, bias=False)
        self.second = conv(after, after, 3, padding=1, bias=False)
        self.norms = nn.ModuleList((_norm(after), _norm(after)))
        same = before == after and stride == 1
        self.skip = nn.Identity() if same else conv(before, after, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.skip(x) + self.norms[1](self.second(hidden)))


def _norm(width: int) -> nn.Module:
    return nn.GroupNorm(min(_GROUPS, width) if width % min(_GROUPS, width) == 0 else 1, width)


def _resnet50(channels: int, weights: str | None) -> nn.Module:
    from torchvision.models import resnet50

    net = resnet50(weights=None)
    if weights is not None:
        from pathlib import Path

        from domains.medical.models.parts.weights import load_weights

        load_weights(net, Path(weights))
    stem = net.conv1
    if channels != stem.in_channels:
        stem = nn.Conv2d(channels, stem.out_channels, 7, stride=2, padding=3, bias=False)
        mean = net.conv1.weight.detach().mean(1, keepdim=True)
        stem.weight.data.copy_(mean.expand_as(stem.weight) * 3 / channels)
    layers = (stem, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
    return _FrozenStatistics(*layers)


class _FrozenStatistics(nn.Sequential):
    """Layers whose batch normalisation keeps the statistics of its weights file, as published."""

    def train(self, mode: bool = True) -> _FrozenStatistics:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self
