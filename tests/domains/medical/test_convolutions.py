"""Convolutions in bfloat16 on grids that are shallower than their kernel."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from domains.medical.models.parts.convolutions import ShallowConvolution, mend_convolutions
from domains.medical.tasks import SegmentationTask
from domains.medical.training_config import MedicalTraining

DIRTY = """
import torch
from domains.medical.models.parts.convolutions import mend_convolutions
from shared_runtime.memory import keep_freed_memory

keep_freed_memory()
layer = torch.nn.Conv3d(32, 32, 3, padding=1)
mend_convolutions(layer)
with torch.autocast("cpu", torch.bfloat16):
    for _ in range(3):
        layer(torch.randn(2, 32, 2, 4, 4)).sum().backward()
print(float(layer.weight.grad.abs().max()))
"""
"""Prints the largest gradient of weights; without the mending, with dirty memory, 1e38 or nan."""


def test_memory_that_was_never_written_is_no_gradient():
    environment = {**os.environ, "MALLOC_PERTURB_": "1", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", DIRTY], env=environment, capture_output=True, text=True, check=True
    )
    assert 0 < float(found.stdout) < 1e3


@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_a_mended_layer_computes_what_it_did(depth):
    torch.manual_seed(0)
    plain = nn.Conv3d(4, 5, 3, (1, 2, 2), padding=1)
    mended = nn.Conv3d(4, 5, 3, (1, 2, 2), padding=1)
    mended.load_state_dict(plain.state_dict())
    mend_convolutions(mended)
    x = torch.randn(2, 4, depth, 4, 6)
    expected = plain(x)
    torch.testing.assert_close(mended(x), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(mended(x).float(), expected, rtol=0.02, atol=0.02)
    half = mended.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.02)


def test_training_mends_the_layers_of_any_model():
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.Sequential(nn.Conv3d(2, 2, 1)), nn.Conv2d(1, 1, 1))
    SegmentationTask(model, MedicalTraining())
    kinds = [type(m) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)]
    assert kinds == [ShallowConvolution, ShallowConvolution, nn.Conv2d]
