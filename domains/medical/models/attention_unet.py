"""Attention U-Net: gates on the skips (Oktay et al., MIDL 2018, arXiv 1804.03999), MONAI's."""

from __future__ import annotations

from domains.medical.models.parts.wrapped import WrappedNet


class AttentionUnet(WrappedNet):
    """MONAI's `AttentionUnet`: each skip is weighted by a gate that sees the decoder.

    Batch norm, as MONAI has it. The gate is additive and local, one weight for each voxel; no
    mechanism of the core stands in for it.

    Args:
        channels: of the image.
        classes: K, background included.
        spatial_dims: 2 or 3.
        patch_size: voxels along each axis in training; not needed, every size fits.
        widths: channels of each level; every level but the first halves the grid.
        dropout: probability.

    Source: Oktay et al., Attention U-Net: learning where to look for the pancreas, 2018.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        widths: tuple[int, ...] = (16, 32, 64, 128),
        dropout: float = 0.0,
    ) -> None:
        from monai.networks.nets.attentionunet import AttentionUnet as MonaiAttentionUnet

        steps = len(widths) - 1
        net = MonaiAttentionUnet(
            spatial_dims=spatial_dims,
            in_channels=channels,
            out_channels=classes,
            channels=widths,
            strides=(2,) * steps,
            dropout=dropout,
        )
        super().__init__(net, 2**steps)
