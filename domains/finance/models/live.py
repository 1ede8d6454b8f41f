"""A trained `StreamingLOB` on one book, with as few operations per update as it takes."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from domains.finance.models.streaming import StreamingLOB
from shared_attention.layers.encoder import EncoderLayer
from shared_attention.layers.multihead import MultiHeadAttention
from shared_attention.layers.stream_layer import StreamLayer
from shared_attention.mechanisms.linear import SMALLEST_SUM


class LiveBook:
    """Class scores after each update of one book; what `StreamingLOB.step` gives, faster.

    Weights are copied when this is built. All that is kept is written in place, so its memory is
    constant, and one of these serves one book.

    The bias of a layer before a residual sum is added to the other summand when that is made, and
    taken out of the biases of the layers that read it: a layer and its sum are then one product.

    Args:
        model: on a processor, in single or double precision.
    """

    @torch.no_grad()
    def __init__(self, model: StreamingLOB) -> None:
        layers = [layer.layer for layer in model.layers if isinstance(layer, StreamLayer)]
        head = model.head
        shifts: list[Tensor] = [layer.attention.project_out.bias for layer in layers]
        shifts.append(torch.zeros_like(head.weight[0]))
        self.features = model.features
        self.embed = _Affine(model.embed, added=shifts[0])
        recent = torch.zeros_like(model.embed.weight[0])
        self.recent, self.spare = (_Recent(recent.clone(), model.features) for _ in range(2))
        self.blocks = [_Block(*three) for three in zip(layers, shifts, shifts[1:], strict=False)]
        self.head = _Affine(head)

    def update(self, row: Tensor) -> Tensor:
        """Take in one scaled row `[F]` and return class scores `[classes]`.

        It saves some microseconds to stay in `torch.inference_mode()` between updates.

        Raises:
            ValueError: The row has another width.
        """
        if not torch.is_inference_mode_enabled():
            with torch.inference_mode():
                return self.update(row)
        if row.shape != (self.features,):
            raise ValueError(
                f"LiveBook.update: got a row of shape {list(row.shape)}, expected [{self.features}]"
            )
        torch.cat((self.recent.latest, row), out=self.spare.rows)
        self.recent, self.spare = self.spare, self.recent
        x = self.embed(self.recent.rows)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class _Recent:
    """The last rows side by side, and all of them but the oldest."""

    def __init__(self, rows: Tensor, width: int) -> None:
        self.rows, self.latest = rows, rows[width:]


class _Affine:
    """A linear layer on one vector.

    Args:
        layer: whose weights are copied.
        shift: what the vector is more than the layer's own input.
        added: what the result is to be more than the layer's own.
    """

    def __init__(
        self, layer: nn.Linear, shift: Tensor | None = None, added: Tensor | None = None
    ) -> None:
        self.weight = layer.weight.detach().clone()
        bias = layer.bias.detach().clone()
        bias = bias if shift is None else bias - self.weight @ shift
        self.bias = bias if added is None else bias + added

    def __call__(self, x: Tensor) -> Tensor:
        return torch.addmv(self.bias, self.weight, x)


class _Block:
    """An encoder layer with layer norm after each sum.

    Its input is `shift` more than that of the layer, its output `next_shift`. With u = h / √2,
    GELU(h) is (u + u erf(u)) / √2; the weights on both sides hold the factors. PyTorch's own GELU
    takes several times as long on so short a vector.
    """

    def __init__(self, encoder: EncoderLayer, shift: Tensor, next_shift: Tensor) -> None:
        widen, narrow = (layer for layer in encoder.network if isinstance(layer, nn.Linear))
        self.attend = _STREAMS[encoder.attention.spec.name](encoder.attention, shift)
        self.join = encoder.attention.project_out.weight.detach().clone()
        self.attention_norm = _Norm(encoder.attention_norm, narrow.bias)
        self.widen = _Affine(widen, shift=narrow.bias)
        self.widen.weight *= math.sqrt(0.5)
        self.widen.bias *= math.sqrt(0.5)
        self.narrow = narrow.weight * math.sqrt(0.5)
        self.network_norm = _Norm(encoder.network_norm, next_shift)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.attention_norm(torch.addmv(x, self.join, self.attend(x)))
        u = self.widen(x)
        return self.network_norm(torch.addmv(x, self.narrow, torch.addcmul(u, u, u.erf())))


class _Norm:
    def __init__(self, norm: nn.LayerNorm, added: Tensor) -> None:
        self.shape, self.eps = norm.normalized_shape, norm.eps
        self.weight, self.bias = norm.weight.detach().clone(), norm.bias.detach() + added

    def __call__(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, self.shape, self.weight, self.bias, self.eps)


class _Stream(Protocol):
    def __init__(self, attention: MultiHeadAttention, shift: Tensor) -> None: ...

    def __call__(self, x: Tensor) -> Tensor:
        """Attend from `x - shift` `[d_model]` to all before it and itself; heads side by side."""
        ...


class _Scan:
    """Softmax means `[H, D]` of the constant query, and the logarithm of the sum of weights.

    The query is folded into the keys' projection, which then gives one score for each head. A
    mean moves towards the new value by its share of that sum. Without forgetting the logarithm is
    kept in double precision, since each of many scores changes it by little.
    """

    def __init__(self, attention: MultiHeadAttention, shift: Tensor) -> None:
        mechanism: Any = attention.mechanism
        heads, width = attention.num_heads, attention.head_dim
        query = mechanism.query / math.sqrt(width)
        k_weight, v_weight = attention.project_in.weight.chunk(2)
        k_bias, v_bias = attention.project_in.bias.chunk(2)
        score = (query[:, None] @ k_weight.view(heads, width, -1)).squeeze(1)
        score_bias = (query * k_bias.view(heads, width)).sum(1)
        self.weight = torch.cat([score, v_weight])
        self.bias = torch.cat([score_bias, v_bias]) - self.weight @ shift
        forgets = mechanism.half_life is not None
        loss = math.log(2) / mechanism.half_life if forgets else 0.0
        self.loss = score.new_full((1,), loss) if forgets else None
        self.projected = torch.zeros_like(self.bias)
        self.score = self.projected[:heads].unsqueeze(1)
        self.value = self.projected[heads:].view(heads, width)
        self.share = torch.zeros_like(self.score)
        self.mean = torch.zeros_like(self.value)
        self.out = self.mean.view(-1)
        exact = self.score.dtype if forgets else torch.float64
        self.total = torch.full_like(self.score, -torch.inf, dtype=exact)

    def __call__(self, x: Tensor) -> Tensor:
        torch.addmv(self.bias, self.weight, x, out=self.projected)
        if self.loss is not None:
            self.total.sub_(self.loss)
        torch.logaddexp(self.total, self.score, out=self.total)
        torch.sub(self.score, self.total, out=self.share).exp_()
        self.mean.lerp_(self.value, self.share)
        return self.out


class _Linear:
    """Sums of φ(k) [v, 1] for each head, `[H, D, D + 1]`."""

    def __init__(self, attention: MultiHeadAttention, shift: Tensor) -> None:
        self.project, self.heads = _Affine(attention.project_in, shift), attention.num_heads
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

    def __init__(self, attention: MultiHeadAttention, shift: Tensor) -> None:
        self.project, self.heads = _Affine(attention.project_in, shift), attention.num_heads
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
