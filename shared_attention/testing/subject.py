"""One way to call the mechanisms of every family that the kit checks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from shared_attention import masks
from shared_attention.dispatch import choose_backend
from shared_attention.inputs import check_inputs
from shared_attention.masks import Mask
from shared_attention.spec import MechanismSpec
from shared_attention.testing.report import NotClaimed

HEADS = 4
WIDTH = 8
Three = tuple[Tensor, Tensor, Tensor]


@dataclass
class Subject:
    """A mechanism under test, called with q, k, v; the recurrent family ignores q."""

    spec: MechanismSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    _modules: dict[Any, nn.Module] = field(default_factory=dict)

    @property
    def recurrent(self) -> bool:
        """Whether the mechanism has its own query and is causal by construction."""
        return self.spec.family == "recurrent"

    def needs(self, capability: str) -> None:
        """End the check where the capability is not claimed."""
        if not self.spec.supports(capability):
            raise NotClaimed(f"does not claim {capability}")

    def draw(
        self,
        batch: int,
        length: int,
        keys: int | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        heads: int = HEADS,
        kv_heads: int | None = None,
        width: int = WIDTH,
        grad: bool = True,
    ) -> Three:
        """Random q, k, v; views that are not contiguous, as layers make them."""
        random = torch.Generator().manual_seed(seed)
        narrow = self.spec.capabilities.value_dim and not self.recurrent
        value_width = width - 1 if narrow else width

        def tensor(count: int, positions: int, size: int) -> Tensor:
            x = torch.randn(batch, positions, count, size, generator=random, dtype=torch.float64)
            return x.to(dtype).transpose(1, 2).requires_grad_(grad)

        keys = length if keys is None else keys
        kv_heads = heads if kv_heads is None else kv_heads
        return (
            tensor(heads, length, width),
            tensor(kv_heads, keys, width),
            tensor(kv_heads, keys, value_width),
        )

    def module(self, heads: int, width: int, dtype: torch.dtype) -> nn.Module:
        """The mechanism's module with parameters that are the same in every call."""
        key = (heads, width)
        if key not in self._modules:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self._modules[key] = self._build(heads, width)
        return copy.deepcopy(self._modules[key]).to(dtype).eval()

    def _build(self, heads: int, width: int) -> nn.Module:
        if self.spec.module is None:
            raise NotClaimed("has no module of its own")
        return self.spec.module(num_heads=heads, head_dim=width, **self.spec.resolve(self.options))

    def run(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        *,
        backend: str = "auto",
        module: nn.Module | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Call the mechanism through the backend that dispatch would choose, or a named one."""
        mask = self.required(mask)
        if self.spec.function is None:
            return self.call(q, k, v, mask, bias, module=module)
        arguments: dict[str, Any] = {"mask": mask, **self.spec.resolve(self.options)}
        can = self.spec.capabilities
        if can.bias:
            arguments["bias"] = bias
        if can.scale:
            arguments["scale"] = None
        if can.stochastic:
            arguments["generator"] = generator
        function = self.spec.function
        if self.spec.implementations:
            inputs = check_inputs(q, k, v, mask, bias)
            function = choose_backend(self.spec, inputs, backend).run
        return function(q, k, v, **arguments)

    def call(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        *,
        module: nn.Module | None = None,
    ) -> Tensor:
        """Call the mechanism's own function or module, without dispatch."""
        mask = self.required(mask)
        if self.spec.function is not None:
            arguments = {} if bias is None else {"bias": bias}
            return self.spec.function(q, k, v, mask=mask, **self.options, **arguments)
        module = self.own_module(q, k) if module is None else module
        assert module is not None
        if self.recurrent:
            return module(k, v, mask=mask)
        return module(q, k, v, mask=mask, bias=bias)

    def own_module(self, q: Tensor, k: Tensor) -> nn.Module | None:
        """The module that `run` and `reference` share; None for mechanisms without parameters."""
        if self.spec.function is not None:
            return None
        heads = k.shape[1] if self.recurrent else q.shape[1]
        return self.module(heads, k.shape[-1], k.dtype)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None = None,
        bias: Tensor | None = None,
        *,
        module: nn.Module | None = None,
    ) -> Tensor:
        """The independent float64 formulation, with the parameters of `module`."""
        mask = self.required(mask)
        if self.spec.reference is None:
            raise NotClaimed("has no reference")
        module = self.own_module(q, k) if module is None else module
        if self.recurrent:
            assert module is not None
            parameters = (parameter.double() for parameter in module.parameters())
            return self.spec.reference(*parameters, k, v, mask=mask, **self.options)
        arguments: dict[str, Any] = {} if bias is None else {"bias": bias}
        if module is not None:
            arguments["parameters"] = state_in_double(module)
        return self.spec.reference(q, k, v, mask=mask, **self.options, **arguments)

    @property
    def always_causal(self) -> bool:
        """Whether calls without a causal mask are refused."""
        return self.spec.capabilities.causal == "always" and self.spec.family == "attention"

    def required(self, mask: Mask | None) -> Mask | None:
        """`mask`, made causal where the mechanism has no other form."""
        if not self.always_causal or masks.split(mask).causal:
            return mask
        return self.causal(mask)

    def causal(self, other: Mask | None = None) -> Mask | None:
        """A causal mask, `other` as well; the recurrent family needs none."""
        if self.recurrent:
            return other
        return masks.causal() if other is None else masks.causal() & other

    def masks(self, batch: int, length: int, keys: int) -> dict[str, Mask | None]:
        """A mask of every kind that the mechanism claims, by name."""
        can = self.spec.supports
        valid = torch.rand(batch, keys, generator=torch.Generator().manual_seed(keys)) > 0.3
        document = masks.document((_thirds(batch, length), _thirds(batch, keys)))
        kinds: dict[str, tuple[bool, Mask | None]] = {
            "no mask": (True, None),
            "causal": (can("causal") and not self.recurrent, masks.causal()),
            "keys": (can("key_padding"), masks.keys(valid)),
            "causal and keys": (
                can("causal") and can("key_padding") and not self.recurrent,
                masks.causal() & masks.keys(valid),
            ),
            "window": (can("window"), masks.window(3, 1)),
            "document": (can("dense_mask"), document),
            "prefix": (can("dense_mask"), masks.causal() | masks.prefix(2)),
        }
        return {name: mask for name, (claimed, mask) in kinds.items() if claimed}

    def start(self, k: Tensor, v: Tensor) -> Any:
        """The state of no positions."""
        self.needs("state")
        module: Any
        if self.recurrent:
            module = self.module(k.shape[1], k.shape[3], k.dtype)
            return module.init_state(k.shape[0], dtype=k.dtype, device=k.device)
        if self.spec.function is None:
            module = self.own_module(k, k)
            return module.init_state(
                k.shape[0], k.shape[1], k.shape[3], v.shape[3], dtype=k.dtype, device=k.device
            )
        assert self.spec.init_state is not None
        return self.spec.init_state(
            k.shape[0], k.shape[1], k.shape[3], v.shape[3],
            dtype=k.dtype, device=k.device, **self.options,
        )  # fmt: skip

    def advance(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any, mask: Mask | None = None
    ) -> tuple[Tensor, Any]:
        """Prefill, or step where there is one position and no mask."""
        one = k.shape[2] == 1 and mask is None
        module: Any
        if self.recurrent:
            module = self.module(k.shape[1], k.shape[3], k.dtype)
            return module.step(k, v, state) if one else module.prefill(k, v, state, mask=mask)
        if self.spec.function is None:
            module = self.own_module(q, k)
            advance = module.step if one else module.prefill
            return advance(q, k, v, state, mask=mask)
        assert self.spec.prefill is not None and self.spec.step is not None
        if one:
            return self.spec.step(q, k, v, state, **self.options)
        return self.spec.prefill(q, k, v, state, mask=mask, **self.options)


def _thirds(batch: int, length: int) -> Tensor:
    return (torch.arange(length) * 3 // max(1, length)).expand(batch, -1)


def state_in_double(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name in float64, through which gradients flow back."""
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    return {n: x.double() if x.is_floating_point() else x for n, x in state.items()}


def gradients(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of a fixed random projection of `out`; zero where an input has no part in it."""
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if not out.requires_grad:
        return tuple(torch.zeros_like(x) for x in inputs)
    found = torch.autograd.grad(out, inputs, weight.to(out.dtype), allow_unused=True)
    return tuple(
        torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)
    )
