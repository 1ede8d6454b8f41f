"""The core's mechanisms in models of the library transformers.

`register` adds a mechanism to transformers' table of attention functions and to its table of mask
functions under one name. Both are needed: with a name missing from the second, transformers gives
the layers no mask at all, and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from shared_attention.adapters.transformers_masks import build_mask, read_mask
from shared_attention.dispatch import attention
from shared_attention.dispatch import functional as without_parameters
from shared_attention.errors import UnsupportedError, unsupported
from shared_attention.spec import MechanismSpec

try:
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
except ImportError as error:
    raise ImportError(
        "shared_attention.adapters.transformers needs transformers: "
        "pip install 'heed-core[transformers]'"
    ) from error

ROW_BY_ROW = (
    "softmax",
    "window",
    "sink_window",
    "linear",
    "log_n",
    "temp_scale",
    "clipped_softmax",
    "lssar",
    "based",
)
"""Mechanisms whose rows depend on their own query, keys and values alone: they continue exactly
from a cache of keys and values. The others need what such a cache does not hold."""
_CHANGING = ("softcap", "s_aux", "sinks", "indices", "block_indices", "head_mask")
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k")


def register(mechanism: str, *, name: str | None = None, **options: Any) -> str:
    """Make a mechanism available to every model of transformers, with its mask function.

    Afterwards `model.set_attn_implementation(name)`, or `attn_implementation=name` where a model
    is built, uses it; a process that loads such a model registers it first. What differs from
    transformers' own functions: dropout in training drops channels of what the heads return, not
    attention weights; rows that see nothing are zero; and a cache of keys and values serves the
    mechanisms of `ROW_BY_ROW` only, the others being refused (`use_cache=False`).

    Args:
        mechanism: Name in the catalogue, of a mechanism of family attention without parameters.
        name: Name in transformers; by default it says the mechanism and the options.
        **options: Options of the mechanism.

    Returns:
        The name.

    Raises:
        ValueError: The mechanism or an option is unknown, or transformers has that name itself.
        UnsupportedError: The mechanism has parameters, which the interface has no place for.
    """
    spec = without_parameters(mechanism)
    resolved = spec.resolve(options)
    shown = ",".join(f"{key}={value}" for key, value in options.items())
    name = name or (f"heed_{mechanism}({shown})" if shown else f"heed_{mechanism}")
    taken = AttentionInterface._global_mapping.get(name)
    if name == "eager" or not (taken is None or isinstance(taken, _Attend)):
        raise ValueError(f"register: transformers has an attention function {name!r} already")
    AttentionInterface.register(name, _Attend(spec, resolved))
    AttentionMaskInterface.register(name, build_mask)
    return name


class _Attend:
    """One mechanism with its options, called as transformers calls its attention functions."""

    def __init__(self, spec: MechanismSpec, options: Mapping[str, Any]) -> None:
        self.spec = spec
        self.options = dict(options)
        self.__name__ = spec.name

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        position_bias: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Return `[B, L, H, D]` and, where `output_attentions` asks, the matrix `[B, H, L, S]`.

        Args:
            module: The layer; `is_causal` of it counts where neither argument nor mask says.
            query: `[B, H, L, D]`.
            key: `[B, Hk, S, D]`.
            value: `[B, Hk, S, Dv]`.
            attention_mask: A `Mask`, a 4-D tensor (bool with True = may attend, or float, added
                to the scores), or None.
            dropout: Probability of dropping channels of the output.
            scaling: Score scale.
            is_causal: Whether None as a mask means a causal one.
            position_bias: Added to the scores.
            **others: Whatever else the model gives; refused where it would change the result.

        Raises:
            UnsupportedError: The mechanism cannot honour the request.
        """
        spec = self.spec
        self._refuse_arguments(attention_mask, others)
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        mask, bias = read_mask(attention_mask, causal, query, key)
        if position_bias is not None:
            bias = position_bias if bias is None else bias + position_bias
        if causal and query.shape[2] != key.shape[2] and spec.name not in ROW_BY_ROW:
            raise UnsupportedError(
                f"{spec.name} cannot continue from transformers' cache of keys and values, which "
                "does not hold what it needs of earlier positions; give use_cache=False, or use "
                f"one of {', '.join(ROW_BY_ROW)}"
            )
        _refuse_unknown_padding(spec, self.options, module)
        if key.shape[1] != query.shape[1] and not spec.supports("grouped_heads"):
            copies = query.shape[1] // key.shape[1]
            key, value = (part.repeat_interleave(copies, dim=1) for part in (key, value))
        settings = {**self.options, **self._scale(scaling, query.shape[-1])}
        out = attention(query, key, value, spec.name, mask, bias, **settings)
        weights = None
        if others.get("output_attentions"):
            from shared_attention.explain import attention_matrix

            weights = attention_matrix(spec.name, query, key, mask=mask, bias=bias, **settings)
        out = functional.dropout(out, dropout, module.training) if dropout else out
        return out.transpose(1, 2).contiguous(), weights

    def _scale(self, scaling: float | None, width: int) -> dict[str, float]:
        if scaling is None:
            return {}
        if self.spec.supports("scale"):
            return {"scale": scaling}
        if abs(scaling * width**0.5 - 1) > 1e-6:
            raise unsupported(self.spec.name, "scale", f"the model's score scale {scaling:g}")
        return {}

    def _refuse_arguments(self, mask: Any, others: Mapping[str, Any]) -> None:
        names = _CHANGING if mask is not None else (*_CHANGING, *_PACKED)
        for name in names:
            if others.get(name) is not None:
                raise UnsupportedError(
                    f"{self.spec.name}: the model's attention takes {name}, which mechanisms of "
                    "the catalogue do not have"
                )


