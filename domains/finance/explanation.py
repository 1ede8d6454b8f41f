"""What a model looked at: attention over time and features, and what hiding either costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from domains.finance.data.windows import Windows
from domains.finance.figures import attention_figure, level_figure
from domains.finance.models.tlob import TLOB
from shared_attention import explain
from shared_runtime.domain import Figure, LoadedModel, Prepared

_WINDOWS = 64
_MATRICES = 4
_TIME_STEPS = 32
_FEW_WINDOWS = 8
_READABLE = {
    "move": "last move",
    "known": "move from past mean",
    "return": "past returns",
    "depth": "total depth",
    "ofi": "order flow by level",
    "ofi_1": "order flow, level 1",
    "ofi_all": "order flow, all levels",
    "interval": "time between events",
    "trade": "trades",
    "hidden": "hidden trades",
    "volume": "traded volume",
    "submit": "submissions",
    "cancel": "cancellations",
}


def explain_run(
    loaded: LoadedModel, prepared: Prepared, *, device: torch.device
) -> tuple[list[Figure], Mapping[str, pd.DataFrame]]:
    """Return figures and tables for test windows spread over the part.

    Every model gets its sensitivity by event and feature; models with attention their effective
    attention matrices, with the entropy and mean distance of each head. Attention among features
    is dealt out to the features that its channels come from.

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
    crosswise = [name for name in means if name in feature_layers(loaded.model)]
    over_events = [name for name in means if name not in crosswise][:_MATRICES]
    if over_events:
        shown = {_title(name): means[name] for name in over_events}
        figures.append(attention_figure(shown, axis="events"))
    if crosswise:
        shares = channel_shares(loaded.model, x[:_FEW_WINDOWS], crosswise[:_MATRICES])
        dealt = {_title(n): among_groups(means[n], share, names) for n, share in shares.items()}
        figures.append(attention_figure(dealt, axis="features", names=groups))
        received = {_title(n): means[n].mean(axis=0) @ share for n, share in shares.items()}
        by_layer = pd.DataFrame({"feature": names, **received})
        order = by_layer.drop(columns="feature").mean(axis=1).sort_values(ascending=False).index
        tables["attention by feature"] = by_layer.loc[order]
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
    groups, member = _membership(names)
    return np.sqrt(effect**2 @ member), groups


def feature_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers that attend among features: every other one of TLOB."""
    return (
        [f"layers.{n}" for n in range(1, len(model.layers), 2)] if isinstance(model, TLOB) else []
    )


def channel_shares(model: nn.Module, x: Tensor, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """Return how much of each token of a layer comes from each feature, `[tokens, F]` by layer.

    Tokens of a layer among features are channels, each a mixture of all features. A share is that
    of the absolute derivatives of the channel; those of a channel add up to one.

    Args:
        model: the model.
        x: scaled windows `[B, T, F]`.
        layers: names of layers whose input is `[B, tokens, width]`.
    """
    model.eval()
    x = x.detach().clone().requires_grad_(True)
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(name, inputs[0])
        )
        for name in layers
    ]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    random = torch.Generator().manual_seed(0)
    found = {}
    for name, tokens in seen.items():
        sign = torch.randint(2, tokens.shape[-1:], generator=random).to(tokens) * 2 - 1
        rows = []
        for token in (tokens @ sign).sum(0):
            (gradient,) = torch.autograd.grad(token, x, retain_graph=True)
            rows.append(gradient.abs().sum(dim=(0, 1)))
        share = torch.stack(rows).double().cpu().numpy()
        found[name] = share / np.maximum(share.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    return found


def among_groups(matrix: np.ndarray, share: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Deal attention among channels out to groups of features; rows `[G, G]` add up to one.

    Args:
        matrix: attention among channels, `[tokens, tokens]`.
        share: of `channel_shares`, `[tokens, F]`.
        names: of the features.
    """
    _, member = _membership(names)
    dealt = share @ member
    out_of = dealt / np.maximum(dealt.sum(axis=0), np.finfo(float).tiny)
    return out_of.T @ matrix @ dealt


def _membership(names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the groups of features, and which feature is in which, `[F, G]`."""
    kinds = [name.rstrip("0123456789").rstrip("_").removesuffix("_over") for name in names]
    groups = list(dict.fromkeys(kinds))
    member = np.array([[kind == group for group in groups] for kind in kinds], dtype=float)
    return [_READABLE.get(group, group.replace("_", " ")) for group in groups], member


def _title(layer: str) -> str:
    name, _, number = layer.rpartition(".")
    return f"layer {int(number) + 1}" if name == "layers" and number.isdigit() else layer
