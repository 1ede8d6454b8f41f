"""U-Net with residual units (Kerfoot et al., STACOM 2018), MONAI's."""

from __future__ import annotations

from domains.medical.models.parts.wrapped import WrappedNet


class UNet(WrappedNet):
    """MONAI's `UNet`: strided residual units, instance norm, PReLU; 1.2 M parameters in 3-D.

    The first level already halves the grid, which makes it the fastest model of the domain.

    Args:
        channels: of the image.
        classes: K, background included.
        spatial_dims: 2 or 3.
        patch_size: voxels along each axis in training; not needed, every size fits.
        widths: channels of each level; every level but the last halves the grid.
        units: convolutions of a residual unit.
        dropout: probability.

    Source: Ronneberger et al., U-Net, MICCAI 2015; Kerfoot et al., Left-ventricle quantification
    using residual U-Net, STACOM 2018.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        widths: tuple[int, ...] = (16, 32, 64, 128),
        units: int = 2,
        dropout: float = 0.0,
    ) -> None:
        from monai.networks.nets.unet import UNet as MonaiUNet

        steps = len(widths) - 1
        net = MonaiUNet(
            spatial_dims=spatial_dims,
            in_channels=channels,
            out_channels=classes,
            channels=widths,
            strides=(2,) * steps,
            num_res_units=units,
            norm="instance",
            dropout=dropout,
        )
        super().__init__(net, 2**steps)
