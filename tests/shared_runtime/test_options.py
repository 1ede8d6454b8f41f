from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_runtime.building import build
from shared_runtime.errors import HeedError, UsageError
from shared_runtime.options import RunConfig, find_mechanism, find_model, resolve
from shared_runtime.settings import Setting, typed, unknown
from tests.shared_runtime.toy_domain import domain as toy

DATA = {"data.path": Path("rows.csv")}


def config(*sets: str, **more: object) -> RunConfig:
    return resolve(toy, flags=DATA, sets=sets, **more)


def test_defaults_come_from_dataclasses_and_the_model() -> None:
    run = config()
    assert (run.domain, run.seed, run.device) == ("toy", 0, "auto")
    assert run.model.name == toy.DEFAULT_MODEL
    assert run.attention.name is None
    assert run.data == toy.DataConfig(Path("rows.csv"))
    assert run.training.learning_rate == 0.01, "the model's own training settings"
    assert config("model.name=Line").training.learning_rate == 1e-3


def test_file_then_flags_then_set(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "seed: 1\ndata: {path: sub/rows.csv, target: z}\nmodel: {name: tokens, d_model: 4}\n"
        "training: {epochs: 3, batch_size: 7}\n"
    )
    run = resolve(
        toy,
        config=file,
        flags={"seed": 2, "data.target": None},
        sets=["training.epochs=5", "training.epochs=6"],
    )
    assert run.seed == 2
    assert (run.training.epochs, run.training.batch_size) == (6, 7)
    assert run.data.target == "z", "a flag that was not given changes nothing"
    assert run.data.path == tmp_path / "sub/rows.csv"
    assert run.model.name == "Tokens" and run.model.options == {"d_model": 4}


def test_path_of_a_flag_is_relative_to_where_the_command_runs(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {path: a.csv}\n")
    assert resolve(toy, config=file, flags=DATA).data.path == Path("rows.csv")


def test_options_of_another_model_do_not_survive_a_new_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: {name: Tokens, d_model: 4}\nattention: {name: window, left: 1}\n")
    run = resolve(toy, config=file, flags={**DATA, "attention.name": "linear"})
    assert run.model.options == {"d_model": 4}
    assert (run.attention.name, run.attention.options) == ("linear", {})
    file.write_text("model: {name: Tokens, d_model: 4}\n")
    run = resolve(toy, config=file, flags={**DATA, "model.name": "line"})
    assert (run.model.name, run.model.options) == ("Line", {})
    assert "model is now line: model.d_model no longer applies" in caplog.text


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["training.epoch=3"], "did you mean training.epochs?"),
        (["model.dmodel=3"], "--set model.dmodel=3: unknown key of Tokens 'model.dmodel'"),
        (["data.targt=3"], "did you mean data.target?"),
        (["trainin.epochs=3"], "unknown key 'trainin.epochs'"),
        (["training"], "--set training: expected key=value"),
        (["training.epochs=abc"], "training.epochs: expected int, got 'abc'"),
        (["training.epochs=true"], "training.epochs: expected int, got True"),
        (["training.epochs=1.5"], "training.epochs: expected int, got 1.5"),
        (["training.epochs=0"], "training.epochs: expected at least 1, got 0"),
        (["model.pool=max"], "model.pool: expected Literal['mean', 'first'], got 'max'"),
        (["data.test_share=0.9"], "data: test_share must be in (0, 0.5), got 0.9"),
        (["seed=x"], "seed: expected int, got 'x'"),
        (["device=gpu"], "device: expected Literal['auto', 'cpu', 'cuda'], got 'gpu'"),
        (["domain=forecasting"], "is for the domain forecasting, not toy"),
        (["model.name=Tokn"], "unknown toy model 'Tokn'; did you mean Tokens?"),
        (["attention.name=sofmax"], "did you mean softmax?"),
        (["model.attention=softmax"], "unknown key of Tokens 'model.attention'"),
        (["attention.factor=2"], "unknown key of the mechanism softmax 'attention.factor'"),
        (["model.name=Line", "attention.name=softmax"], "Line has no attention to replace"),
        (["model.d_model=[1"], "is not a YAML value"),
        (["training=5"], "unknown key 'training'"),
    ],
)
def test_mistakes_are_one_clear_line(sets: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config(*sets)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_without_brackets_is_told_to_have_them() -> None:
    setting = Setting("data", "patch_size", "32,32,32", "--set data.patch_size=32,32,32")
    with pytest.raises(UsageError, match=r"write a list in brackets, such as \[32,32,32\]"):
        typed(tuple[int, ...], setting)
    with pytest.raises(UsageError, match="valid integer"):
        typed(tuple[int, ...], replace(setting, value=["a"]))


def test_missing_data_says_which_flag() -> None:
    with pytest.raises(UsageError, match=r"data.path is needed: .* or --data PATH"):
        resolve(toy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: [", "is not YAML"),
        ("- a", "expected a mapping of sections, got list"),
        ("training: 3", "training: expected a mapping, got 3"),
        ("trainin: {epochs: 1}", "unknown key 'trainin'"),
        ("seed: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        resolve(toy, config=file, flags=DATA)
    with pytest.raises(UsageError, match="cannot read the configuration"):
        resolve(toy, config=tmp_path / "absent.yaml")


def test_numbers_that_yaml_takes_for_text() -> None:
    assert config("training.learning_rate=1e-4").training.learning_rate == 1e-4
    assert config("model.dropout=0").model.options == {"dropout": 0.0}
    assert config("data.id_column=null").data.id_column is None
    with pytest.raises(UsageError, match="expected str, got 5"):
        config("data.target=5")
    assert config("data.target='5'").data.target == "5"


def test_resolved_configuration_resolves_to_itself(tmp_path: Path) -> None:
    run = config("model.d_model=4", "attention.name=window", "attention.left=2", "seed=3")
    built = build(find_model(toy, "tokens"), run, {"features": 3})
    assert built.config.model.options["num_heads"] == 2, "defaults are written out"
    assert "features" not in built.config.model.options, "the data decide it"
    tree = built.config.to_dict()
    file = tmp_path / "elsewhere" / "config.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump(tree))
    again = resolve(toy, config=file)
    assert again.to_dict() == tree
    assert os.path.isabs(tree["data"]["path"])


def test_build_refuses_what_contradicts_the_data_or_the_model() -> None:
    spec = find_model(toy, "Tokens")
    with pytest.raises(UsageError, match=r"model.features: got 2, but the data make it 3"):
        build(spec, config("model.features=2"), {"features": 3})
    with pytest.raises(UsageError, match=r"Tokens: d_model \(5\) must be divisible"):
        build(spec, config("model.d_model=5"), {"features": 3})
    with pytest.raises(UsageError, match=r"Tokens needs model.features"):
        build(spec, config(), {})


def test_same_seed_same_weights() -> None:
    spec = find_model(toy, "Tokens")
    first, second, other = (
        build(spec, config(f"seed={seed}"), {"features": 3}).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert all(first[name].equal(second[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)


def test_names_in_any_case() -> None:
    assert find_model(toy, "LINE").name == "Line"
    assert find_mechanism("SoftMax") == "softmax"
    assert unknown("thing", "zzz", ["a", "b"]) == "unknown thing 'zzz'; valid: a, b"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_any_text_is_accepted_or_refused_with_a_heed_error(key: str, value: str) -> None:
    for pair in (f"{key}={value}", f"training.epochs={value}", f"data.{key}={value}", key):
        try:
            config(pair)
        except HeedError as error:
            assert str(error)
