"""What the catalogue says about a mechanism."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from shared_attention.errors import nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from shared_attention.inputs import Inputs

Family = Literal["attention", "recurrent", "mixer", "pooling", "spatial", "graph"]


@dataclass(frozen=True)
class Capabilities:
    """What a mechanism honours with its default options; the conformance kit holds it to this."""

    causal: Literal["exact", "always", "none"] = "none"
    """`exact`: with `masks.causal()` no output depends on a later key, query or value. `always`:
    there is no other form, so family `attention` refuses calls without `masks.causal()`."""
    cross: bool = False
    """Query and key lengths may differ (causal is then aligned bottom-right)."""
    key_padding: bool = False
    """`masks.keys(valid)`: keys that are not valid are never read."""
    window: bool = False
    """`masks.window(left, right)`."""
    dense_mask: bool = False
    """Any mask: document, prefix, dense, and anything built with `|`."""
    bias: bool = False
    """Additive bias broadcastable to [B, H, L, S]."""
    bias_grad: bool = False
    """The bias may require gradients."""
    grouped_heads: bool = False
    """Fewer key/value heads than query heads, as long as they divide them."""
    value_dim: bool = True
    """The value width Dv may differ from the key width Dk."""
    scale: bool = True
    """The score scale is an argument."""
    state: bool = False
    """`init_state`, `prefill` and `step` are given, and agree with the causal form."""
    weights: bool = False
    """`attention_output(need=("weights",))` gives the effective attention matrix."""
    lse: bool = False
    """`attention_output(need=("lse",))` gives the log-sum-exp of the scores."""
    aux: bool = False
    """`attention_output(need=("aux",))` gives auxiliary losses or diagnostics."""
    compile: bool = True
    """`torch.compile(fullgraph=True)` works."""
    export: bool = True
    """`torch.export` works."""
    stochastic: bool = False
    """The function takes `generator`; the same seed gives the same output."""
    train_eval_differs: bool = False
    """The module behaves differently in training, apart from dropout."""
    linear_in_v: bool = True
    """out = A(q, k) v, so the effective attention matrix is A(q, k) applied to the identity."""


CAPABILITIES = tuple(field.name for field in fields(Capabilities))
"""Names that `MechanismSpec.supports` knows."""


@dataclass(frozen=True)
class Option:
    """One option of a mechanism, as command lines, docs and checks see it."""

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()

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
    """`module(num_heads=, head_dim=, **options)` for mechanisms with parameters."""
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

    def __post_init__(self) -> None:
        if self.function is None and self.module is None:
            raise ValueError(f"mechanism {self.name}: give function or module")
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
        return {
            name: option.check(self.name, options[name]) if name in options else option.default
            for name, option in known.items()
        }

    def build(self, *, num_heads: int, head_dim: int, **options: Any) -> nn.Module:
        """Build the mechanism as a module.

        Family `attention` is called `module(q, k, v, mask=None, bias=None) -> Tensor`; family
        `recurrent` `module(k, v, mask=None) -> Tensor`.

        Raises:
            ValueError: An option is unknown or mistyped.
        """
        resolved = self.resolve(options)
        if self.module is not None:
            return self.module(num_heads=num_heads, head_dim=head_dim, **resolved)
        from shared_attention.module import Attention

        return Attention(self.name, **resolved)
