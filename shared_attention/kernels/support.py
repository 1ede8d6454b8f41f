"""When a Triton kernel can serve a call, and how it multiplies."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from shared_attention.inputs import Inputs

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
WIDEST = 128
"""Widest keys and values that a program holds."""
LEAST = 16
"""Least side of a matrix that a matrix instruction takes."""


def why_not(inputs: Inputs, *, trains: bool = True, widest: int = WIDEST) -> list[str]:
    """List the reasons why no kernel here can serve these inputs.

    Args:
        inputs: The call.
        trains: Whether the kernel has a backward pass.
        widest: Widest keys and values that it takes.
    """
    reasons = []
    if not has_triton():
        reasons.append("triton is missing: pip install 'heed-core[triton]'")
    device = inputs.q.device.type
    if device != "cuda" and not interpreted():
        reasons.append(f"the tensors are on {device}, it needs cuda")
    if inputs.q.dtype not in DTYPES:
        reasons.append(f"it does not compute in {inputs.q.dtype}")
    if max(inputs.q.shape[3], inputs.v.shape[3]) > widest:
        reasons.append(f"keys or values are wider than {widest}")
    if inputs.bias is not None:
        reasons.append("it takes no bias")
    if inputs.q.numel() == 0 or inputs.k.numel() == 0 or inputs.v.numel() == 0:
        reasons.append("it takes no empty tensors")
    if not trains and inputs.needs_grad and torch.is_grad_enabled():
        reasons.append("it has no backward pass")
    return reasons


@functools.cache
def has_triton() -> bool:
    """Whether triton is installed."""
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, which then take tensors on processors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def precision(dtype: torch.dtype) -> str:
    """How products of matrices are formed: in float32 from three of TF32, unless TF32 is allowed.

    PyTorch's own setting decides, `torch.backends.cuda.matmul.allow_tf32`.
    """
    if dtype != torch.float32:
        return "ieee"
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


def padded(size: int) -> int:
    """The power of 2 that covers a side of a matrix."""
    return max(LEAST, 1 << (size - 1).bit_length())
