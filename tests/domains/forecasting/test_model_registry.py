"""The registry names what exists, and importing it stays light."""

import subprocess
import sys
from dataclasses import fields

import pytest

from domains.forecasting import models
from domains.forecasting.models import MODELS
from domains.forecasting.training_config import ForecastTraining
from shared_attention import catalogue


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_loads_and_its_settings_exist(name):
    spec = MODELS[name]
    assert spec.name == name == spec.load().__name__
    assert getattr(models, name) is spec.load()
    assert spec.attention in catalogue()
    assert set(spec.training) <= {field.name for field in fields(ForecastTraining)}
    ForecastTraining(**spec.training)


def test_unknown_names_raise_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Informerr'"):
        _ = models.Informerr


def test_listing_models_imports_no_torch():
    code = "import sys, domains.forecasting.models as m; m.MODELS; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="."
    )
    assert done.stdout.strip() == "False"
