"""What every model of windows promises, and the structure of each."""

import inspect

import pytest
import torch

from domains.finance.models import MLPLOB, MODELS, TLOB, BiNCTABL, DeepLOB, StreamingLOB
from shared_attention import UnsupportedError, catalogue
from shared_attention.explain import capture

PUBLISHED = [
    (TLOB, 128, 144, 2_656_724),
    (TLOB, 128, 46, 1_173_693),
    (TLOB, 128, 40, 1_135_974),
    (MLPLOB, 384, 144, 6_327_908),
    (MLPLOB, 384, 46, 3_074_003),
    (MLPLOB, 384, 40, 3_012_414),
    (DeepLOB, 100, 40, 143_907),
    (BiNCTABL, 10, 40, 11_446),
]
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
T, F = 12, 10


def build(model, **options):
    torch.manual_seed(0)
    built = MODELS[model].load()(**{"lookback": T, "features": F, **options})
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return built


def batch(size=3, rows=T, features=F):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, rows, features, generator=generator)


@pytest.mark.parametrize(("model", "lookback", "features", "count"), PUBLISHED)
def test_published_parameter_counts(model, lookback, features, count):
    with torch.device("meta"):
        built = model(lookback=lookback, features=features)
    assert sum(parameter.numel() for parameter in built.parameters()) == count


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 46), (33, 7)])
@pytest.mark.parametrize("count", [1, 2])
def test_any_window_and_any_batch_train(name, size, count):
    model = build(name, lookback=size[0], features=size[1], classes=4)
    scores = model(batch(count, *size))
    assert scores.shape == (count, 4) and scores.isfinite().all()
    scores.square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_parameter(name):
    options = {"order_type_column": 3} if name in ("TLOB", "MLPLOB") else {}
    model, x = build(name, **options), batch(8)
    x[..., 3] = torch.arange(8 * T).view(8, T) % 3
    model(x).square().sum().backward()
    silent = [
        key
        for key, p in model.named_parameters()
        if p.grad is None or not p.grad.isfinite().all() or not p.grad.abs().sum() > 0
    ]
    assert silent == []


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_is_deterministic_and_does_not_couple_windows(name):
    model, x = build(name).eval(), batch(4)
    before = x.clone()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    scores = model(x)
    torch.manual_seed(99)
    assert torch.equal(scores, model(x)) and torch.equal(x, before)
    torch.testing.assert_close(model(x[2:3]), scores[2:3], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x.flip(0)).flip(0), scores, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_dropout_acts_in_training_only(name):
    model, x = build(name, dropout=0.5), batch()
    model.train()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_not_probabilities(name):
    scores = build(name).eval()(batch(16))
    assert (scores.sum(1) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in MODELS if name != "StreamingLOB"])
def test_other_windows_are_refused(name):
    message = rf"{name}\.forward: got windows of shape \[3, 11, 10\], expected \[batch, 12, 10\]"
    with pytest.raises(ValueError, match=message):
        build(name)(batch(rows=11))
    with pytest.raises(ValueError, match=f"{name}: lookback got 0, expected at least 1"):
        build(name, lookback=0)


@pytest.mark.parametrize("name", MODELS)
def test_models_take_the_common_arguments_by_keyword(name):
    parameters = inspect.signature(MODELS[name].load()).parameters.values()
    assert {"lookback", "features", "classes", "dropout"} <= {p.name for p in parameters}
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters)


