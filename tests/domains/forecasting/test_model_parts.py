"""Parts of the forecasting models against other formulations of the same thing."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from domains.forecasting.models.parts.circular import CircularConvolution
from domains.forecasting.models.parts.decomposition import (
    CentredLayerNorm,
    decompose,
    moving_average,
)
from domains.forecasting.models.parts.distilling import Distilling
from domains.forecasting.models.parts.heads import as_forecast, ordered
from domains.forecasting.models.parts.normalisation import (
    carry_valid,
    last_valid,
    normalise_window,
)
from domains.forecasting.models.parts.patching import patch_count, patches
from domains.forecasting.models.parts.running_scale import (
    RunningScale,
    empty_scale,
    running_scales,
    update_scale,
)
from domains.forecasting.models.parts.start_tokens import label_steps
from domains.forecasting.models.parts.token_embedding import TokenEmbedding


@pytest.mark.parametrize(("length", "width"), [(30, 25), (7, 25), (1, 3), (33, 1), (16, 7)])
def test_moving_average_is_the_mean_of_a_padded_window(length, width):
    x = torch.randn(2, length, 3, dtype=torch.float64)
    padded = np.pad(x.numpy(), ((0, 0), (width // 2, width // 2), (0, 0)), mode="edge")
    expected = np.stack([padded[:, t : t + width].mean(axis=1) for t in range(length)], axis=1)
    torch.testing.assert_close(moving_average(x, width), torch.from_numpy(expected))


def test_moving_average_has_the_gradient_of_pooling():
    x = torch.randn(2, 11, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: moving_average(t, 5), (x,))


def test_decomposition_adds_up_to_the_series():
    x = torch.randn(3, 40, 2) * 100
    seasonal, trend = decompose(x, 25)
    torch.testing.assert_close(seasonal + trend, x)
    constant = torch.full((1, 9, 1), 3.0)
    torch.testing.assert_close(decompose(constant, 5)[0], torch.zeros(1, 9, 1))


def test_moving_average_refuses_even_widths():
    with pytest.raises(ValueError, match="width must be odd and positive, got 24"):
        moving_average(torch.zeros(1, 5, 1), 24)


def test_centred_norm_leaves_no_level():
    norm = CentredLayerNorm(6)
    torch.testing.assert_close(norm(torch.randn(2, 9, 6)).mean(dim=1), torch.zeros(2, 6))


def test_circular_convolution_is_conv1d():
    ours, theirs = (
        CircularConvolution(5, 4),
        nn.Conv1d(5, 4, 3, padding=1, padding_mode="circular", bias=False),
    )
    with torch.no_grad():
        ours.taps.weight.copy_(theirs.weight.permute(2, 0, 1).reshape(12, 5))
    x = torch.randn(2, 9, 5)
    torch.testing.assert_close(ours(x), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_token_embedding_is_a_convolution_and_a_linear_map():
    embedding = TokenEmbedding(3, 2, 6)
    kernel = embedding.values.view(6, 3, 3).permute(0, 2, 1)
    x, time = torch.randn(2, 7, 3), torch.randn(2, 7, 2)
    padded = functional.pad(x.transpose(1, 2), (1, 1), mode="circular")
    values = functional.conv1d(padded, kernel).transpose(1, 2)
    torch.testing.assert_close(embedding(x, time), values + time @ embedding.calendar.T)


@pytest.mark.parametrize("length", [8, 9])
@pytest.mark.parametrize("training", [True, False])
def test_distilling_is_the_published_block_with_padding_one(length, training):
    ours = Distilling(4).train(training)
    with torch.no_grad():
        ours.norm.running_mean.normal_()
        ours.norm.running_var.uniform_(0.5, 2)
        ours.norm.weight.normal_()
    theirs = nn.Sequential(
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular", bias=False),
        nn.BatchNorm1d(4),
        nn.ELU(),
        nn.MaxPool1d(3, 2, 1),
    ).train(training)
    theirs[1].load_state_dict(ours.norm.state_dict())
    with torch.no_grad():
        theirs[0].weight.copy_(ours.convolution.taps.weight.view(3, 4, 4).permute(1, 2, 0))
    x = torch.randn(3, length, 4)
    halved, valid = ours(x, None)
    assert valid is None
    torch.testing.assert_close(halved, theirs(x.transpose(1, 2)).transpose(1, 2))


def test_distilling_never_reads_padding():
    block = Distilling(4).eval()
    x, valid = torch.randn(2, 9, 4), torch.ones(2, 9, dtype=torch.bool)
    valid[0, :5] = False
    spoilt = x.masked_fill(~valid.unsqueeze(-1), torch.nan)
    halved, kept = block(spoilt, valid)
    torch.testing.assert_close(halved, block(x, valid)[0])
    assert kept.tolist() == [[False, False, True, True, True], [True] * 5]
    assert (halved[0, :2] == 0).all()


@pytest.mark.parametrize("kind", ["instance", "last", "none"])
def test_normalising_a_padded_window_is_normalising_its_valid_part(kind):
    x, valid = torch.randn(2, 12, 3), torch.ones(2, 12, dtype=torch.bool)
    valid[0, :7] = False
    window, scale = normalise_window(x.masked_fill(~valid[..., None], torch.nan), valid, kind)
    alone, alone_scale = normalise_window(x[:1, 7:], None, kind)
    torch.testing.assert_close(window[:1, 7:], alone)
    torch.testing.assert_close(scale.level[:1], alone_scale.level)
    assert (window[0, :7] == 0).all()
    restored = scale.restore(window.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(restored[valid], x[valid])


def test_normalising_refuses_unknown_kinds():
    with pytest.raises(ValueError, match="'instance', 'last' or 'none', got 'robust'"):
        normalise_window(torch.zeros(1, 2, 1), None, "robust")


def test_invalid_steps_carry_the_last_valid_value():
    x = torch.tensor([[9.0, 1, 9, 2, 9], [9.0, 9, 9, 9, 9]]).unsqueeze(-1)
    valid = torch.tensor([[False, True, False, True, False], [False] * 5])
    assert carry_valid(x, valid).squeeze(-1).tolist() == [[1, 1, 1, 2, 2], [0] * 5]
    assert last_valid(x, valid).flatten().tolist() == [2, 0]


@pytest.mark.parametrize(
    ("length", "patch", "stride"), [(24, 8, 4), (25, 8, 4), (9, 9, 3), (10, 3, 3)]
)
def test_patches_end_at_the_last_step_and_cover_the_first(length, patch, stride):
    x = torch.arange(length, dtype=torch.float32).unsqueeze(0)
    pieces = patches(x, patch, stride)[0]
    assert pieces.shape == (patch_count(length, patch, stride), patch)
    assert pieces[-1, -1] == length - 1
    assert pieces[0].min() == 0
    for number, piece in enumerate(pieces.flip(0)):
        end = length - number * stride
        expected = [max(t, 0) for t in range(end - patch, end)]
        assert piece.tolist() == expected


def test_patches_longer_than_the_window_are_refused():
    with pytest.raises(
        ValueError, match="got 16 and 8, expected 1 <= stride <= patch <= look-back 9"
    ):
        patch_count(9, 16, 8)


def test_running_scale_is_the_weighted_moment_of_what_was_seen():
    decay, x = 0.9, torch.randn(2, 13, 3, dtype=torch.float64) + 50
    valid = torch.rand(2, 13) > 0.3
    valid[0, :4] = False
    scales = running_scales(x * valid[..., None], valid, decay)
    state = empty_scale(2, 3, x)
    for t in range(13):
        state = update_scale(state, x[:, t], valid[:, t], decay)
        for b in range(2):
            seen = x[b, : t + 1][valid[b, : t + 1]].numpy()
            if not len(seen):
                assert (state.weight[b] == 0).all()
                continue
            weights = decay ** np.arange(len(seen))[::-1]
            mean = np.average(seen, axis=0, weights=weights)
            spread = np.sqrt(np.average((seen - mean) ** 2, axis=0, weights=weights) + 1e-5)
            here = RunningScale(*(field[b, t] for field in scales))
            for scale in (here, RunningScale(*(field[b] for field in state))):
                np.testing.assert_allclose(scale.mean, mean)
                np.testing.assert_allclose(scale.spread(), spread)


def test_quantiles_never_cross():
    forecast = as_forecast(torch.randn(2, 5, 6), 2, 3)
    assert forecast.shape == (2, 5, 2, 3)
    assert (ordered(forecast).diff(dim=-1) >= 0).all()


def test_label_must_lie_in_the_window():
    assert label_steps(None, 9, default=4) == 4
    with pytest.raises(ValueError, match="label: got 10, expected between 0 and the look-back 9"):
        label_steps(10, 9, default=4)
