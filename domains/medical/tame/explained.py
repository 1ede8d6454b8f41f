"""Class scores of a frozen model, whatever its task, that a map can be trained to explain."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_FEWEST = 10


class Explained(nn.Module):
    """A frozen model as one that gives each class of an image a confidence.

    Args:
        model: network; its parameters stop requiring gradients and it stays in evaluation mode.
        names: of the classes that scores are given for.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.names = tuple(names)

    def forward(self, image: Tensor) -> Tensor:
        """Return the log-confidence of each class, `[B, K]`, of images `[B, C, *grid]`."""
        raise NotImplementedError

    def chosen(self, confidence: Tensor) -> Tensor:
        """Return which classes the model sees in which image, bool `[B, K]`."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Explained:
        """Stay in evaluation mode."""
        return super().train(False)


class Presence(Explained):
    """Whether a class is in a patch, from the logits of a segmentation model.

    The score of a class is a soft maximum over places: the mean of its log-odds z_kv = log p_kv -
    log(1 - p_kv) at the thousandth of the places (ten at least) where they are highest, so that
    neither a single voxel nor the size of a structure decides. Its confidence is sigmoid(s_k); a
    patch shows a class where that is above a half. The background is left out.

    Args:
        model: `[B, C, *grid]` to logits `[B, 1 + K, *grid]`.
        names: of the K classes after the background.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Return log sigmoid(s), `[B, K]`."""
        logits = self.model(image).float().flatten(2)
        odds = []
        for number in range(1, logits.shape[1]):
            others = torch.cat([logits[:, :number], logits[:, number + 1 :]], dim=1)
            odds.append(logits[:, number] - others.logsumexp(1))
        z = torch.stack(odds, dim=1)
        count = min(max(_FEWEST, z.shape[2] // 1000), z.shape[2])
        score = z.topk(count, dim=2).values.mean(2)
        return nn.functional.logsigmoid(score)

    def chosen(self, confidence: Tensor) -> Tensor:
        """Return the classes that are present."""
        return confidence > 0.5


class ClassCentres(Explained):
    """Which class an embedded image is nearest to, from a retrieval model.

    Scores are the log-softmax of -10 ‖e - μ_k‖², μ_k the mean embedding of the class's training
    images; the class explained is the nearest.

    Args:
        model: `[B, C, *grid]` to embeddings `[B, E]`.
        names: of the classes.
        centres: μ, `[K, E]`.
    """

    centres: Tensor

    def __init__(self, model: nn.Module, names: Sequence[str], centres: Tensor) -> None:
        super().__init__(model, names)
        self.register_buffer("centres", centres)

    def forward(self, image: Tensor) -> Tensor:
        """Return log-softmax scores `[B, K]`."""
        gap = self.model(image).float()[:, None] - self.centres
        return (-10 * gap.square().sum(2)).log_softmax(1)

    def chosen(self, confidence: Tensor) -> Tensor:
        """Return the nearest class."""
        return nn.functional.one_hot(confidence.argmax(1), confidence.shape[1]).bool()
