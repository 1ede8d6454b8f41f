"""Which device a command runs on."""

from __future__ import annotations

import torch

from shared_runtime.errors import UsageError


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu` or `cuda` into a device; `auto` prefers CUDA.

    Raises:
        UsageError: CUDA is asked for and absent, or the name is unknown.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name == "cuda":
        if not available:
            raise UsageError(
                "device: cuda was asked for but this machine has no usable CUDA device; "
                "use --device cpu or --device auto"
            )
        return torch.device("cuda")
    raise UsageError(f"device: expected one of auto, cpu, cuda, got {name!r}")
