"""Sliding window with sinks beyond the conformance kit: blocks, limits, a constant state."""

from __future__ import annotations

import pytest
import torch

from shared_attention import attention, masks
from shared_attention.mechanisms.sink_window import empty_sinks, prefill_sink_window
from shared_attention.testing import check_mechanism

NARROW = {"sinks": 3, "left": 8, "right": 5}
CHECKS = ("agrees with the reference", "state", "hidden keys", "prefix consistency", "empty rows")


def draw(length: int):
    random = torch.Generator().manual_seed(length)
    return torch.randn(3, 2, 2, length, 8, generator=random).unbind(0)


@pytest.mark.parametrize("check", CHECKS)
def test_windows_narrow_enough_for_blocks(check):
    report = check_mechanism("sink_window", options=NARROW, checks=(check,))
    assert report.ok, report


def test_without_sinks_it_is_window_attention_and_with_all_keys_softmax():
    q, k, v = draw(90)
    out = attention(q, k, v, "sink_window", sinks=0, left=9, right=4)
    torch.testing.assert_close(out, attention(q, k, v, "window", left=9, right=4))
    out = attention(q, k, v, "sink_window", masks.causal(), sinks=90, left=2)
    torch.testing.assert_close(out, attention(q, k, v, mask=masks.causal()))


def test_sinks_are_the_first_real_keys():
    q, k, v = draw(90)
    valid = torch.arange(90).expand(2, -1) >= torch.tensor([[7], [0]])
    out = attention(q, k, v, "sink_window", masks.keys(valid), **NARROW)
    alone = [x[:1, :, 7:] for x in (q, k, v)]
    torch.testing.assert_close(out[:1, :, 7:], attention(*alone, "sink_window", **NARROW))


def test_the_state_stops_growing_and_keeps_the_sinks():
    q, k, v = draw(300)
    state = empty_sinks(2, 2, 8, 8, sinks=3)
    sizes = []
    for at in range(0, 300, 20):
        part = [x[:, :, at : at + 20] for x in (q, k, v)]
        _, state = prefill_sink_window(*part, state, **NARROW)
        sizes.append(state.window.k.shape[2])
    assert sizes == [8] * 15
    torch.testing.assert_close(state.sinks.k, k[:, :, :3])


def test_options_out_of_range_are_named():
    q, k, v = draw(9)
    with pytest.raises(ValueError, match="sink_window: option sinks got -1, expected at least 0"):
        attention(q, k, v, "sink_window", sinks=-1)
