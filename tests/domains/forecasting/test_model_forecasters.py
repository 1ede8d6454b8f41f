"""What every forecaster promises, swept over the registry and the catalogue."""

import inspect

import pytest
import torch

from domains.forecasting.models import MODELS, Autoformer, Informer
from shared_attention import UnsupportedError, catalogue

LOOKBACK, HORIZON, CHANNELS, FEATURES = 21, 9, 3, 4
FORECASTERS = [name for name, spec in MODELS.items() if spec.task == "forecast"]
TINY = {"d_model": 16, "num_heads": 2, "d_ff": 24, "patch": 5, "stride": 3, "season": 24}
NARROW = {
    "window": {"left": 1, "right": 0},
    "prob_sparse": {"factor": 1},
    "sink_window": {"sinks": 0, "left": 1, "right": 0},
    "landmark": {"block": 2},
    "hip": {"block": 1, "top_k": 1, "sinks": 0, "window": 0},
    "arrow": {"prefix": 0, "left": 1, "right": 0},
    "core_context": {"local": 1, "group": 2},
    "hyper": {"block": 1, "samples": 1, "min_seq_len": 1},
}
"""Options with which mechanisms differ from softmax attention on a handful of tokens too."""
SWAPS = [(name, mechanism) for name in FORECASTERS for mechanism in catalogue()]


def build(name, **options):
    torch.manual_seed(0)
    model = MODELS[name].load()
    takes = inspect.signature(model).parameters
    sizes = {key: value for key, value in TINY.items() if key in takes}
    model = model(
        lookback=LOOKBACK,
        horizon=HORIZON,
        channels=CHANNELS,
        time_features=FEATURES,
        **{**sizes, **options},
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def batch(size=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "past": torch.randn(size, LOOKBACK, CHANNELS, generator=generator),
        "past_time": torch.rand(size, LOOKBACK, FEATURES, generator=generator) - 0.5,
        "future_time": torch.rand(size, HORIZON, FEATURES, generator=generator) - 0.5,
    }


def padded(valid):
    inputs = batch(len(valid))
    return inputs | {"valid": valid}


def left_padding():
    valid = torch.ones(3, LOOKBACK, dtype=torch.bool)
    valid[0, :14] = False
    valid[1, :1] = False
    return valid


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", FORECASTERS)
def test_forecast_shape_and_order_of_quantiles(name, outputs):
    forecast = build(name, outputs=outputs).eval()(**batch())
    assert forecast.shape == (3, HORIZON, CHANNELS, outputs)
    assert (forecast.diff(dim=-1) >= 0).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FORECASTERS)
def test_a_forecast_does_not_depend_on_the_rest_of_the_batch(name, training):
    if name == "Informer" and training:
        pytest.skip("distilling uses batch norm, as published")
    model = build(name, dropout=0.0).train(training)
    inputs = batch(4)
    together = model(**inputs)
    alone = model(**{key: value[2:3] for key, value in inputs.items()})
    torch.testing.assert_close(together[2:3], alone, rtol=1e-4, atol=1e-5)
    shuffled = model(**{key: value.flip(0) for key, value in inputs.items()})
    torch.testing.assert_close(shuffled.flip(0), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORECASTERS)
def test_evaluation_is_deterministic_and_leaves_its_inputs_alone(name):
    model, inputs = build(name).eval(), batch()
    before = {key: value.clone() for key, value in inputs.items()}
    first = model(**inputs)
    torch.manual_seed(99)
    assert torch.equal(first, model(**inputs))
    assert all(torch.equal(before[key], value) for key, value in inputs.items())


@pytest.mark.parametrize("name", FORECASTERS)
def test_the_forecast_follows_the_past(name):
    model, inputs = build(name).eval(), batch()
    moved = inputs | {"past": inputs["past"].roll(3, dims=1)}
    assert (model(**inputs) - model(**moved)).abs().max() > 1e-4


