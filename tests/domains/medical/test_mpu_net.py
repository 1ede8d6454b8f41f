"""MPUNet: every part counts, any grid, and the parts against explicit forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from domains.medical.models.mpu_net import MPUNet
from domains.medical.models.parts.convolutions import cover, grid_steps
from domains.medical.models.parts.mpu_decoder import KEYS, CrossAttention, MultiScale
from domains.medical.models.parts.position_module import PositionModule, block_edge
from domains.medical.models.parts.positions import GridPositions
from shared_attention import UnsupportedError
from shared_attention.choice import choose_attention


def small(spatial_dims=3, **options):
    torch.manual_seed(0)
    patch = (16, 24, 16) if spatial_dims == 3 else (32, 48)
    settings = {"channels": 2, "classes": 3, "width": 8, **options}
    return MPUNet(spatial_dims=spatial_dims, patch_size=patch, **settings)


def total(output):
    terms = [output.logits, *(head for head, _ in output.heads)]
    return sum(term.float().square().mean() for term in terms)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_any_grid_gets_logits_and_every_parameter_a_gradient(spatial_dims):
    model = small(spatial_dims)
    image = torch.randn(2, 2, *(13, 21, 17)[:spatial_dims])
    with torch.autocast("cpu", torch.bfloat16):
        output = model.outputs(image)
    assert output.logits.shape == (2, 3, *image.shape[2:])
    total(output).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_prediction_is_the_first_output_in_training_and_evaluation():
    model, image = small(), torch.randn(2, 2, 16, 24, 16)
    trained = model(image)
    output = model.outputs(image)
    torch.testing.assert_close(output.logits, trained)
    torch.testing.assert_close(model.eval()(image), trained)
    assert [tuple(head.shape[2:]) for head, _ in output.heads] == [(8, 12, 8)]
    assert [weight for _, weight in output.heads] == [0.5]


@pytest.mark.parametrize("plain", [0, 1])
def test_plain_layers_are_the_finest(plain):
    model = small(plain_layers=plain)
    attending = [hasattr(layer, "cross") for layer in model.decoder]
    assert attending == [True] * (len(model.decoder) - plain) + [False] * plain
    assert model(torch.randn(1, 2, 13, 21, 17)).shape == (1, 3, 13, 21, 17)


def test_samples_do_not_see_each_other():
    model = small().eval()
    image = torch.randn(3, 2, 13, 21, 17)
    together = model(image)
    torch.testing.assert_close(model(image[1:2]), together[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "silence",
    [
        lambda m: m.bottleneck.position.gamma,
        lambda m: m.places.project.weight,
        lambda m: m.decoder[0].cross.attention.project_out.weight,
        lambda m: m.decoder[0].cross.places.project.weight,
        lambda m: m.decoder[0].scales.norm_fine.weight,
        lambda m: m.decoder[0].scales.norm_coarse.weight,
    ],
)
def test_every_mechanism_changes_the_output(silence):
    model, image = small().eval(), torch.randn(1, 2, 16, 24, 16)
    before = model(image)
    silence(model).data.zero_()
    assert (model(image) - before).abs().max() > 1e-4


def test_what_one_corner_shows_reaches_the_opposite_one():
    model, image = small().eval(), torch.randn(1, 2, 16, 24, 16)
    changed = image.clone()
    changed[..., :2, :2, :2] += 1
    assert (model(changed) - model(image))[..., -1, -1, -1].abs().max() > 1e-6


def test_other_mechanisms_take_the_places_of_the_scores():
    image = torch.randn(1, 2, 16, 24, 16)
    outputs = [
        small(**options).eval()(image)
        for options in (
            {},
            {"attention": "softmax"},
            {"attention": "linear"},
            {"cross_attention": "linear"},
            {"attention": "position", "attention_options": {"reduction": 4}},
        )
    ]
    assert all(output.isfinite().all() for output in outputs)
    for i, first in enumerate(outputs):
        assert all(not torch.allclose(first, other) for other in outputs[i + 1 :])


def test_mechanisms_that_cannot_serve_are_refused():
    with pytest.raises(UnsupportedError, match="MPUNet cannot use attention 'nothing'"):
        small(attention="nothing")
    with pytest.raises(UnsupportedError, match="always causal"):
        small(attention="scan")
    with pytest.raises(UnsupportedError, match="does not support cross"):
        small(cross_attention="landmark")


def test_depth_follows_the_patch_as_nnunet_plans_it():
    strides, steps = grid_steps((40, 56, 40), most=5)
    assert strides == ((2, 2, 2),) * 3
    assert steps[-1] == (8, 8, 8)
    strides, steps = grid_steps((16, 256, 256), most=5)
    assert steps[-1] == (4, 32, 32)
    assert strides[2:] == ((1, 2, 2),) * 3
    assert grid_steps((6, 6), most=5) == ((), ((1, 1),))
    assert grid_steps((6, 6), most=5, least_stages=2)[1][-1] == (4, 4)


def test_a_patch_that_cannot_be_halved_still_has_a_model():
    model = MPUNet(channels=1, classes=2, spatial_dims=2, patch_size=(6, 6), width=8)
    assert model(torch.randn(2, 1, 5, 7)).shape == (2, 2, 5, 7)


def test_a_head_is_cut_to_the_voxels_that_exist():
    coarse = torch.arange(24.0).view(1, 1, 4, 6)
    assert cover(coarse, (13, 17), (4, 4)).shape[2:] == (4, 5)
    assert torch.equal(cover(coarse, (16, 24), (4, 4)), coarse)


def test_cross_attention_is_softmax_of_tokens_with_places():
    torch.manual_seed(0)
    choice = choose_attention("MPUNet", None, None, default="softmax")
    layer = CrossAttention(2, 16, choice)
    x, skip = torch.randn(2, 16, 5, 6), torch.randn(2, 16, 50, 60)
    out = layer(x, skip, (8, 8), (1, 1))
    pooled = skip[:, :, :48].unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))
    rest = skip[:, :, 48:].unfold(3, 4, 4).mean((2, 4))
    pooled = torch.cat([pooled, rest[:, :, None]], 2)
    q = layer.norm_query(x.flatten(2).mT) + layer.places((5, 6), (8, 8))
    k = layer.norm_key(pooled.flatten(2).mT) + layer.places((13, 15), (4, 4))
    attention = layer.attention
    weights, biases = attention.project_in.weight.chunk(3), attention.project_in.bias.chunk(3)
    heads = [F.linear(t, w, b) for t, w, b in zip((q, k, k), weights, biases, strict=True)]
    scores = (heads[0] @ heads[1].mT / math.sqrt(16)).softmax(-1)
    expected = F.linear(scores @ heads[2], attention.project_out.weight, attention.project_out.bias)
    expected = x + expected.mT.unflatten(2, (5, 6))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(40, 56, 40), (128, 128, 128), (3, 200, 1)])
def test_keys_of_the_decoder_are_bounded(grid):
    choice = choose_attention("MPUNet", None, None, default="softmax")
    layer = CrossAttention(3, 2, choice)
    seen = []
    layer.norm_key.register_forward_hook(lambda module, inputs, out: seen.append(out.shape[1]))
    layer(torch.randn(1, 2, 2, 2, 2), torch.randn(1, 2, *grid), (2, 2, 2), (1, 1, 1))
    assert 1 < seen[0] <= KEYS


def test_scales_reach_further_than_one_convolution():
    torch.manual_seed(0)
    scales = MultiScale(2, 4).double()
    x = torch.randn(1, 4, 16, 20, dtype=torch.float64)
    # Without the norms, which see everything, what is left is local.
    scales.norm_fine, scales.norm_coarse = torch.nn.Identity(), torch.nn.Identity()
    expected = scales.fine(x)
    for i in range(16):
        for j in range(20):
            window = F.pad(x, (1, 1, 1, 1))[..., i // 2 * 2 : i // 2 * 2 + 3, j // 2 * 2 :][..., :3]
            expected[..., i, j] += (window[:, None] * scales.coarse.weight).sum((2, 3, 4))
    expected = F.leaky_relu(x + expected, 0.01)
    torch.testing.assert_close(scales(x), expected)


def test_positions_of_grids_share_the_image_as_their_axes():
    torch.manual_seed(0)
    places = GridPositions(3, 7)
    fine, coarse = places((9, 3, 3), (1, 1, 1)), places((3, 1, 1), (3, 3, 3))
    centres = fine.view(9, 3, 3, 7)[1::3, 1, 1]
    torch.testing.assert_close(coarse.view(3, 7), centres)
    far = places((40, 1, 1), (8, 8, 8))[0]
    assert torch.cdist(far, far).fill_diagonal_(1).min() > 1e-3


def test_position_attention_of_large_maps_works_on_block_means(monkeypatch):
    from domains.medical.models.parts import position_module

    torch.manual_seed(0)
    module = PositionModule("MPUNet", 8)
    coarse = torch.randn(2, 8, 4, 6)
    large = F.interpolate(coarse, scale_factor=2)
    exact = module(coarse)
    monkeypatch.setattr(position_module, "POSITIONS", 24)
    assert block_edge((8, 12)) == 2
    torch.testing.assert_close(module(large), F.interpolate(exact, scale_factor=2))
    detail = large + F.interpolate(torch.tensor([[[[1.0, -1.0]]]]), size=(8, 12)) * 0
    detail[..., ::2, :] += 0.5
    detail[..., 1::2, :] -= 0.5
    torch.testing.assert_close(module(detail) - module(large), detail - large)


def test_the_model_exports_with_a_free_batch():
    model, image = small(2).eval(), torch.randn(2, 2, 29, 45)
    free = {"image": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (), {"image": image}, dynamic_shapes=free)
    one = image[:1]
    torch.testing.assert_close(program.module()(image=one), model(one), rtol=1e-4, atol=1e-4)
