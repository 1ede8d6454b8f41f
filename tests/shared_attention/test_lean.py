"""LeanAttention is softmax attention: what is particular is how the work is divided."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shared_attention import UnsupportedError, attention, masks
from shared_attention.mechanisms.lean import TILE, lean_attention, split_evenly

ROOT = Path(__file__).parents[2]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ragged(lengths: list[int], count: int) -> torch.Tensor:
    return torch.arange(count) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("lengths", [[700], [0, 5, 1000, 128], [128] * 7, [0, 0]])
@pytest.mark.parametrize("workers", [1, 2, 5, 40])
def test_every_tile_is_read_once_and_shares_are_even(lengths, workers):
    shares = split_evenly(lengths, workers)
    read = [[0] * length for length in lengths]
    for row, start, stop in (segment for share in shares for segment in share):
        assert start % TILE == 0 and (stop % TILE == 0 or stop == lengths[row])
        for key in range(start, stop):
            read[row][key] += 1
    assert all(count == 1 for row in read for count in row)
    tiles = [sum(-(-(s.stop - s.start) // TILE) for s in share) for share in shares]
    assert max(tiles) - min(tiles) <= 1


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_ragged_lengths_and_grouped_heads_equal_softmax(workers, causal):
    q, k, v = draw(4, 8, 3, 16), draw(4, 2, 300, 16, seed=1), draw(4, 2, 300, 24, seed=2)
    mask = masks.keys(ragged([300, 0, 1, 170], 300))
    mask = mask & masks.causal() if causal else mask
    out = lean_attention(q, k, v, mask=mask, workers=workers, tile=32)
    torch.testing.assert_close(out, attention(q, k, v, mask=mask), atol=1e-6, rtol=1e-6)


def test_what_lies_behind_the_last_valid_key_is_not_read():
    q, k, v = draw(2, 4, 1, 16), draw(2, 4, 300, 16), draw(2, 4, 300, 16)
    valid = ragged([140, 290], 300)
    out = lean_attention(q, k, v, mask=masks.keys(valid))
    k, v = (x.masked_fill(~valid[:, None, :, None], torch.nan) for x in (k, v))
    torch.testing.assert_close(lean_attention(q, k, v, mask=masks.keys(valid)), out)


def test_gradients_equal_those_of_softmax():
    given = [draw(2, 4, 2, 8), draw(2, 4, 300, 8, seed=1), draw(2, 4, 300, 8, seed=2)]
    given = [x.double().requires_grad_() for x in given]
    mine = torch.autograd.grad(lean_attention(*given, workers=5).sin().sum(), given)
    theirs = torch.autograd.grad(attention(*given).sin().sum(), given)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_it_is_a_backend_of_softmax_taken_by_name_only():
    q, k, v = draw(2, 4, 1, 8), draw(2, 4, 300, 8), draw(2, 4, 300, 8)
    out = attention(q, k, v, backend="lean")
    torch.testing.assert_close(out, attention(q, k, v), atol=1e-6, rtol=1e-6)
    with pytest.raises(UnsupportedError, match="lean: it takes no bias"):
        attention(q, k, v, backend="lean", bias=draw(1, 1, 1, 300))
    with pytest.raises(UnsupportedError, match="the mask has parts beyond causal"):
        lean_attention(q, k, v, mask=masks.window(3, 3))


INTERPRETED = """
import torch
from shared_attention import attention, masks
from shared_attention.mechanisms.lean_kernel import decode
def hold(out, **given):
    true = attention(q.double(), k.double(), v.double(), **given)
    assert (out - true).abs().max() <= 1e-6 * true.abs().max()
torch.manual_seed(0)
q, k, v = torch.randn(5, 4, 3, 16), torch.randn(5, 2, 300, 16), torch.randn(5, 2, 300, 24)
valid = torch.arange(300) < torch.tensor([[0], [300], [0], [150], [0]])
valid[1, 40:60] = False
for causal in (False, True):
    mask = masks.keys(valid) & masks.causal() if causal else masks.keys(valid)
    for workers in (1, 3, 40):
        out = decode(q, k, v, valid, scale=None, workers=workers, causal=causal)
        hold(out, mask=mask)
out = decode(q, k, v, None, scale=0.5, workers=4, causal=False)
hold(out, scale=0.5)
out = decode(q, k, v, torch.zeros(5, 300).bool(), scale=None, workers=4, causal=False)
assert (out == 0).all()
"""


def test_the_kernel_interpreted_on_cpu_equals_softmax():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