def _refuse_unknown_padding(
    spec: MechanismSpec, options: Mapping[str, Any], module: nn.Module
) -> None:
    """Refuse where the mechanism would have to guess whether padded keys are queries too."""
    config = getattr(module, "config", None)
    crosses = any(getattr(config, n, False) for n in ("is_encoder_decoder", "add_cross_attention"))
    if crosses and "self_attention" in options:
        raise UnsupportedError(
            f"{spec.name} treats padded keys as padded queries in self-attention only, and layers "
            "of models with cross-attention do not say which they are"
        )


def attention_layers(
    model: nn.Module,
) -> Iterator[tuple[str, nn.Module, Callable[..., Callable[[], None]]]]:
    """Find the attention layers of models of transformers, for `swap`.

    Yields:
        The name of a layer, the layer, and `prepare(spec, options)`, which refuses or returns
        what is left to do.
    """
    inside: set[int] = set()
    for root_name, root in model.named_modules():
        if not isinstance(root, PreTrainedModel) or id(root) in inside:
            continue
        inside |= {id(module) for module in root.modules()}
        found = {n: m for n, m in root.named_modules() if n and hasattr(m, "is_causal")}
        for name, layer in (found or {"": root}).items():
            place = ".".join(part for part in (root_name, name) if part)
            yield place, layer, partial(_prepare, root, layer)


def _prepare(
    root: PreTrainedModel, layer: nn.Module, spec: MechanismSpec, options: Mapping[str, Any]
) -> Callable[[], None]:
    models = [m for m in root.modules() if isinstance(m, PreTrainedModel)]
    closed = [type(m).__name__ for m in models if not m._can_set_attn_implementation()]
    if layer is root or closed:
        raise UnsupportedError(
            f"{(closed or [type(root).__name__])[0]} does not take its attention function from "
            "transformers' AttentionInterface"
        )
    name = register(spec.name, **options)
    causal = bool(layer.is_causal)
    if causal and not spec.supports("causal"):
        raise unsupported(spec.name, "causal", "a causal layer")
    if not causal and spec.capabilities.causal == "always":
        raise UnsupportedError(f"{spec.name} has a causal form only, and the layer sees all tokens")
    _refuse_unknown_padding(spec, spec.resolve(options), layer)
    return partial(root.set_attn_implementation, name)
