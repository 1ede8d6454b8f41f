"""nnU-Net's network (Isensee et al., Nature Methods 2021), MONAI's DynUNet."""

from __future__ import annotations

from torch import Tensor, nn

from domains.medical.models.output import SegmentationOutput
from domains.medical.models.parts.convolutions import convolution, cover, grid_steps
from domains.medical.models.parts.padding import pad_to


class DynUNet(nn.Module):
    """MONAI's `DynUNet` with strides from the patch and deep supervision, as nnU-Net plans them.

    Args:
        channels: of the image.
        classes: K, background included.
        spatial_dims: 2 or 3.
        patch_size: voxels along each axis in training; decides the depth.
        width: channels of the first level; each further one doubles them, up to `widest`. nnU-Net
            has 32.
        widest: channels of a level at most.
        depth: levels at most; at least 3.
        residual: residual instead of plain blocks.

    Source: Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical
    image segmentation, 2021.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        width: int = 16,
        widest: int = 320,
        depth: int = 6,
        residual: bool = False,
    ) -> None:
        super().__init__()
        from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet

        flat = (1,) * spatial_dims
        strides, self.steps = grid_steps(patch_size, most=depth - 1, least_stages=2)
        widths = [min(width * 2**level, widest) for level in range(len(self.steps))]
        self.net = MonaiDynUNet(
            spatial_dims=spatial_dims,
            in_channels=channels,
            out_channels=classes,
            kernel_size=[(3,) * spatial_dims] * len(widths),
            strides=[flat, *strides],
            upsample_kernel_size=list(strides),
            filters=widths,
            res_block=residual,
        )
        self.heads = nn.ModuleList(
            convolution(spatial_dims, size, classes, 1, bias=True) for size in widths[1:-1]
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, K, *grid]` of `image` `[B, C, *grid]`, any grid."""
        padded, crop = pad_to(image, self.steps[-1], two=True)
        return crop(self.net(padded))

    def outputs(self, image: Tensor) -> SegmentationOutput:
        """Return the logits with those of the coarser levels, each half the weight."""
        padded, crop = pad_to(image, self.steps[-1], two=True)
        maps = self._maps(padded)
        grid = image.shape[2:]
        heads = tuple(
            (cover(head(x), grid, self.steps[level]), 0.5**level)
            for level, (head, x) in enumerate(zip(self.heads, maps[1:], strict=True), start=1)
        )
        return SegmentationOutput(crop(self.net.output_block(maps[0])), heads)

    def _maps(self, image: Tensor) -> list[Tensor]:
        """Return the decoder's maps, finest first; MONAI nests the levels in each other."""
        layer, x, skips = self.net.skip_layers, image, []
        while hasattr(layer, "next_layer"):
            x = layer.downsample(x)
            skips.append((layer.upsample, x))
            layer = layer.next_layer
        x = layer(x)
        maps = []
        for upsample, skip in reversed(skips):
            x = upsample(x, skip)
            maps.append(x)
        return maps[::-1]
