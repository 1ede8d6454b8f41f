"""Auto-Correlation: values are shifted by the lags at which the series resemble each other."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from shared_attention.masks import Mask
from shared_attention.references.auto_correlation import reference_auto_correlation
from shared_attention.refusal import accept
from shared_attention.spec import Capabilities, MechanismSpec, Option


def auto_correlation(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None = None,
    factor: float = 1.0,
    form: Literal["corrected", "published"] = "corrected",
) -> Tensor:
    """Average the values at the K = int(factor * ln L) lags of highest correlation.

    R(τ) = mean over heads and channels of Σ_t q_t k_{t-τ}, positions modulo L;
    out_t = Σ_i w_i v_{t+τ_i}, w = softmax(R(τ_1), ..., R(τ_K)). Keys and values are cut or
    filled with zeros to the length of the queries, as in the paper's decoder.

    In training the published code takes the lags of the batch's mean correlation, so a sample's
    output depends on the others; `form="published"` does that. The default takes each sample's
    own lags, which is what the published code does in evaluation. In both forms K is at least 1
    and R has all L lags; the published code returns zeros where int(factor * ln L) = 0 and
    inverts an odd L to L - 1 lags.

    Lags wrap around and every position contributes to R, so no mask has a meaning here: all
    are refused.

    Args:
        q: Queries `[B, H, L, D]`.
        k: Keys `[B, H, S, D]`.
        v: Values `[B, H, S, Dv]`.
        mask: None.
        factor: Factor c of the paper.
        form: `corrected`, or `published` for the official code's training behaviour.

    Returns:
        `[B, H, L, Dv]`.

    Raises:
        ValueError: The tensors do not fit together, or an option is out of range.
        UnsupportedError: There is a mask.

    Source: Wu et al., Autoformer, NeurIPS 2021, eq. 5-7.
    """
    accept(SPEC, q, k, v, mask)
    if factor <= 0:
        raise ValueError(f"auto_correlation: factor got {factor}, expected more than 0")
    if form not in ("corrected", "published"):
        raise ValueError(
            f"auto_correlation: form got {form!r}, expected 'corrected' or 'published'"
        )
    length = q.shape[2]
    k, v = _fit(k, length), _fit(v, length)
    correlation = _correlate(_series(q), _series(k)) / (q.shape[1] * q.shape[3])
    count = min(length, max(1, int(factor * math.log(length))))
    if form == "published":
        lags = correlation.mean(0).topk(count).indices.expand(len(q), -1)
    else:
        lags = correlation.topk(count).indices
    weights = correlation.gather(1, lags).softmax(-1).to(v.dtype)
    out = _Shifts.apply(v.transpose(1, 2).flatten(2), lags, weights)
    return out.unflatten(2, (v.shape[1], v.shape[3])).transpose(1, 2)


def _fit(x: Tensor, length: int) -> Tensor:
    """Cut or fill with zeros to `length` positions."""
    return F.pad(x, (0, 0, 0, length - x.shape[2])) if x.shape[2] < length else x[:, :, :length]


def _series(x: Tensor) -> Tensor:
    """`[B, H, L, D]` as one series per channel in at least float32, `[B, H D, L]`."""
    return x.mT.flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32)).contiguous()


def _correlate(x: Tensor, y: Tensor) -> Tensor:
    """Σ_channels Σ_t x_t y_{t-τ} for every lag τ, `[B, C, L] -> [B, L]`.

    One inverse transform of the summed spectra, where the published code has one per channel.
    """
    spectrum = (torch.fft.rfft(x) * torch.fft.rfft(y).conj()).sum(1)
    return torch.fft.irfft(spectrum, n=x.shape[-1])


class _Shifts(torch.autograd.Function):
    """Σ_i w_i x_{t+τ_i} of `x [B, L, C]`: one fused gather each way, weights' gradient by FFT."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lags: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, lags, weights)
        batch, length, channels = x.shape
        steps = torch.arange(length, device=x.device)
        sample = torch.arange(batch, device=x.device)[:, None, None]
        index = (steps[:, None] + lags[:, None]) % length + sample * length
        return F.embedding_bag(
            index.flatten(0, 1),
            x.reshape(-1, channels),
            per_sample_weights=weights[:, None].expand(index.shape).flatten(0, 1),
            mode="sum",
        ).view(batch, length, channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, Tensor]:
        x, lags, weights = ctx.saved_tensors
        wide = torch.promote_types(x.dtype, torch.float32)
        to_x = _Shifts.apply(gradients[0], -lags, weights)
        overlap = _correlate(x.mT.to(wide), gradients[0].mT.to(wide))
        return to_x, None, overlap.gather(1, lags % x.shape[1]).to(weights.dtype)


SPEC = MechanismSpec(
    name="auto_correlation",
    family="attention",
    title="Auto-Correlation",
    paper="Wu et al., Autoformer: Decomposition Transformers with Auto-Correlation for Long-Term "
    "Series Forecasting, NeurIPS 2021 (arXiv 2106.13008)",
    equation="out_t = Σ_i softmax(R)_i v_{t+τ_i} over the K lags τ of largest "
    "R(τ) = mean_channels Σ_t q_t k_{t-τ}",
    complexity="O(L ln L · D)",
    when_to_use="Periodic series of full length; not for padded or causal inputs.",
    correctness="Equal to the official code in evaluation, and in training in its published form; "
    "to a time-domain float64 reference.",
    capabilities=Capabilities(cross=True, scale=False, weights=True),
    options=(
        Option("factor", float, 1.0, "lag factor c: K = int(c ln L) lags"),
        Option(
            "form",
            str,
            "corrected",
            "published: lags of the batch's mean correlation, as the official code trains",
            ("corrected", "published"),
        ),
    ),
    function=auto_correlation,
    reference=reference_auto_correlation,
)
