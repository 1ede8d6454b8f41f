"""The registry names what exists, importing it stays light, and every model exports."""

import io
import logging
import subprocess
import sys
import warnings

import pytest
import torch

import domains.finance as finance
from domains.finance import models
from domains.finance.models import MODELS
from shared_attention import catalogue
from shared_runtime.training_config import TrainingConfig


@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_loads_and_its_settings_exist(name):
    spec = MODELS[name]
    assert spec.name == name == spec.load().__name__
    assert getattr(models, name) is spec.load() is getattr(finance, name)
    assert spec.attention is None or spec.attention in catalogue()
    TrainingConfig(**spec.training)


def test_unknown_names_raise_attribute_error():
    for module in (finance, models):
        with pytest.raises(AttributeError, match="has no attribute 'TLOBB'"):
            _ = module.TLOBB


def test_listing_models_imports_no_torch():
    code = "import sys, domains.finance.models as m; m.MODELS; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="."
    )
    assert done.stdout.strip() == "False"


def example(name):
    torch.manual_seed(0)
    model = MODELS[name].load()(lookback=8, features=6).eval()
    return model, torch.rand(2, 8, 6), torch.rand(5, 8, 6)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm:UserWarning")  # torch's own
@pytest.mark.parametrize("name", list(MODELS))
def test_exported_programs_serve_any_batch(name):
    model, x, other = example(name)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for inputs in (other, other[:1]):
        found = torch.export.load(file).module()(inputs)
        file.seek(0)
        torch.testing.assert_close(found, model(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_onnx_serves_any_batch(name):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model, x, other = example(name)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False)
    runner = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (input_name,) = [node.name for node in runner.get_inputs()]
    (found,) = runner.run(None, {input_name: other.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(other), rtol=1e-4, atol=1e-5)
