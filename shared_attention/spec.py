"""What the catalogue says about a mechanism."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from shared_attention.capabilities import CAPABILITIES as CAPABILITIES
from shared_attention.capabilities import EVERY_SCORE as EVERY_SCORE
from shared_attention.capabilities import Capabilities as Capabilities
from shared_attention.errors import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from shared_attention.inputs import Inputs

Family = Literal["attention", "recurrent", "mixer", "pooling", "spatial", "graph"]
"""What is called how:

- attention: `(q, k, v, mask, bias) -> out`, heads given;
- recurrent: `(k, v, mask) -> out`, with a query of its own, causal;
- mixer: `(x [B, *grid, C], [mask]) -> y` of the same shape;
- pooling: `(x [B, L, C], [mask]) -> y [B, R, C']`;
- spatial: `(x [B, *grid, C], ...) -> y [B, *grid, C']`, sampling operators included;
- graph: `(x [N, C], edge_index [2, E], ...) -> y [N, C']`.
"""
SIZES: dict[str, tuple[str, ...]] = {
    "attention": ("num_heads", "head_dim"),
    "recurrent": ("num_heads", "head_dim"),
}
"""Arguments of `MechanismSpec.build` other than options; families not named take `channels`."""
REQUIRED: Any = ...
"""Default of an option that has to be given."""


@dataclass(frozen=True)
class Option:
    """One option of a mechanism, as command lines, docs and checks see it."""

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()

    @property
    def shown_default(self) -> str:
        """The default as listings print it."""
        return "required" if self.default is REQUIRED else str(self.default)

    def check(self, mechanism: str, value: Any) -> Any:
        """Return `value` as this option's type.

        Raises:
            ValueError: The value has another type or is not one of the choices.
        """
        if value is None and self.default is None:
            return value
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.type) or (self.type is int and isinstance(value, bool)):
            raise ValueError(
                f"{mechanism}: option {self.name} got {value!r}, expected {self.type.__name__}"
            )
        if self.choices and value not in self.choices:
            raise ValueError(
                f"{mechanism}: option {self.name} got {value!r}, "
                f"expected one of {', '.join(self.choices)}"
            )
        return value


def _always(inputs: Inputs) -> list[str]:
    return []


@dataclass(frozen=True)
class Backend:
    """One way to compute a mechanism.

    `run` takes the arguments of `MechanismSpec.function`. `why_not(inputs)` lists every reason
    why it cannot serve these inputs, each a short clause; an empty list means it can.
    """

    name: str
    run: Callable[..., Tensor]
    why_not: Callable[[Inputs], list[str]] = _always


@dataclass(frozen=True)
class MechanismSpec:
    """A mechanism: where it comes from, what it can do, and how to call it.

    The smallest useful spec gives the text fields, `capabilities` and `function`. `function` is
    called `function(q, k, v, *, mask=None, [bias=None], [scale=None], [generator=None],
    **options)`; dispatch passes `bias`, `scale` and `generator` only to mechanisms whose
    capabilities have `bias`, `scale` and `stochastic`, and refuses them for the others.

    Raises:
        ValueError: There is nothing to call, or the state that is claimed cannot be continued.
    """

    name: str
    family: Family
    title: str
    paper: str
    equation: str
    complexity: str
    when_to_use: str
    correctness: str
    """How its correctness was established."""
    capabilities: Capabilities
    options: tuple[Option, ...] = ()
    function: Callable[..., Tensor] | None = None
    """None for mechanisms with parameters: those come from `build`."""
    module: Callable[..., nn.Module] | None = None
    """`module(num_heads=, head_dim=, **options)` for mechanisms with parameters, or
    `module(channels=, **options)` for families other than attention and recurrent. Where a module
    of family attention claims `aux` it has `output(q, k, v, mask=None, bias=None, *, need=())
    -> AttentionOutput`."""
    implementations: tuple[Backend, ...] = ()
    """Backends in order of preference; empty: `function` is the only one, named eager."""
    rich: Callable[..., Any] | None = None
    """As `function`, with `need: frozenset[str]`, returning AttentionOutput. Only for what
    dispatch cannot derive: the weights of mechanisms linear in v need none."""
    reference: Callable[..., Tensor] | None = None
    """Independent float64 formulation, called like `function`. Mechanisms with parameters get them,
    and their buffers, as `parameters: Mapping[str, Tensor]` in float64; for recurrent mechanisms
    `reference(query, k, v, *, mask)`."""
    init_state: Callable[..., Any] | None = None
    """`init_state(batch, kv_heads, key_dim, value_dim, *, dtype, device, **options) -> state`."""
    prefill: Callable[..., tuple[Tensor, Any]] | None = None
    """`prefill(q, k, v, state, *, mask=None, [scale], **options) -> (out, state)`: causal
    attention of the new positions to all seen so far; `mask` is `masks.keys` of the new ones."""
    step: Callable[..., tuple[Tensor, Any]] | None = None
    """`step(q, k, v, state, ...)`: one position, `q, k, v: [B, H, 1, D]`."""
    dims: tuple[int, ...] = (1,)
    """Numbers of grid dimensions that a mixer or spatial operator takes."""
    example: Mapping[str, Any] = field(default_factory=dict)
    """Options with which the kit builds an operator, `channels` included; 8 channels otherwise."""
    sample: Callable[..., Mapping[str, Any]] | None = None
    """`sample(batch, generator) -> arguments of forward`, small, for operators that take more than
    x; tensors of float type in float64, batch first (for graphs: `batch` graphs side by side)."""

    def __post_init__(self) -> None:
        if self.function is None and self.module is None:
            raise ValueError(f"mechanism {self.name}: give function or module")
        if self.module is None and self.family not in SIZES:
            raise ValueError(f"mechanism {self.name}: family {self.family} is built, give module")
        streams = (self.init_state, self.prefill, self.step)
        if self.function is not None and self.capabilities.state and None in streams:
            raise ValueError(
                f"mechanism {self.name}: claims state, so give init_state, prefill and step"
            )

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the backends in the order in which "auto" tries them."""
        return tuple(backend.name for backend in self.implementations) or ("eager",)

    def supports(self, capability: str) -> bool:
        """Say whether the mechanism honours `capability`.

        Raises:
            ValueError: There is no capability of that name.
        """
        if capability not in CAPABILITIES:
            raise ValueError(f"no capability {capability!r}{nearest(capability, CAPABILITIES)}")
        return getattr(self.capabilities, capability) not in (False, "none")

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option with its default filled in and its type checked.

        Raises:
            ValueError: An option is unknown or mistyped.
        """
        known = {option.name: option for option in self.options}
        for name in options:
            if name not in known:
                raise ValueError(f"{self.name} has no option {name!r}{nearest(name, list(known))}")
        resolved = {
            name: option.check(self.name, options[name]) if name in options else option.default
            for name, option in known.items()
        }
        for name, value in resolved.items():
            if value is REQUIRED:
                raise ValueError(f"{self.name}: option {name} has to be given: {known[name].help}")
        return resolved

    @property
    def sizes(self) -> tuple[str, ...]:
        """Arguments that `build` needs beside options."""
        return SIZES.get(self.family, ("channels",))

    def build(self, **arguments: Any) -> nn.Module:
        """Build the mechanism as a module.

        Family `attention` is called `module(q, k, v, mask=None, bias=None) -> Tensor`; family
        `recurrent` `module(k, v, mask=None) -> Tensor`; the others as `Family` says.

        Args:
            **arguments: `num_heads` and `head_dim` for families attention and recurrent,
                `channels` for the others, and options.

        Raises:
            ValueError: A size is missing, or an option is missing, unknown or mistyped.
        """
        missing = [name for name in self.sizes if name not in arguments]
        if missing:
            raise ValueError(f"{self.name}: build needs {' and '.join(missing)}")
        sizes = {name: arguments.pop(name) for name in self.sizes}
        resolved = self.resolve(arguments)
        if self.module is not None:
            return self.module(**sizes, **resolved)
        from shared_attention.module import Attention

        return Attention(self.name, **resolved)
