"""Dynamic Subspace Learners: an embedding whose parts learn different similarities.

Adiga, Dolz and Lombaert, IEEE Journal of Biomedical and Health Informatics 2022, arXiv 2206.09068.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.medical.retrieval.backbone import Backbone, make_backbone
from domains.medical.retrieval.gate import AttentionGate
from domains.medical.retrieval.margin import margin_loss

_FEWEST_KEPT = 5
_FEWEST_SPLIT = 11
_IMPORTANT = 0.5


@dataclass(frozen=True)
class EmbeddingOutput:
    """What the loss and the clustering look at.

    Args:
        embedding: `[B, E]`, rows of length one.
        features: `[B, F]`, rows of length one, before the embedding.
        attention: `[B, 1, *grid]`, weights in (0, 1) of the feature grid's places.
        grid: `[B, F, *grid]`, features times attention, whose mean is embedded.
    """

    embedding: Tensor
    features: Tensor
    attention: Tensor
    grid: Tensor


class DynamicSubspaceLearners(nn.Module):
    """Embed images so that those of a class are near, with a number of learners that grows.

    Features of a backbone are weighted by a spatial attention map and averaged; a linear map gives
    E values. Each of these belongs to one learner (`owner`); training begins with one learner that
    owns all. A learner's values have length one together, so the learners count alike.

    Training images are divided by k-means of their features into as many groups as there are
    learners, and each learner learns from its own group only (`loss_terms`). `grow` splits the
    newest learner: values that matter to its loss stay, the rest begin anew as another learner.
    Towards the end the learners are `merged`: the whole embedding learns from all images.

    All of this is held in buffers of fixed shape, so a trained model needs no other record of it.

    Differences to the published code: negatives are drawn by distance (Wu et al. 2017, which the
    code replaces by the nearest ones beyond 0.5); the boundary of each class is learned as in Wu
    et al.; a batch holds images of all groups, each learner's loss being that of its own; values
    keep their place when a learner is split; clusters are found on training images and growth is
    decided on validation images, where the code looks at the test images.

    Args:
        channels: channels of an image.
        targets: classes of whole images.
        spatial_dims: 2 or 3.
        size: pixels or voxels along each axis that images are resized to.
        embedding: values E.
        max_learners: most learners.
        grow_after: epochs without a better validation score before a learner is added; 10 in the
            paper's code, of 300.
        recluster_every: epochs between two divisions of the training images.
        merge_at: share of the epochs after which the learners are merged; 250 of 300 epochs.
        backbone: `residual`, a small network of its own, or torchvision's `resnet50` (2-D).
        width: features of the first stage of `residual`.
        weights: file of weights of `resnet50`.
        dropout: probability, of features.
        margin: of the margin loss.
        boundary: distance that separates a class from others, at the start.
        attention: mechanism inside the attention map; None is the paper's convolutions.
        attention_options: its options.

    Raises:
        ValueError: sizes are below 1, or the backbone does not fit.
        UnsupportedError: the mechanism is unknown or always causal.
    """

    owner: Tensor
    learners: Tensor
    centroids: Tensor
    merged: Tensor

    def __init__(
        self,
        *,
        channels: int,
        targets: int,
        spatial_dims: int,
        size: tuple[int, ...],
        embedding: int = 128,
        max_learners: int = 8,
        grow_after: int = 10,
        recluster_every: int = 2,
        merge_at: float = 5 / 6,
        backbone: Backbone = "residual",
        width: int = 24,
        weights: str | None = None,
        dropout: float = 0.01,
        margin: float = 0.2,
        boundary: float = 1.2,
        attention: str | None = None,
        attention_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "targets": targets, "embedding": embedding}
        sizes |= {"max_learners": max_learners, "recluster_every": recluster_every}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"DynamicSubspaceLearners: {name} must be at least 1, got {value}")
        if spatial_dims not in (2, 3) or len(size) != spatial_dims:
            raise ValueError(
                f"DynamicSubspaceLearners: size {list(size)} does not fit spatial_dims "
                f"{spatial_dims}, which is 2 or 3"
            )
        self.channels, self.spatial_dims = channels, spatial_dims
        self.max_learners, self.margin = max_learners, margin
        self.grow_after, self.recluster_every = grow_after, recluster_every
        self.merge_at = merge_at
        self.backbone, features = make_backbone(backbone, channels, spatial_dims, width, weights)
        self.gate = AttentionGate(features, spatial_dims, attention, attention_options)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(features, embedding)
        nn.init.xavier_normal_(self.embed.weight)
        self.boundary = nn.Parameter(torch.full((max_learners, targets), boundary))
        self.register_buffer("owner", torch.zeros(embedding, dtype=torch.int64))
        self.register_buffer("learners", torch.ones((), dtype=torch.int64))
        self.register_buffer("centroids", torch.zeros(max_learners, features))
        self.register_buffer("merged", torch.zeros((), dtype=torch.bool))

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings `[B, E]` of length one of images `[B, C, *size]`."""
        return self.outputs(image).embedding

    def outputs(self, image: Tensor) -> EmbeddingOutput:
        """Return embeddings with what they come from.

        Raises:
            ValueError: the images have another number of channels or axes.
        """
        if image.dim() != self.spatial_dims + 2 or image.shape[1] != self.channels:
            raise ValueError(
                f"DynamicSubspaceLearners: got images {list(image.shape)}, expected "
                f"[batch, {self.channels}, {self.spatial_dims} axes]"
            )
        grid = self.backbone(image)
        attention = self.gate(grid)
        grid = grid * attention
        pooled = self.dropout(grid.flatten(2).mean(2))
        embedding = self._by_learner(self.embed(pooled))
        return EmbeddingOutput(embedding, functional.normalize(pooled, dim=1), attention, grid)

    def attention_map(self, image: Tensor) -> Tensor:
        """Return the attention map at the size of the images, `[B, 1, *size]`."""
        return self.attend(self.outputs(image), image.shape[2:])

    def attend(self, output: EmbeddingOutput, size: Sequence[int]) -> Tensor:
        """Return an output's attention map at the size of the images, `[B, 1, *size]`."""
        return self._at(output.attention, size)

    def contribution(self, output: EmbeddingOutput, size: Sequence[int]) -> Tensor:
        """Return what each place adds to the embedding's own direction, `[B, 1, *size]`, from 0 up.

        Before its scaling the embedding is a sum over places of W (attention x features), and this
        is each summand's part along the embedding, at the size of the images; places that work
        against it are 0. It is to a metric model what a class activation map is to a classifier.
        """
        along = output.embedding @ self.embed.weight.to(output.embedding.dtype)
        parts = torch.einsum("bf,bf...->b...", along, output.grid.to(along.dtype)).relu()
        return self._at(parts[:, None], size)

    def groups(self, features: Tensor) -> Tensor:
        """Return which learner images with these `features` `[B, F]` belong to, `[B]`."""
        if bool(self.merged) or int(self.learners) == 1:
            return features.new_zeros(len(features), dtype=torch.int64)
        centroids = self.centroids[: int(self.learners)]
        return torch.cdist(features.float(), centroids).argmin(1)

    def loss_terms(self, output: EmbeddingOutput, target: Tensor) -> dict[str, Tensor]:
        """Return the margin loss, the mean over learners, each on images of its own group."""
        embedding = output.embedding
        if bool(self.merged) or int(self.learners) == 1:
            return {"margin": self._margin(embedding, target, 0)}
        group = self.groups(output.features.detach())
        losses = []
        for learner in range(int(self.learners)):
            rows = group == learner
            part = functional.normalize(embedding[:, self.owner == learner], dim=1)
            losses.append(self._margin(part[rows], target[rows], learner))
        return {"margin": torch.stack(losses).mean()}

    @torch.no_grad()
    def grow(self, importance: Tensor) -> Tensor | None:
        """Split the newest learner; return the values `[n]` that begin anew, None for none.

        The absolute importance of its values is scaled to 0 to 1; those above a half stay, the
        others become the next learner. A learner of 10 values or fewer, or of which fewer than 5
        would stay, is not split.

        Args:
            importance: `[E]` mean of value times gradient of the loss, over an epoch.
        """
        newest = int(self.learners) - 1
        rows = (self.owner == newest).nonzero()[:, 0]
        if newest + 1 >= self.max_learners or len(rows) < _FEWEST_SPLIT:
            return None
        score = importance[rows].abs()
        score = (score - score.min()) / (score.max() - score.min()).clamp_min(1e-30)
        anew = rows[score <= _IMPORTANT]
        if len(rows) - len(anew) < _FEWEST_KEPT:
            return None
        self.owner[anew] = newest + 1
        random = torch.Generator().manual_seed(newest)
        width = self.embed.in_features
        fresh = torch.randn(len(anew), width, generator=random) * (2 / (width + len(anew))) ** 0.5
        self.embed.weight[anew] = fresh.to(self.embed.weight)
        self.embed.bias[anew] = 0
        self.learners += 1
        return anew

    def _at(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        mode = "bilinear" if self.spatial_dims == 2 else "trilinear"
        return functional.interpolate(maps.float(), tuple(size), mode=mode, align_corners=False)

    def _margin(self, embedding: Tensor, target: Tensor, learner: int) -> Tensor:
        boundary = self.boundary[learner, target]
        return margin_loss(embedding, target, boundary, margin=self.margin)

    def _by_learner(self, values: Tensor) -> Tensor:
        """Scale each learner's values to one length, all of them to length one."""
        member = functional.one_hot(self.owner, self.max_learners).to(values.dtype)
        lengths = (values.square() @ member).clamp_min(1e-12).sqrt()
        return values / (lengths[:, self.owner] * self.learners.to(values.dtype).sqrt())
