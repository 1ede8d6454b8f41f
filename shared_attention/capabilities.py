"""What a mechanism can promise."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal


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
    fixed_size: bool = False
    """Inputs must have the length or grid that an option names."""
    input_aware: bool = False
    """The module takes `inputs [B, H, L, D]`, the layer's input split by heads, in `forward`,
    `output`, `prefill` and `step`; where None, the queries stand in for it."""
    linear_in_v: bool = True
    """out = A(q, k) v, so the effective attention matrix is A(q, k) applied to the identity."""


CAPABILITIES = tuple(field.name for field in fields(Capabilities))
"""Names that `MechanismSpec.supports` knows."""

EVERY_SCORE = Capabilities(
    causal="exact",
    cross=True,
    key_padding=True,
    window=True,
    dense_mask=True,
    bias=True,
    bias_grad=True,
    grouped_heads=True,
    state=True,
    weights=True,
)
"""Of mechanisms that weigh every score: any mask and bias, and a cache of keys and values."""
