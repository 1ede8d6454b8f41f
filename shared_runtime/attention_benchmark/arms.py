"""A mechanism or a baseline ready to be called, forward or forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from shared_attention import catalogue, masks
from shared_attention.layers.multihead import MultiHeadAttention
from shared_runtime.attention_benchmark.cells import BASELINE, SDPA, Cell, Settings
from shared_runtime.attention_benchmark.operands import operator, placed


class Arm:
    """A function of tensors with its inputs and parameters.

    Args:
        run: What is timed.
        inputs: Its arguments; those of floating point take gradients in training.
        module: Holds the parameters, where there are some.
    """

    def __init__(
        self,
        run: Callable[..., Tensor],
        inputs: Mapping[str, Any],
        module: nn.Module | None = None,
    ) -> None:
        self.run, self.inputs, self.module = run, dict(inputs), module
        self._weight: Tensor | None = None
        floats = [
            x for x in self.inputs.values() if isinstance(x, Tensor) and x.is_floating_point()
        ]
        for x in floats:
            x.requires_grad_()
        learned = [] if module is None else [p for p in module.parameters() if p.requires_grad]
        self.leaves = [*floats, *learned]

    def forward(self) -> Tensor:
        """Infer, recording nothing for gradients."""
        if self.module is not None:
            self.module.eval()
        with torch.inference_mode():
            return self.run(**self.inputs)

    def training(self) -> None:
        """Forward and backward from a fixed gradient of the output."""
        if self.module is not None:
            self.module.train()
        out = self.run(**self.inputs)
        if self._weight is None or self._weight.shape != out.shape:
            self._weight = torch.ones_like(out)
        torch.autograd.grad(out, self.leaves, self._weight, allow_unused=True)

    def call(self, name: str) -> Callable[[], object]:
        """Return the method of a pass."""
        return self.forward if name == "forward" else self.training


def build(cell: Cell, settings: Settings) -> Arm:
    """Build a mechanism with random inputs of a cell's length."""
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    mask = masks.causal() if cell.mask == "causal" else None
    channels = settings.heads * settings.head_dim
    if cell.family == BASELINE:
        return baseline(cell, settings)
    spec = catalogue()[cell.mechanism]
    if spec.family in ("attention", "recurrent"):
        module = spec.build(num_heads=settings.heads, head_dim=settings.head_dim)
        inputs = noise(settings, cell.length)
        if spec.family == "recurrent":
            del inputs["q"]
    else:
        options, made = operator(spec, settings.batch, cell.length, channels)
        module = spec.build(**options)
        inputs = {name: placed(value, device, dtype) for name, value in made.items()}
    module = module.to(device, dtype)
    given = {} if mask is None or spec.family == "recurrent" else {"mask": mask}
    return Arm(lambda **tensors: module(**tensors, **given), inputs, module)


def baseline(cell: Cell, settings: Settings) -> Arm:
    """Build what a cell is measured beside, with random inputs of the same length."""
    causal = cell.mask == "causal"
    device, dtype = torch.device(settings.device), getattr(torch, settings.dtype)
    if cell.baseline == SDPA:

        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return scaled_dot_product_attention(q, k, v, is_causal=causal)

        return Arm(run, noise(settings, cell.length))
    channels = settings.heads * settings.head_dim
    layer = MultiHeadAttention(channels, settings.heads).to(device, dtype)
    mask = masks.causal() if causal else None
    x = torch.randn(settings.batch, cell.length, channels, device=device, dtype=dtype)
    return Arm(lambda x: layer(x, mask=mask), {"x": x}, layer)


def noise(settings: Settings, length: int) -> dict[str, Tensor]:
    """Draw q, k, v of standard normal numbers."""
    shape = (settings.batch, settings.heads, length, settings.head_dim)
    dtype = getattr(torch, settings.dtype)
    return {name: torch.randn(shape, device=settings.device, dtype=dtype) for name in "qkv"}
