"""A trained `StreamingLOB` on one book, with as few operations per update as it takes."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from domains.finance.models.streaming import StreamingLOB
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.layers.stream_layer import StreamLayer
from shared_attention.mechanisms.linear import SMALLEST_SUM


class LiveBook:
    """Class scores after each update of one book; what `StreamingLOB.step` gives, faster.

    Weights are copied when this is built. All that is kept is written in place, so its memory is
    constant, and one of these serves one book.

    Args:
        model: on a processor, in single or double precision.
    """

    @torch.no_grad()
    def __init__(self, model: StreamingLOB) -> None:
        self.features = model.features
        self.embed = _Affine(model.embed)
        self.recent = self.embed.weight.new_zeros(model.recent * model.features)
        self.blocks = [_Block(layer) for layer in model.layers if isinstance(layer, StreamLayer)]
        self.head = _Affine(model.head)

    @torch.inference_mode()
    def update(self, row: Tensor) -> Tensor:
        """Take in one scaled row `[F]` and return class scores `[classes]`.

        Raises:
            ValueError: The row has another width.
        """
        if row.shape != (self.features,):
            raise ValueError(
                f"LiveBook.update: got a row of shape {list(row.shape)}, expected [{self.features}]"
            )
        self.recent = torch.cat((self.recent[self.features :], row))
        x = self.embed(self.recent)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class _Affine:
    """A linear layer on one vector."""

    def __init__(self, layer: nn.Linear) -> None:
        self.weight = layer.weight.detach().clone()
        self.bias = layer.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmv(self.bias, self.weight, x)


class _Block:
    """An encoder layer with layer norm after each sum."""

    def __init__(self, layer: StreamLayer) -> None:
        encoder = layer.layer
        self.attend = _STREAMS[encoder.attention.spec.name](encoder.attention)
        self.join = _Affine(encoder.attention.project_out)
        self.attention_norm = _Norm(encoder.attention_norm)
        self.widen, self.narrow = (_Affine(m) for m in encoder.network if isinstance(m, nn.Linear))
        self.network_norm = _Norm(encoder.network_norm)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.attention_norm(self.join(self.attend(x)).add_(x))
        return self.network_norm(self.narrow(functional.gelu(self.widen(x))).add_(x))


class _Norm:
    def __init__(self, norm: nn.LayerNorm) -> None:
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = norm.weight.detach().clone(), norm.bias.detach().clone()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class _Stream(Protocol):
    def __init__(self, attention: MultiHeadAttention) -> None: ...

    def __call__(self, x: Tensor) -> Tensor:
        """Attend from `x` `[d_model]` to all before it and itself; heads side by side."""
        ...


class _Scan:
    """Softmax sums `[H, 1 + D]` of the constant query, relative to the largest score.

    The query is folded into the keys' projection, which then gives one score for each head.
    """

    def __init__(self, attention: MultiHeadAttention) -> None:
        mechanism: Any = attention.mechanism
        heads, width = attention.num_heads, attention.head_dim
        query = mechanism.query / math.sqrt(width)
        k_weight, v_weight = attention.project_in.weight.chunk(2)
        k_bias, v_bias = attention.project_in.bias.chunk(2)
        score = (query[:, None] @ k_weight.view(heads, width, -1)).squeeze(1)
        score_bias = (query * k_bias.view(heads, width)).sum(1, keepdim=True)
        one = torch.zeros(heads, 1, v_weight.shape[1], dtype=v_weight.dtype)
        values = torch.cat([one, v_weight.view(heads, width, -1)], 1).flatten(0, 1)
        ones = torch.ones(heads, 1, dtype=v_weight.dtype)
        value_bias = torch.cat([ones, v_bias.view(heads, width)], 1).flatten()
        self.heads = heads
        self.weight = torch.cat([score, values])
        self.bias = torch.cat([score_bias.flatten(), value_bias])
        self.loss = 0.0 if mechanism.half_life is None else math.log(2) / mechanism.half_life
        self.sums = v_weight.new_zeros(heads, 1 + width)
        self.highest = v_weight.new_full((heads, 1), -torch.inf)

    def __call__(self, x: Tensor) -> Tensor:
        scores, values = torch.addmv(self.bias, self.weight, x).tensor_split((self.heads,))
        scores = scores.unsqueeze(1)
        if self.loss:
            self.highest -= self.loss
        highest = torch.maximum(self.highest, scores)
        self.sums *= self.highest.sub_(highest).exp_()
        self.sums.addcmul_(values.view_as(self.sums), scores.sub_(highest).exp_())
        self.highest = highest
        return (self.sums[:, 1:] / self.sums[:, :1]).view(-1)


class _Linear:
    """Sums of φ(k) [v, 1] for each head, `[H, D, D + 1]`."""

    def __init__(self, attention: MultiHeadAttention) -> None:
        self.project, self.heads = _Affine(attention.project_in), attention.num_heads
        width = attention.head_dim
        self.sums = self.project.weight.new_zeros(self.heads, width, width + 1)
        self.one = self.project.weight.new_ones(self.heads, 1)

    def __call__(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).view(3, self.heads, -1)
        q = q - q.amax(1, keepdim=True).clamp(max=0)
        q, k = _elu_plus_one(q), _elu_plus_one(k)
        values = torch.cat((v, self.one), 1)
        self.sums.addcmul_(k.unsqueeze(2), values.unsqueeze(1))
        out = torch.bmm(q.unsqueeze(1), self.sums).squeeze(1)
        return (out[:, :-1] / out[:, -1:].clamp_min(SMALLEST_SUM)).flatten()


class _Window:
    """A ring of the latest keys and values, `[left + 1, H, D]`."""

    def __init__(self, attention: MultiHeadAttention) -> None:
        self.project, self.heads = _Affine(attention.project_in), attention.num_heads
        mechanism: Any = attention.mechanism
        size, width = mechanism.options["left"] + 1, attention.head_dim
        self.keys = self.project.weight.new_zeros(self.heads, size, width)
        self.values = torch.zeros_like(self.keys)
        self.scale, self.size, self.count = 1 / math.sqrt(width), size, 0

    def __call__(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).view(3, self.heads, -1)
        place, self.count = self.count % self.size, self.count + 1
        self.keys[:, place] = k
        self.values[:, place] = v
        seen = min(self.count, self.size)
        scores = torch.bmm(self.keys[:, :seen], (q * self.scale).unsqueeze(2))
        return torch.bmm(scores.softmax(1).transpose(1, 2), self.values[:, :seen]).flatten()


def _elu_plus_one(x: Tensor) -> Tensor:
    positive = x.relu()
    return (x - positive).exp_().add_(positive)


_STREAMS: dict[str, type[_Stream]] = {"scan": _Scan, "linear": _Linear, "window": _Window}
