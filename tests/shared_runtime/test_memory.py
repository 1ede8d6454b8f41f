"""The allocator keeps what training frees."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shared_runtime.memory import keep_freed_memory

FAULTS = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages hide faults at random
import torch
from shared_runtime.memory import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()

def step():
    kept = [torch.ones(3_000_000) for _ in range(4)]
    return sum(x[0] for x in kept)

for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="the allocator is not glibc's")
def test_steady_steps_cause_hardly_any_page_faults():
    returned = faults("return")
    if returned == 0:
        pytest.skip("this kernel counts no page faults")
    assert 5 * faults("keep") < returned
