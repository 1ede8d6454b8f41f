"""Every label, threshold, sampling, representation, model and swap, from files to logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from shared_runtime.building import build
from shared_runtime.errors import HeedError, UsageError
from shared_runtime.options import find_model
from tests.domains.finance.small_runs import DOMAIN, FI2010, LOOKBACK, configuration, heed


def logits(
    data: Path, model: str = "TLOB", sets: Sequence[str] = (), attention: str | None = None
) -> tuple[torch.Tensor, np.ndarray]:
    """Return scores of some test windows and all training labels, and try a training step."""
    config = configuration(data, model, sets, attention)
    spec = find_model(DOMAIN, model)
    prepared = DOMAIN.prepare(config.data, spec=spec, seed=0)
    built = build(spec, config, prepared.model_arguments)
    task = DOMAIN.make_task(built.model, prepared, config.training)
    rows = np.arange(4)
    loss = task.loss(prepared.train.batch(rows))
    loss.backward()
    assert torch.isfinite(loss)
    with torch.no_grad():
        scores = built.model(prepared.test.batch(rows)["x"])
    assert scores.shape == (4, 3) and torch.isfinite(scores).all()
    return scores, np.asarray(prepared.train.label)


@pytest.mark.parametrize("label", ["tlob", "fi2010", "deeplob", "return"])
@pytest.mark.parametrize(
    "threshold", ["mean", "spread", "sigma data.alpha=0.5", "tercile", "fixed data.alpha=1e-6"]
)
def test_labels_and_thresholds(snapshots: Path, label: str, threshold: str) -> None:
    name, *alpha = threshold.split()
    sets = [f"data.label={label}", f"data.threshold={name}", *alpha]
    _, found = logits(snapshots, sets=sets)
    assert set(found) <= {0, 1, 2}
    shares = np.bincount(found, minlength=3) / len(found)
    if name == "tercile" and label == "tlob":
        assert shares.min() > 0.2
    if name == "spread":
        assert shares[1] > 0.5, "few moves pay for crossing the spread"


@pytest.mark.parametrize(
    "sets",
    [
        ["data.every=2"],
        ["data.sample=time", "data.every=2"],
        ["data.sample=volume", "data.every=300", "data.horizon=2"],
        ["data.sample=mid", "data.horizon=2"],
    ],
    ids=lambda sets: sets[0],
)
def test_sampling(sample: Path, sets: list[str]) -> None:
    logits(sample / "lobster", sets=sets)


@pytest.mark.parametrize(
    ("features", "scale", "levels", "columns"),
    [
        ("relative", "rank", 10, 77),
        ("relative", "standard", 3, 0),
        ("book", "standard", 10, 40),
        ("book", "rank", 1, 4),
        ("paper", "auto", 10, 46),
    ],
)
def test_features_and_scales(
    lobster: Path, features: str, scale: str, levels: int, columns: int
) -> None:
    sets = [f"data.features={features}", f"data.scale={scale}", f"data.levels={levels}"]
    logits(lobster, sets=sets)
    config = configuration(lobster, "TLOB", sets)
    prepared = DOMAIN.prepare(config.data, spec=find_model(DOMAIN, "TLOB"), seed=0)
    batch = prepared.train.batch(np.arange(2))
    assert batch["x"].shape[1] == LOOKBACK and columns in (0, batch["x"].shape[2])


@pytest.mark.parametrize("horizon", [10, 20, 30, 50, 100])
def test_horizons_of_fi2010(sample: Path, horizon: int) -> None:
    logits(sample / "fi2010", sets=[*FI2010, f"data.horizon={horizon}"])


@pytest.mark.parametrize("model", list(DOMAIN.models()))
def test_models(lobster: Path, model: str) -> None:
    logits(lobster, model)


@pytest.mark.parametrize(
    ("model", "attention", "sets"),
    [
        ("TLOB", "linear", []),
        ("TLOB", "scan", []),
        ("TLOB", "auto_correlation", []),
        ("TLOB", "window", ["attention.left=4", "attention.right=0"]),
        ("TLOB", "linear", ["model.feature_attention=softmax"]),
        ("TLOB", None, ["model.feature_attention=flow"]),
        (
            "TLOB",
            None,
            ["model.feature_attention=window", "model.feature_attention_options={left: 2}"],
        ),
        ("StreamingLOB", "linear", []),
        ("StreamingLOB", "window", ["attention.left=4"]),
    ],
)
def test_swaps(snapshots: Path, model: str, attention: str | None, sets: list[str]) -> None:
    larger = ["data.lookback=16", "model.d_model=16", "model.layers=2"]
    own, _ = logits(snapshots, model, larger)
    swapped, _ = logits(snapshots, model, [*larger, *sets], attention)
    assert not torch.allclose(own, swapped)


@pytest.mark.parametrize(
    ("model", "attention", "sets", "said"),
    [
        ("TLOB", "nonsense", [], "unknown attention mechanism 'nonsense'"),
        ("StreamingLOB", "softmax", [], "choose one of scan, linear, window"),
        ("TLOB", None, ["model.feature_attention=scan"], "its tokens have no order"),
        ("TLOB", "window", ["attention.size=4"], "valid: attention.left, attention.right"),
        ("TLOB", None, ["model.num_heads=3"], "TLOB: num_heads 3 does not divide"),
        (
            "TLOB",
            None,
            ["data.features=paper", "model.order_type_column=41"],
            "leave model.order_type_column out",
        ),
    ],
)
def test_refused_swaps(
    lobster: Path, model: str, attention: str | None, sets: list[str], said: str
) -> None:
    with pytest.raises((HeedError, ValueError), match=said) as caught:
        logits(lobster, model, sets, attention)
    assert "TLOB: TLOB" not in str(caught.value)


def test_a_flag_is_named_as_it_was_typed(lobster: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    printed = heed(
        *("train", "--data", lobster, "--model", "MLPLOB", "--attention", "linear", "--out", out),
        code=2,
    )
    assert "--attention: MLPLOB has no attention to replace" in printed
    assert not out.exists()


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["data.lookbak=3"], "did you mean data.lookback"),
        (["data.horizon=0"], "data.horizon: expected at least 1, got 0"),
        (["data.alpha=1"], "expected 0 with data.threshold=mean, got 1.0; it is for"),
        (["data.threshold=sigma"], "expected more than 0 with data.threshold=sigma"),
        (["data.signal=1.5"], "data.signal: expected 0 to below 1"),
        (["data.label=none"], "expected Literal"),
        (["data.columns=[a]"], "data.columns: expected ours=theirs, got 'a'"),
    ],
)
def test_refused_settings(lobster: Path, sets: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        configuration(lobster, "TLOB", sets)
