"""The cache of keys and values: room to grow without gradients, which states may not share."""

from __future__ import annotations

import pytest
import torch

from shared_attention import masks
from shared_attention.mechanisms import kv_state
from shared_attention.mechanisms.kv_state import empty_state
from shared_attention.testing import check_mechanism


def grown(*lengths: int):
    """The states after so many new positions each, and what was written."""
    random = torch.Generator().manual_seed(0)
    states, parts = [empty_state(2, 3, 4, 5)], []
    for length in lengths:
        k, v = (torch.randn(2, 3, length, width, generator=random) for width in (4, 5))
        states.append(states[-1].extended(k, v, None))
        parts.append((k, v))
    return states, [torch.cat(x, 2) for x in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    "name", ["softmax", "gated", "selective", "landmark", "hip", "prob_sparse"]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_streams_without_gradients(name, mode):
    with mode():
        report = check_mechanism(name, checks=("state",))
    assert report.ok, report


@torch.no_grad()
def test_steps_write_into_the_room_and_leave_earlier_states_as_they_were():
    states, (k, v) = grown(80, 1, 1, 1, 7, 90)
    for state in states:
        assert torch.equal(state.k, k[:, :, : state.k.shape[2]])
        assert torch.equal(state.v, v[:, :, : state.v.shape[2]])
    assert states[2].room is states[3].room is states[4].room
    assert states[2].k.data_ptr() == states[4].k.data_ptr()
    assert states[6].room is not states[4].room


@torch.no_grad()
def test_two_continuations_of_one_state_do_not_meet():
    states, _ = grown(80, 1)
    k, v = torch.ones(2, 3, 1, 4), torch.ones(2, 3, 1, 5)
    first = states[2].extended(k, v, None)
    second = states[2].extended(2 * k, 2 * v, None)
    assert (first.k[:, :, -1] == 1).all() and (second.k[:, :, -1] == 2).all()
    assert first.room is not second.room


@torch.no_grad()
def test_states_that_were_rearranged_move():
    states, _ = grown(80, 1)
    k, v = torch.ones(2, 3, 1, 4), torch.ones(2, 3, 1, 5)
    turned = states[2]._replace(k=states[2].k.flip(0), v=states[2].v.flip(0))
    out = turned.extended(k, v, masks.keys(torch.ones(2, 1, dtype=torch.bool)))
    assert torch.equal(out.k[:, :, :-1], turned.k)
    first = states[2]._replace(k=states[2].k[:1], v=states[2].v[:1])
    out = first.extended(k[:1], v[:1], None)
    assert out.k.shape == (1, 3, 82, 4) and torch.equal(out.k[:, :, :-1], first.k)


def test_a_state_of_inference_mode_goes_on_outside_of_it():
    with torch.inference_mode():
        states, _ = grown(80, 1)
    with torch.no_grad():
        out = states[2].extended(torch.ones(2, 3, 1, 4), torch.ones(2, 3, 1, 5), None)
    assert (out.k[:, :, -1] == 1).all()


@torch.no_grad()
def test_small_caches_take_no_more_than_they_need(monkeypatch):
    monkeypatch.setattr(kv_state, "SMALL", 64)
    states, _ = grown(20, 1, 1)
    assert states[3].room is None
    assert states[3].k.untyped_storage().nbytes() == states[3].k.numel() * 4


def test_with_gradients_nothing_is_written_in_place():
    q = torch.randn(2, 3, 1, 4, requires_grad=True)
    state = empty_state(2, 3, 4, 5).extended(q, torch.ones(2, 3, 1, 5), None)
    longer = state.extended(2 * q, torch.ones(2, 3, 1, 5), None)
    assert state.room is None and longer.room is None
    assert torch.equal(torch.autograd.grad(longer.k.sum(), q)[0], torch.full_like(q, 3))