def test_tlob_attends_over_time_first_and_over_features_second():
    model, x = build("TLOB").eval(), batch(2)
    with capture(model) as maps:
        model(x)
    lengths = [weights.shape[-1] for weights in maps.values()]
    assert lengths == [T, F] * 3 + [T, F // 4]  # the last pair has quartered the features before


def test_a_temporal_layer_follows_the_order_of_time_steps_only():
    model = build("TLOB").eval()
    time, feature = model.layers[0], model.layers[1]
    x = torch.randn(2, T, F)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(time(x[:, order]), time(x)[:, order])
    order = torch.randperm(F, generator=torch.Generator().manual_seed(4))
    y = x.transpose(1, 2)
    torch.testing.assert_close(feature(y[:, order]), feature(y)[:, order])
    assert not torch.allclose(time(x[..., order])[..., :], time(x)[..., order], atol=1e-3)


def test_tlob_tells_time_steps_apart():
    model, x = build("TLOB").eval(), batch()
    with torch.no_grad():
        for parameter in (model.normalise.time_scale, model.normalise.time_shift):
            parameter.fill_(0.5)
    assert not torch.allclose(model(x), model(x.flip(1)), atol=1e-4)


@pytest.mark.parametrize("mechanism", list(catalogue()))
def test_every_mechanism_swaps_into_tlob_or_is_refused_with_reasons(mechanism):
    options = {"attention": mechanism, "attention_options": NARROW.get(mechanism), "num_heads": 2}
    try:
        model = build("TLOB", **options)
    except UnsupportedError as error:
        assert "TLOB cannot use attention" in str(error) and "choose one of" in str(error)
        assert catalogue()[mechanism].family not in ("attention", "recurrent")
        return
    x = batch()
    scores = model(x)
    assert scores.isfinite().all()
    scores.sum().backward()
    if mechanism != "softmax":
        assert not torch.allclose(scores, build("TLOB", num_heads=2)(x), atol=1e-6)


def test_feature_attention_follows_or_is_named_but_has_no_order():
    def mechanisms(**options):
        return [layer.attention.spec.name for layer in build("TLOB", **options).layers[:2]]

    assert mechanisms(attention="linear") == ["linear", "linear"]
    assert mechanisms(attention="scan") == ["scan", "softmax"]
    assert mechanisms(attention="scan", feature_attention="linear") == ["scan", "linear"]
    assert mechanisms(feature_attention="linear") == ["softmax", "linear"]
    model = build("TLOB", attention="window", attention_options={"left": 2})
    lefts = [layer.attention.mechanism.options["left"] for layer in model.layers[:2]]
    assert lefts == [2, 2]
    options = {"left": 3}
    model = build("TLOB", attention="window", feature_attention_options=options)
    lefts = [layer.attention.mechanism.options["left"] for layer in model.layers[:2]]
    assert lefts == [64, 3]
    with pytest.raises(UnsupportedError, match=r"have no order, .* and 'scan' is always causal"):
        build("TLOB", feature_attention="scan")


def test_heads_must_divide_both_widths():
    assert build("TLOB", num_heads=2).eval()(batch()).shape == (3, 3)
    message = "num_heads 4 does not divide both d_model 10 and lookback 12"
    with pytest.raises(ValueError, match=message):
        build("TLOB", num_heads=4)


def test_bin_ctabl_uses_weights_within_its_constraints():
    model, x = build("BiNCTABL").eval(), batch()
    with torch.no_grad():
        model.first.over_features.mul_(30)
        model.attention.plain_share.fill_(1.5)
        scores = model(x)
        weight = model.first.over_features
        weight.mul_(10 / weight.norm())
        model.attention.plain_share.fill_(1.0)
    torch.testing.assert_close(model(x), scores, rtol=1e-4, atol=1e-5)


def test_deeplob_joins_further_columns_where_levels_are_one_vector():
    plain = build("DeepLOB", features=8).eval()
    joined = build("DeepLOB", features=10, book_columns=8).eval()
    joined.load_state_dict({**joined.state_dict(), **plain.state_dict()})
    x = batch(rows=T, features=10)
    assert not torch.allclose(joined(x), plain(x[..., :8]))
    with torch.no_grad():
        joined.more.weight.zero_()
    torch.testing.assert_close(joined(x), plain(x[..., :8]))


def test_deeplob_reads_columns_that_are_no_book_and_refuses_broken_levels():
    model = build("DeepLOB", book_columns=0).eval()
    assert not hasattr(model, "levels")
    assert model(batch()).shape == (3, 3)
    message = "book_columns got 6, expected a multiple of 4 between 0 and the 10 features"
    with pytest.raises(ValueError, match=message):
        build("DeepLOB", book_columns=6)


@pytest.mark.parametrize("model", [StreamingLOB, TLOB])
def test_unknown_mechanisms_are_refused(model):
    with pytest.raises(UnsupportedError, match="cannot use attention 'softmx'"):
        model(lookback=4, features=4, attention="softmx")
