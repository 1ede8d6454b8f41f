"""What a model looked at: attention over time and features, and what hiding either costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from domains.finance.data.windows import Windows
from domains.finance.figures import attention_figure, level_figure
from shared_attention import explain
from shared_runtime.domain import Figure, LoadedModel, Prepared

_WINDOWS = 64
_MATRICES = 4
_TIME_STEPS = 32


def explain_run(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return figures and tables for test windows spread over the part.

    Every model gets its sensitivity by event and feature; models with attention their effective
    attention matrices, with the entropy and mean distance of each head.

    Raises:
        UnsupportedError: the model's mechanism has no attention matrix.
    """
    items = prepared.test
    assert isinstance(items, Windows)
    chosen = np.linspace(0, len(items) - 1, min(_WINDOWS, len(items))).astype(np.int64)
    x = items.batch(chosen)["x"].to(device)
    names = items.fitted.names
    effect = sensitivity(loaded.model, x).cpu().numpy()
    grouped, groups = by_group(effect, names)
    figures = [level_figure(grouped[-_TIME_STEPS:], groups, "What moves the forecast")]
    by_feature = pd.DataFrame({"feature": names, "sensitivity": np.sqrt((effect**2).sum(axis=0))})
    tables = {
        "sensitivity by feature": by_feature.sort_values("sensitivity", ascending=False),
        "sensitivity by event": pd.DataFrame(
            {
                "events before": np.arange(len(effect))[::-1],
                "sensitivity": np.sqrt((effect**2).sum(axis=1)),
            }
        ),
    }
    maps = attention_maps(loaded.model, x)
    if not maps:
        return figures, tables
    means = {name: weights.mean(dim=(0, 1)).cpu().numpy() for name, weights in maps.items()}
    over = {
        "events": {n: m for n, m in means.items() if not _over_features(n, m, x.shape[1], means)},
        "features": {n: m for n, m in means.items() if _over_features(n, m, x.shape[1], means)},
    }
    for axis, matrices in over.items():
        if matrices:
            shown = dict(list(matrices.items())[:_MATRICES])
            figures.append(attention_figure(shown, axis=axis))
    tables["attention heads"] = pd.DataFrame(
        {"layer": name, "head": head, "entropy": float(e), "distance": float(d)}
        for name, row in explain.head_statistics(maps).items()
        for head, (e, d) in enumerate(zip(row["entropy"], row["distance"], strict=True))
    )
    return figures, tables


def sensitivity(model: nn.Module, x: Tensor) -> Tensor:
    """Return the root-mean-square derivative of "up minus down" by each input, `[T, F]`.

    Args:
        model: returns logits of up, stationary and down.
        x: scaled windows `[B, T, F]`, so features are comparable.
    """
    model.eval()
    x = x.detach().clone().requires_grad_(True)
    logits = model(x)
    (gradient,) = torch.autograd.grad((logits[:, 0] - logits[:, 2]).sum(), x)
    return gradient.square().mean(0).sqrt()


def attention_maps(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Return the effective attention matrix `[B, H, L, S]` of each multi-head layer, by name."""
    model.eval()
    with torch.no_grad(), explain.capture(model) as maps:
        model(x)
    return {name.removesuffix(".attention"): weights for name, weights in maps.items()}


def by_group(effect: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Sum squares over features of one kind, such as all sizes of asks; return roots `[T, G]`."""
    kinds = [name.rstrip("0123456789").rstrip("_").removesuffix("_over") for name in names]
    groups = list(dict.fromkeys(kinds))
    member = np.array([[kind == group for group in groups] for kind in kinds], dtype=float)
    return np.sqrt(effect**2 @ member), groups


def _over_features(
    name: str, matrix: np.ndarray, lookback: int, means: Mapping[str, np.ndarray]
) -> bool:
    """TLOB attends over time and over features in turn; other models over time alone."""
    if matrix.shape[-1] != lookback:
        return True
    if all(other.shape[-1] == lookback for other in means.values()) and len(means) > 1:
        return list(means).index(name) % 2 == 1
    return False
