"""SegResNet (Myronenko, BrainLes 2018, arXiv 1810.11654), MONAI's."""

from __future__ import annotations

from domains.medical.models.parts.wrapped import WrappedNet


class SegResNet(WrappedNet):
    """MONAI's `SegResNet`: a deep residual encoder, a shallow decoder, skips that are added.

    Without the variational branch of the paper.

    Args:
        channels: of the image.
        classes: K, background included.
        spatial_dims: 2 or 3.
        patch_size: voxels along each axis in training; not needed, every size fits.
        width: channels of the first level, a multiple of 8; each further one doubles them.
        blocks_down: residual blocks of each level of the encoder.
        blocks_up: residual blocks of each level of the decoder, one level fewer.
        dropout: probability, on the first map.

    Source: Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization, 2018.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        width: int = 8,
        blocks_down: tuple[int, ...] = (1, 2, 2, 4),
        blocks_up: tuple[int, ...] = (1, 1, 1),
        dropout: float = 0.0,
    ) -> None:
        from monai.networks.nets.segresnet import SegResNet as MonaiSegResNet

        net = MonaiSegResNet(
            spatial_dims=spatial_dims,
            init_filters=width,
            in_channels=channels,
            out_channels=classes,
            dropout_prob=dropout or None,
            blocks_down=blocks_down,
            blocks_up=blocks_up,
        )
        super().__init__(net, 2 ** (len(blocks_down) - 1))
