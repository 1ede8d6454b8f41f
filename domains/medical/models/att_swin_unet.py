"""Att-SwinU-Net: a Swin U-Net whose skips carry attention (Aghdam et al., ISBI 2023)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from domains.medical.models.parts.padding import pad_to
from domains.medical.models.parts.swin import (
    PatchEmbedding,
    PatchExpansion,
    PatchMerging,
    rising,
    swin_stage,
)
from domains.medical.models.parts.swin_attention import (
    build_window_attention,
    choose_window_attention,
)
from domains.medical.models.parts.weights import load_weights
from shared_attention.linear import Linear
from shared_attention.registry import catalogue


class AttSwinUNet(nn.Module):
    """Swin transformer encoder and decoder, joined by attention maps and by features.

    Each stage of the encoder is a row of Swin blocks with and without shifted windows; patch
    merging halves the grid and doubles the channels between them. The decoder mirrors it with
    patch expansion. At every skip

    - the decoder's blocks also mix their values with the attention maps of the encoder's blocks
      of that stage: (A_dec + A_enc) V_dec, or the product of both maps (`transfer`),
    - decoder and encoder features exchange global context (`cross_contextual`), are put side by
      side and mapped back to C channels.

    In the published code the map is added after the output of the block was formed and then
    dropped, so that it has no effect; here it reaches the output and has gradient. A product of
    maps is scaled to rows that sum to one. The published code leaves out and overwrites a corner
    of each feature map in the cross-contextual exchange, see `CrossContextualAttention`.

    Any grid is served: images are padded to whole patches, merging pads odd grids, windows hold
    what there is of them.

    Args:
        channels: of the image.
        classes: K.
        spatial_dims: 2 or 3.
        patch_size: grid of the training patches; nothing depends on it.
        attention: mechanism within the windows; None is `swin_window`.
        attention_options: its options.
        embed_dim: channels of the first stage; None is 96 in 2-D and 48 in 3-D.
        depths: blocks of each stage, encoder and decoder alike; the last is the bottleneck. None
            is (2, 2, 2, 2) in 2-D, as published, and (2, 2, 2) in 3-D, where a fourth stage has
            70 % of the weights and a dozen tokens of a small patch.
        num_heads: of each stage; None is 3, doubled from stage to stage.
        token_size: pixels of a token along each axis; None is 4 in 2-D and 2 in 3-D.
        window: tokens of a window along each axis; None is 7 in 2-D and 4 in 3-D.
        mlp_ratio: hidden width of the blocks' networks over their channels.
        drop_path: probability that a sample skips a branch in the deepest block; falls linearly
            to 0 in the first.
        transfer: how the encoder's maps join the decoder's: "add", "multiply" or "none".
        cross_contextual: whether skips exchange context.
        weights: file with weights of a Swin transformer of torchvision (or a checkpoint of this

    Raises:
        ValueError: Sizes do not fit together.
        UnsupportedError: The mechanism is unknown, always causal, or cannot multiply maps.
        DataError: The weights cannot be read, or none fits.

    Source: Aghdam et al., Attention Swin U-Net, ISBI 2023 (arXiv 2210.16898); Cao et al.,
    Swin-Unet, 2021 (arXiv 2105.05537).
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        spatial_dims: int,
        patch_size: tuple[int, ...],
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
        embed_dim: int | None = None,
        depths: tuple[int, ...] | None = None,
        num_heads: tuple[int, ...] | None = None,
        token_size: int | None = None,
        window: int | None = None,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.1,
        transfer: Literal["add", "multiply", "none"] = "add",
        cross_contextual: bool = True,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        flat = spatial_dims == 2
        embed_dim = (96 if flat else 48) if embed_dim is None else embed_dim
        token_size = (4 if flat else 2) if token_size is None else token_size
        window = (7 if flat else 4) if window is None else window
        depths = ((2,) * (4 if flat else 3)) if depths is None else depths
        if num_heads is None:
            num_heads = tuple(3 * 2**at for at in range(len(depths)))
        _check(spatial_dims, embed_dim, depths, num_heads, transfer)
        choice = choose_window_attention("AttSwinUNet", attention, attention_options, transfer)
        widths = [embed_dim * 2**at for at in range(len(depths))]

        def stage(at: int) -> nn.ModuleList:
            return swin_stage(
                functools.partial(build_window_attention, choice),
                widths[at],
                num_heads[at],
                (window,) * spatial_dims,
                mlp_ratio=mlp_ratio,
                drop_paths=rising(drop_path, depths)[at],
            )

        self.channels, self.spatial_dims, self.token_size = channels, spatial_dims, token_size
        self.transfer = transfer
        self.embed = PatchEmbedding(channels, embed_dim, token_size, spatial_dims)
        self.encoder = nn.ModuleList(stage(at) for at in range(len(depths)))
        self.merge = nn.ModuleList(PatchMerging(width, spatial_dims) for width in widths[:-1])
        self.norm = nn.LayerNorm(widths[-1])
        self.expand = nn.ModuleList(
            PatchExpansion(2 * width, width, 2, spatial_dims) for width in widths[:-1]
        )
        self.exchange = nn.ModuleList(
            catalogue()["cross_contextual"].build(channels=width) if cross_contextual else _Beside()
            for width in widths[:-1]
        )
        self.join = nn.ModuleList(Linear(2 * width, width) for width in widths[:-1])
        self.decoder = nn.ModuleList(stage(at) for at in range(len(depths) - 1))
        self.decoder_norm = nn.LayerNorm(embed_dim)
        self.restore = PatchExpansion(embed_dim, embed_dim, token_size, spatial_dims)
        self.head = Linear(embed_dim, classes)
        self.apply(_initialise)
        if weights is not None:
            load_weights(self.encoder_as_torchvision(), weights)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits `[B, K, *grid]` of images `[B, C, *grid]` of any grid.

        Raises:
            ValueError: The image has other dimensions or channels.
        """
        if image.dim() != self.spatial_dims + 2 or image.shape[1] != self.channels:
            raise ValueError(
                f"AttSwinUNet: image has shape {list(image.shape)}, expected "
                f"[batch, {self.channels} channels, {self.spatial_dims} grid dimensions]"
            )
        padded, crop = pad_to(image, self.token_size)
        x = self.embed(padded)
        skips = []
        for stage, merge in zip(self.encoder, self.merge, strict=False):
            x, maps = self._run(stage, x, keep=self.transfer != "none")
            skips.append((x, maps))
            x = merge(x)
        x, _ = self._run(self.encoder[-1], x)
        x = self.norm(x)
        for at in reversed(range(len(skips))):
            skip, maps = skips[at]
            x = _cut(self.expand[at](x), skip)
            x = self.join[at](self.exchange[at](x, skip))
            x, _ = self._run(self.decoder[at], x, maps)
        x = self.head(self.restore(self.decoder_norm(x)))
        return crop(x.movedim(-1, 1))

    def encoder_as_torchvision(self) -> nn.Module:
        """Return the encoder's layers under the names that torchvision's Swin transformers have."""
        row: list[nn.Module] = [nn.Sequential(self.embed.proj, nn.Identity(), self.embed.norm)]
        for stage, merge in zip(self.encoder, [*self.merge, None], strict=True):
            row += [stage] if merge is None else [stage, merge]
        named = nn.Module()
        named.features, named.norm = nn.Sequential(*row), self.norm
        return named

    def _run(
        self,
        stage: nn.Module,
        x: Tensor,
        received: Sequence[Any] = (),
        *,
        keep: bool = False,
    ) -> tuple[Tensor, list[Any]]:
        """Run a stage, each block with the maps it receives; returns its own where kept."""
        own = []
        for at, block in enumerate(cast(Iterable[Any], stage)):
            if received:
                x, _ = block.output(x, received[at], self.transfer)
            elif keep:
                x, maps = block.output(x)
                own.append(maps)
            else:
                x = block(x)
        return x, own


class _Beside(nn.Module):
    """Put decoder and encoder features side by side and leave them as they are."""

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], -1)


def _cut(x: Tensor, skip: Tensor) -> Tensor:
    """Leave out what merging padded."""
    return x[(slice(None), *(slice(size) for size in skip.shape[1:-1]))]


def _initialise(module: nn.Module) -> None:
    """Draw weights of linear layers as Swin transformers do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(
    spatial_dims: int, embed_dim: int, depths: Sequence[int], heads: Sequence[int], transfer: str
) -> None:
    if spatial_dims not in (2, 3):
        raise ValueError(f"AttSwinUNet: spatial_dims got {spatial_dims}, expected 2 or 3")
    if len(depths) != len(heads) or len(depths) < 2 or min(*depths, *heads, embed_dim) < 1:
        raise ValueError(
            f"AttSwinUNet: depths {tuple(depths)} and num_heads {tuple(heads)}, "
            "expected one positive number for each of two or more stages in both"
        )
    for at, count in enumerate(heads):
        if embed_dim * 2**at % count:
            raise ValueError(
                f"AttSwinUNet: num_heads {count} does not divide the {embed_dim * 2**at} "
                f"channels of stage {at + 1}"
            )
    if transfer not in ("add", "multiply", "none"):
        raise ValueError(
            f"AttSwinUNet: transfer got {transfer!r}, expected 'add', 'multiply' or 'none'"
        )
