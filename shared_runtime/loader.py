"""Whole batches in an order that depends on nothing but the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch.distributed

from shared_runtime.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from shared_runtime.domain import Batches


class BatchLoader:
    """Iterate over `batches` one whole batch at a time.

    The order is a permutation drawn from `(seed, epoch)` alone, so it does not depend on what ran
    before, and the position inside an epoch is saved and restored with `state_dict`. The last,
    partial batch is kept unless `drop_last`. Under distributed training each process sees its own
    part of every epoch; no item is repeated, and all processes see the same number of batches.

    Args:
        batches: Data set that assembles a batch from an index array.
        batch_size: Items per batch and process.
        seed: Seed of the order.
        shuffle: Permute the items anew each epoch; otherwise keep their order.
        drop_last: Leave out the last batch where it is not full.
    """

    def __init__(
        self,
        batches: Batches,
        batch_size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool = False,
    ) -> None:
        self.batches = batches
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.epoch = 0
        self.indices = np.empty(0, dtype=np.int64)
        """Items of the batch handed out last."""
        self._position = 0
        self._start = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same for every process."""
        _, world = _rank_and_world()
        items = len(self.batches)
        if self.drop_last:
            return items // world // self.batch_size
        return -(-items // (world * self.batch_size))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the batches of this epoch, from a restored position on if there is one."""
        start, self._start = self._start, 0
        begin = getattr(self.batches, "start_epoch", None)
        if begin is not None:
            begin(self.epoch)
        parts = self._parts()
        for number in range(start, len(parts)):
            self.indices = parts[number]
            self._position = number + 1
            yield self.batches.batch(self.indices)

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch` from its first batch."""
        self.epoch = epoch
        self._position = self._start = 0

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of batches already handed out in it."""
        return {"epoch": self.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batch at which `state` was taken."""
        self.epoch = state["epoch"]
        self._position = self._start = state["position"]

    def _order(self) -> np.ndarray:
        items = len(self.batches)
        if not self.shuffle:
            return np.arange(items, dtype=np.int64)
        bits = np.random.Philox(np.random.SeedSequence([self.seed, self.epoch]))
        return np.random.Generator(bits).permutation(items)

    def _parts(self) -> list[np.ndarray]:
        rank, world = _rank_and_world()
        count = len(self)
        mine = self._order()[rank::world]
        if self.drop_last:
            mine = mine[: count * self.batch_size]
        if world == 1 or self.drop_last:
            return [mine[i : i + self.batch_size] for i in range(0, len(mine), self.batch_size)]
        if len(self.batches) < world * count:
            raise DataError(
                f"{len(self.batches)} items are too few for {world} processes: use fewer devices"
            )
        return np.array_split(mine, count)


def _rank_and_world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
