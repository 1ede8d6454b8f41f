"""HiP attention beyond the conformance kit: the search, its limits, the Triton kernel."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from shared_attention import attention, masks
from shared_attention.mechanisms.hip_search import Search, choose_blocks
from shared_attention.references.hip import reference_hip
from shared_attention.testing import check_mechanism

SMALL = {"block": 4, "top_k": 3, "sinks": 1, "window": 1}
CHECKS = (
    "padding",
    "hidden keys",
    "prefix consistency",
    "state",
    "empty rows",
    "gradients",
    "export",
)


def draw(length: int):
    return torch.randn(3, 2, 2, length, 8, generator=torch.Generator().manual_seed(4)).unbind(0)


@pytest.mark.parametrize("check", CHECKS)
def test_many_blocks(check):
    report = check_mechanism("hip", options=SMALL, checks=(check,))
    assert report.ok, report


@pytest.mark.parametrize("length", [3, 64, 97])
@pytest.mark.parametrize("causal", [False, True])
def test_many_blocks_agree_with_the_reference(causal, length):
    q, k, v = draw(length)
    mask = masks.keys(torch.rand(2, length, generator=torch.Generator().manual_seed(1)) > 0.2)
    mask = mask & masks.causal() if causal else mask
    out = attention(q, k, v, "hip", mask, **SMALL)
    torch.testing.assert_close(out, reference_hip(q, k, v, mask=mask, **SMALL).float())


def test_enough_blocks_are_softmax():
    q, k, v = draw(70)
    for mask in (None, masks.causal()):
        out = attention(q, k, v, "hip", mask, block=4, top_k=18)
        torch.testing.assert_close(out, attention(q, k, v, mask=mask))


def test_the_search_follows_a_slope_to_its_top_and_keeps_sinks_and_window():
    blocks, block = 64, 2
    height = torch.arange(blocks).float()
    height = torch.where(height < 30, height, 60 - height)
    k = height.repeat_interleave(block)[None, None, :, None].expand(1, 1, -1, 4)
    q = torch.ones_like(k)
    real = torch.tensor([blocks * block])
    ids, used = choose_blocks(q, k, real, True, Search(block, 4, 1, 2))
    chosen = set(ids[0, 0, -1][used[0, 0, -1]].tolist())
    assert {0, 61, 62, 63} <= chosen and 30 in chosen and len(chosen) == 8
    assert (ids[used] <= torch.arange(blocks)[:, None].expand(1, 1, -1, ids.shape[-1])[used]).all()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_triton_kernel_agrees_when_interpreted():
    code = """
import torch
from shared_attention import attention, masks
q, k, v = torch.randn(3, 2, 2, 27, 8, generator=torch.Generator().manual_seed(4)).unbind(0)
for mask in (masks.causal(), masks.keys(torch.arange(27).expand(2, -1) < 22)):
    both = [
        attention(q, k, v, "hip", mask, block=4, top_k=3, window=1, backend=backend)
        for backend in ("eager", "triton")
    ]
    torch.testing.assert_close(both[0], both[1])
"""
    subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"TRITON_INTERPRET": "1"}, check=True
    )


def test_options_out_of_range_are_named():
    q, k, v = draw(9)
    with pytest.raises(ValueError, match="hip: option top_k got 0, expected at least 1"):
        attention(q, k, v, "hip", top_k=0)