@pytest.mark.parametrize("name", FORECASTERS)
def test_gradients_reach_every_parameter(name):
    model = build(name, outputs=2)
    model(**batch()).square().sum().backward()
    silent = [
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert silent == []


@pytest.mark.parametrize("name", FORECASTERS)
def test_padding_is_never_read(name):
    options = {"attention": "softmax"} if name == "Autoformer" else {}
    model = build(name, **options).eval()
    valid = left_padding()
    clean = padded(valid)
    spoilt = dict(clean)
    for key in ("past", "past_time"):
        spoilt[key] = clean[key].masked_fill(~valid.unsqueeze(-1), torch.nan)
    forecast = model(**clean)
    assert torch.equal(forecast, model(**spoilt))
    assert forecast.isfinite().all()
    assert not torch.allclose(forecast[0], model(**batch())[0])
    forecast.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", FORECASTERS)
def test_a_mask_that_hides_nothing_changes_nothing(name):
    model = build(name).eval()
    everything = torch.ones(3, LOOKBACK, dtype=torch.bool)
    torch.testing.assert_close(model(**padded(everything)), model(**batch()))


def test_autoformer_refuses_padding_it_cannot_honour():
    message = (
        "Autoformer cannot use attention 'auto_correlation' here: padded steps must not be "
        "attended to, and 'auto_correlation' does not support key_padding; choose one of softmax"
    )
    with pytest.raises(UnsupportedError, match=message):
        build("Autoformer")(**padded(left_padding()))


@pytest.mark.parametrize(("name", "mechanism"), SWAPS)
def test_every_compatible_mechanism_swaps_in(name, mechanism):
    try:
        options = NARROW.get(mechanism, {})
        model = build(name, attention=mechanism, attention_options=options).eval()
    except UnsupportedError as error:
        assert name in str(error) and repr(mechanism) in str(error)
        assert "choose one of" in str(error)
        assert mechanism != MODELS[name].attention
        return
    default = build(name).eval()
    forecast = model(**batch())
    assert forecast.isfinite().all()
    if mechanism != MODELS[name].attention:
        assert not torch.allclose(forecast, default(**batch()), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "mechanism", "missing"),
    [
        ("Informer", "auto_correlation", "its decoder must not see later steps"),
        ("Flowformer", "scan", "its decoder reads the encoder"),
        ("AarenForecaster", "softmax", "with a state of constant size"),
    ],
)
def test_incompatible_mechanisms_are_refused_when_the_model_is_built(name, mechanism, missing):
    with pytest.raises(UnsupportedError, match=missing):
        build(name, attention=mechanism)


def test_unknown_mechanisms_and_options_are_refused():
    with pytest.raises(UnsupportedError, match="'softmx': it is not in the catalogue; choose one"):
        build("Informer", attention="softmx")
    with pytest.raises(ValueError, match="factr"):
        build("Informer", attention_options={"factr": 2})


@pytest.mark.parametrize("name", [name for name in FORECASTERS if name != "MHAC"])
def test_covariates_are_refused_where_they_would_be_dropped(name):
    given = torch.zeros(3, LOOKBACK, 2)
    message = rf"{name}\.forward: past_covariates of shape \(3, {LOOKBACK}, 2\) cannot be used"
    with pytest.raises(UnsupportedError, match=message):
        build(name)(**batch(), past_covariates=given)


def test_mhac_reads_past_and_future_covariates():
    model = build("MHAC", past_covariates=2, future_covariates=1).eval()
    past, future = torch.randn(3, LOOKBACK, 2), torch.randn(3, HORIZON, 1)
    forecast = model(**batch(), past_covariates=past, future_covariates=future)
    for other in ((past + 1, future), (past, future + 1)):
        changed = model(**batch(), past_covariates=other[0], future_covariates=other[1])
        assert (changed - forecast).abs().max() > 1e-5
    message = (
        "future_covariates has 0 columns, expected 1; build the model with future_covariates=0"
    )
    with pytest.raises(ValueError, match=message):
        model(**batch(), past_covariates=past)


def test_attention_options_reach_the_mechanism():
    def factor(model):
        return model.encoder[0].attention.mechanism.options["factor"]

    assert factor(build("Autoformer")) == 3
    assert factor(build("Informer")) == 5
    assert factor(build("Informer", attention_options={"factor": 2})) == 2


def test_cross_attention_never_takes_memory_padding_for_query_padding():
    label = LOOKBACK - HORIZON
    model = build("Flowformer", label=label).eval()
    assert model.decoder[0].cross_attention.mechanism.options["self_attention"] is False
    assert model.decoder[0].self_attention.mechanism.options["self_attention"] is True
    assert model(**padded(left_padding())).isfinite().all()


def test_informer_leaves_out_only_what_is_not_read():
    model, inputs = build("Informer").eval(), batch()
    layer = model.decoder[-1]
    tokens, memory = torch.randn(2, 12, 16), torch.randn(2, 7, 16)
    whole = layer(tokens, memory)[:, -5:]
    part = layer.forward_last(tokens, memory, 5, mask=None, memory_mask=None)
    torch.testing.assert_close(part, whole)
    assert model(**inputs).isfinite().all()


def test_informer_halves_between_encoder_layers():
    model = build("Informer", encoder_layers=3)
    memory, _ = model.encode(batch()["past"], batch()["past_time"], None)
    assert memory.shape[1] == 6


def test_published_training_form_of_autoformer_is_available_by_name():
    options = {"factor": 1.0, "form": "published"}
    model = build("Autoformer", attention_options=options, dropout=0.0)
    assert model.encoder[0].attention.mechanism.options["form"] == "published"
    assert isinstance(model, Autoformer) and not isinstance(model, Informer)


@pytest.mark.parametrize("name", FORECASTERS)
def test_forecasters_take_the_common_arguments_and_few_more(name):
    parameters = inspect.signature(MODELS[name].load()).parameters.values()
    names = [parameter.name for parameter in parameters]
    common = ["lookback", "horizon", "channels", "time_features", "outputs", "attention"]
    assert {*common, "attention_options"} <= set(names)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters)
