"""Classifiers of series: padding, batch slots, mechanisms, errors."""

import pytest
import torch

from domains.forecasting.models import MODELS
from shared_attention import UnsupportedError

CLASSIFIERS = [name for name, spec in MODELS.items() if spec.task == "classify"]


def build(name, **options):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_heads": 2, "d_ff": 24}
    return MODELS[name].load()(channels=3, classes=4, max_length=20, **sizes, **options).eval()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_amount_and_content_of_padding_never_matter(name):
    model, x = build(name), torch.randn(1, 9, 3)
    alone = model(x, torch.ones(1, 9, dtype=torch.bool))
    assert alone.shape == (1, 4)
    for length, filler in ((13, torch.nan), (20, 5.0)):
        longer = torch.cat([x, torch.full((1, length - 9, 3), filler)], dim=1)
        valid = torch.arange(length)[None] < 9
        torch.testing.assert_close(model(longer, valid), alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(x), alone)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_do_not_depend_on_the_rest_of_the_batch(name, training):
    model = build(name, dropout=0.0).train(training)
    x, valid = torch.randn(3, 11, 3), torch.arange(11)[None] < torch.tensor([[11], [4], [7]])
    torch.testing.assert_close(
        model(x, valid)[1:2], model(x[1:2], valid[1:2]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradients_reach_every_parameter(name):
    model = build(name).train()
    model(torch.randn(2, 8, 3), None).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_classifiers_differ_in_their_mechanism_only():
    x = torch.randn(2, 8, 3)
    flow = build("FlowformerClassifier")
    as_flow = build("TransformerClassifier", attention="flow")
    torch.testing.assert_close(flow(x), as_flow(x))
    assert not torch.allclose(flow(x), build("TransformerClassifier")(x))


def test_padding_is_refused_where_it_cannot_be_honoured():
    model = build("TransformerClassifier", attention="auto_correlation")
    assert model(torch.randn(2, 8, 3), torch.ones(2, 8, dtype=torch.bool)).isfinite().all()
    with pytest.raises(UnsupportedError, match="does not support key_padding"):
        model(torch.randn(2, 8, 3), torch.arange(8)[None].expand(2, -1) < 5)


def test_longer_series_are_refused():
    with pytest.raises(
        ValueError, match="got series of 21 steps, expected at most max_length = 20"
    ):
        build("AarenClassifier")(torch.randn(1, 21, 3))
