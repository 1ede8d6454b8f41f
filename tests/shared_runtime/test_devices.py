from __future__ import annotations

import pytest
import torch

from shared_runtime.devices import resolve_device
from shared_runtime.errors import UsageError


def test_auto_prefers_cuda(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


def test_cuda_is_never_replaced_silently(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UsageError, match=r"cuda was asked for .* use --device cpu"):
        resolve_device("cuda")


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="expected one of auto, cpu, cuda, got 'gpu'"):
        resolve_device("gpu")
