"""`nn.MultiheadAttention` of other people's models with a mechanism of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared_attention import masks
from shared_attention.errors import UnsupportedError
from shared_attention.layers.swapped_masks import read_masks
from shared_attention.linear import linear
from shared_attention.masks import Mask
from shared_attention.module import Attention
from shared_attention.spec import MechanismSpec


class SwappedAttention(nn.MultiheadAttention):
    """A `nn.MultiheadAttention` that attends with a mechanism of the catalogue.

    `swap` turns the layers of a model into this class where they stand: they remain the same
    objects with the same parameters under the same names, so checkpoints, optimisers and hooks
    go on working, and `forward` takes and returns what it did. What differs:

    - A row with nothing to attend to gives zero (before the output projection), not NaN.
    - `dropout` drops channels of what the heads return, in training. `nn.MultiheadAttention`
      drops attention weights, which most mechanisms do not have.
    - `need_weights` gives the effective attention matrix of mechanisms linear in v, at the price
      of further calls of the mechanism, and is refused for the others.
    - PyTorch's fused inference path of whole encoder layers is not used.
    """

    spec: MechanismSpec
    mechanism: nn.Module
    place: str
    """Name of the layer in the model, for messages."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; arguments are those of `nn.MultiheadAttention`.

        Args:
            query: `[B, L, E]` with `batch_first`, else `[L, B, E]`; or `[L, E]`.
            key: `[B, S, kdim]`, laid out alike.
            value: `[B, S, vdim]`, laid out alike.
            key_padding_mask: `[B, S]`, bool with True = padding, or float, added to the scores.
            need_weights: Whether to return the effective attention matrix.
            attn_mask: `[L, S]` or `[B * heads, L, S]`, bool with True = must not attend, or
                float, added to the scores; -inf hides a key.
            average_attn_weights: Whether to average the matrix over heads.
            is_causal: That `attn_mask` is the causal mask. Only compiled programs need to be
                told, and check it when they run.

        Returns:
            Output laid out like `query`, and `[B, L, S]`, `[B, heads, L, S]` or None.

        Raises:
            UnsupportedError: The mechanism cannot honour the request.
            ValueError: A mask has another shape or type.
        """
        if query.is_nested or key.is_nested or value.is_nested:
            raise UnsupportedError(
                f"{self._here()} got a nested tensor: swap the nn.TransformerEncoder as a "
                "whole, or build it with enable_nested_tensor=False"
            )
        batched = query.dim() == 3
        own = query is key
        x = query if batched else query[None]
        read = (key, value) if batched else (key[None], value[None])
        if batched and not self.batch_first:
            x, read = query.transpose(0, 1), (key.transpose(0, 1), value.transpose(0, 1))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask[None]
        sizes = (x.shape[0], self.num_heads, x.shape[1], read[0].shape[1])
        q, k, v = self._project(x, *read)
        mask, bias = read_masks(key_padding_mask, attn_mask, is_causal, sizes, self.spec, q.dtype)
        if not own and mask is not None and sizes[2] == sizes[3]:
            self._refuse_unknown_padding()
        k, v, mask, bias = self._extend(k, v, mask, bias, sizes[2])
        q, k, v = (self._heads(part) for part in (q, k, v))
        arguments = {"mask": mask, "bias": bias}
        if self.spec.supports("input_aware"):
            arguments["inputs"] = self._heads(x)
        try:
            out = self.mechanism(q, k, v, **arguments)
            weights = self._weights(q, k, arguments) if need_weights else None
        except UnsupportedError as error:
            raise UnsupportedError(f"{self._here()}: {error}") from None
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        out = out.transpose(1, 2).flatten(2)
        out = functional.dropout(out, self.dropout, self.training) if self.dropout else out
        out = self.out_proj(out)
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def _project(self, x: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        if self.in_proj_weight is None:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        else:
            weights = self.in_proj_weight.chunk(3)
        inputs = zip((x, key, value), weights, biases, strict=True)
        q, k, v = (linear(part, weight, bias) for part, weight, bias in inputs)
        return q, k, v

    def _extend(
        self, k: Tensor, v: Tensor, mask: Mask | None, bias: Tensor | None, length: int
    ) -> tuple[Tensor, Tensor, Mask | None, Tensor | None]:
        """Append the learned key of `add_bias_kv` and the zeros of `add_zero_attn`."""
        count = k.shape[1]
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], -1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], -1, -1)], dim=1)
        if self.add_zero_attn:
            k, v = functional.pad(k, (0, 0, 0, 1)), functional.pad(v, (0, 0, 0, 1))
        added = k.shape[1] - count
        if added and mask is not None:
            allowed = mask.to_dense(length, count, k.device)
            mask = masks.dense(functional.pad(allowed, (0, added), value=True))
        if added and bias is not None:
            bias = functional.pad(bias, (0, added))
        return k, v, mask, bias

    def _refuse_unknown_padding(self) -> None:
        """Refuse where the mechanism would have to guess whether padded keys are queries too."""
        options = self.mechanism.options if isinstance(self.mechanism, Attention) else {}
        if "self_attention" in options and options["self_attention"] is None:
            raise UnsupportedError(
                f"{self._here()}: query and key are two tensors of one length, and "
                f"{self.spec.name} needs to know whether padded keys are padded queries; "
                "swap this layer with self_attention=True or False"
            )

    def _weights(self, q: Tensor, k: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        from shared_attention.explain import attention_matrix

        if not self.spec.supports("linear_in_v"):
            raise UnsupportedError(
                f"{self.spec.name} is not linear in v, so it has no attention matrix; "
                "call the layer with need_weights=False"
            )
        return attention_matrix(self.mechanism, q, k, **arguments)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _here(self) -> str:
        return f"{self.place or type(self).__name__} (nn.MultiheadAttention)"

    def extra_repr(self) -> str:
        """Show the sizes."""
        return f"{self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"
