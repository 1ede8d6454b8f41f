"""The operator under test: mixers, poolings, spatial and graph operators, called with tensors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.masks import Mask
from shared_attention.spec import MechanismSpec
from shared_attention.testing.report import NotClaimed
from shared_attention.testing.subject import gradients, state_in_double

GRIDS = {1: (37,), 2: (7, 10), 3: (4, 6, 5)}
"""Odd and unequal sizes, so that swapped axes show."""
CHANNELS = 8
BATCH = 3
Inputs = dict[str, Any]


@dataclass
class Operator:
    """A module under test with its example inputs."""

    spec: MechanismSpec
    options: Mapping[str, Any] = field(default_factory=dict)

    def needs(self, capability: str) -> None:
        """End the check where the capability is not claimed."""
        if not self.spec.supports(capability):
            raise NotClaimed(f"does not claim {capability}")

    @property
    def channels(self) -> int:
        """Channels with which the module is built."""
        return int(self.spec.example.get("channels", CHANNELS))

    def module(self, dtype: torch.dtype = torch.float32, dims: int | None = None) -> nn.Module:
        """The module with parameters that are the same in every call, in evaluation mode.

        Args:
            dtype: Type of the parameters.
            dims: Grid dimensions, for operators that are built for a number of them.
        """
        arguments = {"channels": self.channels, **self.spec.example, **self.options}
        if dims is not None and "dims" in {option.name for option in self.spec.options}:
            arguments["dims"] = dims
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.spec.build(**arguments)
            for parameter in module.parameters():
                if parameter.numel() == 1 or parameter.std() == 0:
                    nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
        return copy.deepcopy(module).to(dtype).eval()

    def inputs(
        self,
        *,
        batch: int = BATCH,
        dims: int | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        grad: bool = True,
        length: int | None = None,
    ) -> Inputs:
        """Example arguments of forward; float tensors are views that are not contiguous.

        Args:
            batch: Samples, or graphs side by side.
            dims: Grid dimensions; the first that the operator takes by default.
            seed: Seed of the values.
            dtype: Type of the float tensors.
            grad: Whether float tensors require gradients.
            length: Positions, for operators on sequences.
        """
        random = torch.Generator().manual_seed(seed)
        if self.spec.sample is not None:
            drawn = dict(self.spec.sample(batch, random))
        else:
            grid = GRIDS[self.spec.dims[0] if dims is None else dims]
            grid = grid if length is None else (length,)
            shape = (batch, self.channels, *grid)
            drawn = {"x": torch.randn(shape, generator=random, dtype=torch.float64).movedim(1, -1)}
        return {
            name: x.to(dtype).requires_grad_(grad) if _is_float(x) else x
            for name, x in drawn.items()
        }

    def every(self) -> list[int | None]:
        """Numbers of grid dimensions to check."""
        return [None] if self.spec.sample is not None else list(self.spec.dims)

    def masks(self, batch: int, length: int) -> dict[str, Mask | None]:
        """No mask, and a mask of every kind that the operator claims."""
        can = self.spec.supports
        random = torch.Generator().manual_seed(length)
        keys = masks.keys(torch.rand(batch, length, generator=random) > 0.3)
        found: dict[str, Mask | None] = {"no mask": None}
        if can("causal"):
            found["causal"] = masks.causal()
        if can("key_padding"):
            found["keys"] = keys
        if can("causal") and can("key_padding"):
            found["causal and keys"] = masks.causal() & keys
        return found

    def causal(self, other: Mask | None = None) -> Mask:
        """A causal mask, `other` as well."""
        return masks.causal() if other is None else masks.causal() & other

    def run(self, module: nn.Module, inputs: Inputs, mask: Mask | None = None) -> Tensor:
        """Call the module; the mask is passed only where there is one."""
        return module(**inputs) if mask is None else module(**inputs, mask=mask)

    def reference(self, module: nn.Module, inputs: Inputs, mask: Mask | None = None) -> Tensor:
        """The independent float64 formulation with the parameters of `module`."""
        if self.spec.reference is None:
            raise NotClaimed("has no reference")
        wide = {n: x.double() if _is_float(x) else x for n, x in inputs.items()}
        settings = {**self.spec.example, **self.options}
        settings.pop("channels", None)
        if mask is not None:
            settings["mask"] = mask
        return self.spec.reference(**wide, parameters=state_in_double(module), **settings)

    def takes_mask(self) -> bool:
        """Whether forward has an argument `mask`."""
        return "mask" in inspect.signature(self.module().forward).parameters


def float_tensors(inputs: Inputs) -> dict[str, Tensor]:
    """The arguments that carry values, by name."""
    return {name: x for name, x in inputs.items() if _is_float(x)}


def leaves(module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """Everything that takes a gradient, by name."""
    learned = {f"parameter {n}": p for n, p in module.named_parameters()}
    return {**float_tensors(inputs), **learned}


def gradients_by_name(out: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a fixed random projection of `out`."""
    return dict(zip(wanted, gradients(out, tuple(wanted.values())), strict=True))


def samples(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Apply a change of the batch axis to every tensor."""
    return {n: change(x) if isinstance(x, Tensor) else x for n, x in inputs.items()}


def pick(index: int) -> Callable[[Tensor], Tensor]:
    """The change that keeps one sample."""
    return partial(_pick, index)


def _pick(index: int, x: Tensor) -> Tensor:
    return x[index : index + 1]


def _is_float(x: object) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()
