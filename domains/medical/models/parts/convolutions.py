"""Convolutions, norms and blocks for grids of two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.01
"""Of the leaky rectifier, as in nnU-Net."""


class InstanceNorm(nn.Module):
    """Standardise each channel of each sample over its grid, then scale and shift it.

    As `nn.InstanceNorm` with `affine=True`, for any number of dimensions; a grid of one position,
    which that refuses, gives the shift.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, *grid]` to the same shape."""
        return torch.instance_norm(
            x, self.weight, self.bias, None, None, True, 0.0, 1e-5, torch.backends.cudnn.enabled
        )


def convolution(
    spatial_dims: int,
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int | Sequence[int] = 1,
    *,
    bias: bool = False,
) -> nn.Module:
    """Return a convolution that keeps the grid, but for the stride."""
    layer = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    steps = stride if isinstance(stride, int) else tuple(stride)
    return layer(inputs, outputs, kernel, steps, kernel // 2, bias=bias)  # type: ignore[arg-type]


class ShallowConvolution(nn.Conv3d):
    """A 3-D convolution whose weights get right gradients in bfloat16 on shallow grids too.

    oneDNN 3.12 (torch 2.14) gives memory that it never wrote as part of the gradient of weights in
    bfloat16 where the first axis of the grid is shorter than the kernel: huge numbers or nan, now
    and then, when an earlier step left some there. Such grids have few positions, so they are
    computed in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, *grid]` to `[B, outputs, *grid / stride]`."""
        kind = x.device.type
        low = x.dtype == torch.bfloat16 or torch.is_autocast_enabled(kind)
        if kind != "cpu" or not low or x.shape[2] >= self.kernel_size[0]:
            return super().forward(x)
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(kind, enabled=False):
            return self._conv_forward(x.float(), self.weight.float(), bias).to(x.dtype)


def mend_convolutions(model: nn.Module) -> None:
    """Turn every `nn.Conv3d` of a model, also of other libraries, into `ShallowConvolution`."""
    for module in model.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = ShallowConvolution


class ConvolutionBlock(nn.Sequential):
    """A convolution of width 3, instance norm and leaky rectifier."""

    def __init__(
        self, spatial_dims: int, inputs: int, outputs: int, stride: int | Sequence[int] = 1
    ) -> None:
        super().__init__(
            convolution(spatial_dims, inputs, outputs, stride=stride),
            InstanceNorm(outputs),
            nn.LeakyReLU(SLOPE, inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two convolutions of width 3 beside a shortcut (He et al., CVPR 2016), instance norm.

    Args:
        spatial_dims: 2 or 3.
        inputs: channels.
        outputs: channels.
        stride: of the first convolution, along each axis.
    """

    def __init__(
        self, spatial_dims: int, inputs: int, outputs: int, stride: int | Sequence[int] = 1
    ) -> None:
        super().__init__()
        self.first = ConvolutionBlock(spatial_dims, inputs, outputs, stride)
        self.second = convolution(spatial_dims, outputs, outputs)
        self.norm = InstanceNorm(outputs)
        steps = [stride] if isinstance(stride, int) else list(stride)
        same = inputs == outputs and set(steps) == {1}
        self.shortcut = (
            nn.Identity() if same else convolution(spatial_dims, inputs, outputs, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, inputs, *grid]` to `[B, outputs, *grid / stride]`."""
        out = self.norm(self.second(self.first(x))) + self.shortcut(x)
        return F.leaky_relu_(out, SLOPE)


def fast_layout(image: Tensor) -> Tensor:
    """Return the image in the memory layout in which convolutions are fastest: channels last."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return image.contiguous(memory_format=formats[image.dim()])


def grid_steps(
    patch_size: Sequence[int], *, most: int, least_stages: int = 0, least: int = 4
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
    """Plan the strides of an encoder as nnU-Net does.

    Each stage after the first halves the axes that stay at `least` positions or more; short axes
    stop early.

    Args:
        patch_size: voxels along each axis.
        most: further stages at most.
        least_stages: further stages at least; they halve every axis where none is long enough.
        least: positions that an axis keeps.

    Returns:
        The strides of each further stage, and the voxels between positions of every stage.
    """
    size = list(patch_size)
    strides: list[tuple[int, ...]] = []
    steps: list[tuple[int, ...]] = [(1,) * len(size)]
    while len(strides) < most:
        stride = tuple(2 if n // 2 >= least else 1 for n in size)
        if set(stride) == {1}:
            if len(strides) >= least_stages:
                break
            stride = (2,) * len(size)
        strides.append(stride)
        steps.append(tuple(a * b for a, b in zip(steps[-1], stride, strict=True)))
        size = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    return tuple(strides), tuple(steps)


def cover(coarse: Tensor, grid: Sequence[int], step: Sequence[int]) -> Tensor:
    """Cut from a map what lies wholly beyond a grid.

    Args:
        coarse: `[B, C, *coarse grid]`, which begins where the grid does.
        grid: voxels along each axis.
        step: voxels between positions of the map.
    """
    for axis, (size, each) in enumerate(zip(grid, step, strict=True)):
        coarse = coarse.narrow(axis + 2, 0, -(-size // each))
    return coarse
