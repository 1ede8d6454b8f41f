"""Exported models give the same forecasts at any batch size, or the verb says why there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from shared_runtime.errors import HeedError
from shared_runtime.runs import open_run
from shared_runtime.verbs.export import export
from shared_runtime.verbs.train import RunResult, train
from tests.domains.forecasting.small_runs import CLASSIFIERS, DOMAIN, FORECASTERS, configuration

REFUSED = {
    ("Informer", "torch"),  # specialised to one batch size
    ("Informer", "onnx"),
}


def check(run: Path, format: str, out: Path) -> None:
    """Run the file on other inputs and another batch size than the verb's own checks."""
    path = export(DOMAIN, run, format=format, out=out)  # type: ignore[arg-type]
    loaded = open_run(DOMAIN, run, device="cpu").loaded
    inputs = DOMAIN.example_inputs(loaded.arguments, 3)
    inputs = {k: v + 0.25 if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.inference_mode():
        expected = loaded.model(**inputs).numpy()
    if format == "torch":
        with path.open("rb") as file:
            found = torch.export.load(file).module()(**inputs).detach().numpy()
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(path.read_bytes())
        names = {node.name for node in session.get_inputs()}
        fed = {name: value.numpy() for name, value in inputs.items() if name in names}
        (found,) = session.run(None, fed)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_the_default_forecaster(wide_run: RunResult, tmp_path: Path, format: str) -> None:
    check(wide_run.folder, format, tmp_path / "model")


def test_a_forecaster_with_covariates(covariate_run: RunResult, tmp_path: Path) -> None:
    check(covariate_run.folder, "torch", tmp_path / "model.pt2")


def test_a_classifier(labelled_run: RunResult, tmp_path: Path) -> None:
    check(labelled_run.folder, "torch", tmp_path / "model.pt2")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["torch", "onnx"])
@pytest.mark.parametrize("model", [*FORECASTERS, *CLASSIFIERS])
def test_every_model(
    model: str, format: str, wide_file: Path, sample: Path, tmp_path: Path
) -> None:
    data = sample / "gestures_TRAIN.ts" if model in CLASSIFIERS else wide_file
    train(DOMAIN, configuration(data, model), tmp_path / "run", progress=False)
    if (model, format) in REFUSED:
        with pytest.raises(HeedError, match=f"{model} cannot be exported to {format}: .") as caught:
            export(DOMAIN, tmp_path / "run", format=format)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    else:
        check(tmp_path / "run", format, tmp_path / "model")
