from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from shared_runtime.artifact import load_model, save_model
from shared_runtime.domain import ModelSpec
from shared_runtime.errors import HeedError, UsageError
from shared_runtime.run_folder import RunFolder


class Tied(nn.Module):
    """An embedding that is also the output layer, as language models have."""

    def __init__(self, *, width: int, attention: str = "softmax", attention_options=None) -> None:
        super().__init__()
        self.attention = (attention, attention_options)
        self.embed = nn.Embedding(5, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 5, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.norm(self.embed(ids)))


class TiedSpec(ModelSpec):
    def load(self) -> type[nn.Module]:
        return Tied


MODELS = {"Tied": TiedSpec("Tied", "-", "toy", "-", "-", "softmax")}
SCALER = {"mean": np.array([0.1, 1e-12]), "count": np.int64(7), "names": ["a", "b"]}


def save(folder: Path, attention: dict | None = None, **arguments: int) -> Tied:
    torch.manual_seed(1)
    model = Tied(**{"width": 4, **arguments})
    model.norm.running_mean.add_(0.5)
    save_model(
        RunFolder(folder),
        domain="toy",
        name="Tied",
        arguments={"width": 4, **arguments},
        attention=attention,
        preprocessing=SCALER,
        model=model,
        data_hash="abc",
    )
    return model.eval()


def test_a_model_comes_back_with_everything_it_needs(tmp_path: Path) -> None:
    model = save(tmp_path, attention={"name": "flow", "options": {"competition": False}})
    loaded = load_model(tmp_path, MODELS, domain="toy")
    ids = torch.arange(5)
    assert torch.equal(loaded.model(ids), model(ids))
    assert not loaded.model.training
    assert loaded.model.out.weight is loaded.model.embed.weight
    assert loaded.model.attention == ("flow", {"competition": False})
    assert loaded.preprocessing == {"mean": [0.1, 1e-12], "count": 7, "names": ["a", "b"]}
    assert loaded.spec is MODELS["Tied"]
    assert loaded.folder == tmp_path
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["data_hash"] == "abc"
    assert manifest["versions"]["torch"] == version("torch")


def test_saving_changes_nothing_in_the_model(tmp_path: Path) -> None:
    model = save(tmp_path)
    assert model.out.weight is model.embed.weight
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "manifest.json",
        "model.json",
        "model.safetensors",
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(folder)
    return folder


def refused(folder: Path, name: str, change: Callable[[bytes], bytes]) -> str:
    file = folder / name
    original = file.read_bytes()
    file.write_bytes(change(original))
    try:
        with pytest.raises(HeedError) as caught:
            load_model(folder, MODELS)
    finally:
        file.write_bytes(original)
    return str(caught.value)


FILES = st.sampled_from(["model.safetensors", "model.json", "manifest.json"])


@given(name=FILES, where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_changed_byte_is_noticed(saved: Path, name: str, where: float, flip: int) -> None:
    def change(content: bytes) -> bytes:
        at = int(where * len(content))
        return content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]

    message = refused(saved, name, change)
    assert message == (
        f"{saved / name}: has changed since the model was saved; "
        "copy the whole folder again from where it was trained, or train anew"
    )


@given(name=FILES, where=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_noticed(saved: Path, name: str, where: float) -> None:
    message = refused(saved, name, lambda content: content[: int(where * len(content))])
    assert message.startswith(f"{saved / name}: has changed")


@given(name=FILES, tail=st.binary(min_size=1, max_size=3))
def test_anything_appended_is_noticed(saved: Path, name: str, tail: bytes) -> None:
    assert refused(saved, name, lambda content: content + tail).startswith(f"{saved / name}:")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no trained model; give the --out folder"):
        load_model(tmp_path, MODELS)
    save(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(HeedError, match=r"model\.json: is missing"):
        load_model(tmp_path, MODELS)


def test_models_of_others_are_refused(saved: Path) -> None:
    with pytest.raises(UsageError, match="holds model 'Tied', unknown here; known: A, B"):
        load_model(saved, {"A": MODELS["Tied"], "B": MODELS["Tied"]})
    with pytest.raises(UsageError, match="holds a model of toy; use heed toy"):
        load_model(saved, MODELS, domain="medical")


def wrong_version(folder: Path, arguments: dict) -> str:
    """Save a record that does not fit the weights, with a manifest that is in order."""
    torch.manual_seed(0)
    save_model(
        RunFolder(folder),
        domain="toy",
        name="Tied",
        arguments=arguments,
        attention=None,
        preprocessing={},
        model=Tied(width=4),
        data_hash="abc",
    )
    with pytest.raises(HeedError) as caught:
        load_model(folder, MODELS)
    return str(caught.value)


def test_weights_of_another_size_give_one_line(tmp_path: Path) -> None:
    message = wrong_version(tmp_path, {"width": 6})
    assert message.startswith(f"{tmp_path / 'model.safetensors'}: the weights do not fit Tied")
    assert "embed.weight" in message and "[5, 4]" in message
    assert "\n" not in message


def test_arguments_of_another_version_give_one_line(tmp_path: Path) -> None:
    message = wrong_version(tmp_path, {"width": 4, "gone": 1})
    assert "Tied of this version takes other arguments" in message
    assert "gone" in message and "\n" not in message


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_what_json_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, value: object
) -> None:
    with pytest.raises(HeedError, match=r"model\.json: Tied cannot be saved as JSON"):
        save_model(
            RunFolder(tmp_path),
            domain="toy",
            name="Tied",
            arguments={},
            attention=None,
            preprocessing={"scale": value},
            model=Tied(width=4),
            data_hash="abc",
        )
    assert not list(tmp_path.iterdir())
