"""The Lightning module that trains Dynamic Subspace Learners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from domains.medical.models.dynamic_subspace_learners import DynamicSubspaceLearners
from domains.medical.retrieval.clustering import centres, cluster, renamed
from domains.medical.retrieval.scoring import average_precision, neighbour_loss
from shared_runtime.domain import Batches
from shared_runtime.task import Task
from shared_runtime.training_config import TrainingConfig

Batch = dict[str, Tensor]
_TIE = 0.01
_LEAST_RISE = 0.005


class RetrievalTask(Task):
    """Train with the margin loss, add learners when validation stalls, and merge them at the end.

    `val_loss` is one minus the mean average precision of the validation images as queries among
    each other and the training images of `gallery`, which compares epochs with any number of
    learners, plus a hundredth of `neighbour_loss`, which decides between epochs that rank them
    alike; 1 where no query has another image of its class. Without the training images, a few
    validation images, often of one class, would be found perfectly by any weights.

    A learner is added when `val_loss` has not fallen by 0.005 for the model's `grow_after` epochs,
    and then not again before it has fallen. Every `recluster_every` epochs, and when a learner is
    added, the training images are divided anew. All state is in buffers, and changes only after an
    epoch, before its checkpoint is written, so a resumed run goes the way of an uninterrupted one.

    Args:
        model: what is trained.
        training: training settings.
        images: training images as they are, without augmentation, to be divided.
        gallery: which of `images` the validation images are looked up in, too.
        batch_size: images at once where they are.
    """

    importance: Tensor
    best: Tensor
    waited: Tensor
    explored: Tensor

    def __init__(
        self,
        model: DynamicSubspaceLearners,
        training: TrainingConfig,
        images: Batches,
        *,
        gallery: Sequence[int] = (),
        batch_size: int = 64,
    ) -> None:
        super().__init__(model, training)
        self.images, self.images_at_once = images, batch_size
        self.gallery = np.asarray(gallery, dtype=np.int64)
        values = model.embed.out_features
        self.register_buffer("importance", torch.zeros(values, dtype=torch.float64))
        self.register_buffer("best", torch.full((), -torch.inf, dtype=torch.float64))
        self.register_buffer("waited", torch.zeros((), dtype=torch.int64))
        self.register_buffer("explored", torch.zeros((), dtype=torch.bool))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def loss(self, batch: Batch) -> Tensor:
        """Return the margin loss of a batch; note how much each value matters to it."""
        output = self._model.outputs(batch["image"])
        if output.embedding.requires_grad:
            values = output.embedding.detach()
            output.embedding.register_hook(lambda gradient: self._note(values, gradient))
        return torch.stack(list(self._model.loss_terms(output, batch["target"]).values())).sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the embeddings of a batch."""
        embedding = self._model(batch["image"]).detach().float().cpu()
        self._seen.append((embedding, batch["target"].cpu()))

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums; merge the learners where it is time."""
        super().on_train_epoch_start()
        self.importance.zero_()
        if self.current_epoch >= self._model.merge_at * (self.trainer.max_epochs or 0):
            self._model.merged.fill_(True)

    def on_validation_epoch_start(self) -> None:
        """Forget earlier embeddings."""
        super().on_validation_epoch_start()
        self._seen = []

    def on_validation_epoch_end(self) -> None:
        """Score retrieval of the validation images; under several processes, of each."""
        queries = sum(len(target) for _, target in self._seen)
        seen = self._seen + [
            (self._model(image).detach().float().cpu(), target)
            for image, target in self._plain(self.gallery)
        ]
        embedding, target = (torch.cat(parts).numpy() for parts in zip(*seen, strict=True))
        loss = 1 - average_precision(embedding, target) + _TIE * neighbour_loss(embedding, target)
        loss = loss[:queries][np.isfinite(loss[:queries])]
        count = max(1, len(loss))
        total = loss.sum() if len(loss) else 1.0
        self._sums["val"] = self._zero() + torch.tensor(
            [total, count], dtype=torch.float64, device=self.device
        )
        super().on_validation_epoch_end()

    def on_train_epoch_end(self) -> None:
        """Add a learner and divide the images anew where it is time."""
        super().on_train_epoch_end()
        score = -self.mean_loss("val")
        if score > float(self.best) + _LEAST_RISE:
            self.best.fill_(score)
            self.waited.zero_()
            self.explored.fill_(False)
        else:
            self.waited += 1
        if bool(self._model.merged):
            return
        grown = self._grow()
        due = (self.current_epoch + 1) % self._model.recluster_every == 0
        if int(self._model.learners) > 1 and (grown or due):
            self._divide()

    @property
    def _model(self) -> DynamicSubspaceLearners:
        assert isinstance(self.model, DynamicSubspaceLearners)
        return self.model

    def _plain(self, rows: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the images of `rows` and their classes, some at a time."""
        for first in range(0, len(rows), self.images_at_once):
            batch = self.images.batch(rows[first : first + self.images_at_once])
            yield batch["image"].to(self.device), batch["target"]

    def _note(self, values: Tensor, gradient: Tensor) -> None:
        self.importance += (values.double() * gradient.double()).sum(0)

    def _grow(self) -> bool:
        if int(self.waited) < self._model.grow_after or bool(self.explored):
            return False
        importance = self.trainer.strategy.reduce(self.importance.clone(), reduce_op="sum")
        assert isinstance(importance, Tensor)
        rows = self._model.grow(importance)
        if rows is None:
            return False
        self.explored.fill_(True)
        self.waited.zero_()
        self._forget_moments(rows)
        return True

    def _forget_moments(self, rows: Tensor) -> None:
        """Let the optimiser begin anew with the weights of values that begin anew."""
        for optimizer in self.trainer.optimizers:
            for parameter in (self._model.embed.weight, self._model.embed.bias):
                state: dict[str, Any] = optimizer.state.get(parameter, {})
                for value in state.values():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        value[rows] = 0

    @torch.no_grad()
    def _divide(self) -> None:
        """Divide the training images into one group for each learner."""
        model, parts, before = self._model, [], []
        was = model.training
        model.eval()
        for image, _ in self._plain(np.arange(len(self.images))):
            features = model.outputs(image).features.float()
            parts.append(features.cpu().numpy())
            before.append(model.groups(features).cpu().numpy())
        model.train(was)
        points, count = np.concatenate(parts), int(model.learners)
        groups = cluster(points, count, seed=self.current_epoch)
        groups = renamed(groups, np.concatenate(before), count)
        model.centroids[:count] = torch.from_numpy(centres(points, groups, count)).to(
            model.centroids
        )
