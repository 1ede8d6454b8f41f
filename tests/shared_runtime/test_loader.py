from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st

from shared_runtime.errors import DataError
from shared_runtime.loader import BatchLoader
from tests.shared_runtime.training_toys import Arrays


def indices(loader: BatchLoader) -> list[list[int]]:
    return [loader.indices.tolist() for _ in loader]


def loader_of(count: int, size: int, **options) -> BatchLoader:
    return BatchLoader(Arrays(count, 0), size, **{"seed": 0, "shuffle": True, **options})


@given(count=st.integers(1, 40), size=st.integers(1, 12), epoch=st.integers(0, 5))
def test_an_epoch_holds_every_item_once(count: int, size: int, epoch: int) -> None:
    loader = loader_of(count, size)
    loader.set_epoch(epoch)
    batches = indices(loader)
    assert len(batches) == len(loader)
    assert sorted(chain.from_iterable(batches)) == list(range(count))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)


def test_without_shuffling_the_order_is_kept_and_the_partial_batch_comes_last() -> None:
    assert indices(loader_of(5, 2, shuffle=False)) == [[0, 1], [2, 3], [4]]
    assert indices(loader_of(5, 2, shuffle=False, drop_last=True)) == [[0, 1], [2, 3]]


def test_items_that_differ_from_epoch_to_epoch_are_told_the_epoch() -> None:
    told = []

    class Changing(Arrays):
        def start_epoch(self, epoch: int) -> None:
            told.append(epoch)

    loader = BatchLoader(Changing(6, 0), 2, seed=0, shuffle=True)
    list(loader)
    loader.set_epoch(3)
    next(iter(loader))
    resumed = BatchLoader(Changing(6, 0), 2, seed=0, shuffle=True)
    resumed.load_state_dict(loader.state_dict())
    list(resumed)
    assert told == [0, 3, 3]


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    first, second = loader_of(30, 7), loader_of(30, 7)
    epochs = []
    for epoch in (0, 1, 2):
        first.set_epoch(epoch)
        epochs.append(indices(first))
        np.random.random(3)
    second.set_epoch(2)
    assert indices(second) == epochs[2]
    assert epochs[0] != epochs[1] != epochs[2]
    other = loader_of(30, 7, seed=1)
    other.set_epoch(2)
    assert indices(other) != epochs[2]


@given(position=st.integers(0, 5), epoch=st.integers(0, 3))
def test_it_continues_after_the_batch_where_its_state_was_taken(position: int, epoch: int) -> None:
    whole = loader_of(33, 6)
    whole.set_epoch(epoch)
    expected = indices(whole)
    started = loader_of(33, 6)
    started.set_epoch(epoch)
    iterator = iter(started)
    for _ in range(position):
        next(iterator)
    resumed = loader_of(33, 6)
    resumed.load_state_dict(started.state_dict())
    assert indices(resumed) == expected[position:]
    assert indices(resumed) == expected


def test_batches_come_from_one_call_each() -> None:
    data = Arrays(10, 0)
    batches = list(BatchLoader(data, 4, seed=0, shuffle=True))
    assert [len(seen) for seen in data.seen] == [4, 4, 2]
    assert torch.equal(batches[1]["x"], data.x[data.seen[1]])


@pytest.mark.parametrize("count", [16, 17, 23])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_an_epoch_without_repeating_an_item(
    monkeypatch, count: int, shuffle: bool
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        loader = loader_of(count, 3, shuffle=shuffle)
        shares.append(indices(loader))
        assert len(shares[-1]) == len(loader)
        assert all(1 <= len(batch) <= 3 for batch in shares[-1])
    assert len({len(share) for share in shares}) == 1
    assert sorted(chain(*chain(*shares))) == list(range(count))


def test_more_processes_than_items_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with pytest.raises(DataError, match="3 items are too few for 4 processes: use fewer devices"):
        list(loader_of(3, 1))
