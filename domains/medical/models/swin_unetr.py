"""Swin UNETR (Hatamizadeh et al., BrainLes 2021, arXiv 2201.01266), MONAI's."""

from __future__ import annotations

from domains.medical.models.parts.wrapped import WrappedNet
from shared_runtime.errors import require


class SwinUNETR(WrappedNet):
    """MONAI's `SwinUNETR`: a Swin transformer as encoder, a convolutional decoder.

    Grids are padded to multiples of 32.

    Args:
        channels: of the image.
        classes: K, background included.
        spatial_dims: 2 or 3.
        patch_size: voxels along each axis in training; not needed, every size fits.
        width: channels of the first level, a multiple of 12; MONAI's default is 24, with 15.7 M
            parameters in 3-D instead of 4 M.
        depths: transformer blocks of each stage.
        num_heads: heads of each stage.
        window: positions of a window along each axis.

    Raises:
        UsageError: The package einops, which MONAI's module needs, is not installed.

    Source: Hatamizadeh et al., Swin UNETR: Swin transformers for semantic segmentation of brain
    tumors in MRI images, 2022.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        width: int = 12,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 7,
    ) -> None:
        require("einops", "medical")
        from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR

        net = MonaiSwinUNETR(
            in_channels=channels,
            out_channels=classes,
            depths=depths,
            num_heads=num_heads,
            window_size=window,
            feature_size=width,
            spatial_dims=spatial_dims,
        )
        super().__init__(net, 32)
