"""What is particular to deformable attention: where it reads, and what it never reads."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from shared_attention import catalogue
from shared_attention.mechanisms.deformable import DeformableAttention, sample
from shared_attention.primitives.deformable_sampling import deformable_sample

SHAPES = ((5, 4), (3, 2))


def build(dims=2):
    torch.manual_seed(0)
    module = DeformableAttention(8, num_heads=2, levels=2, points=3, dims=dims).double()
    torch.nn.init.normal_(module.sampling_offsets.weight)
    torch.nn.init.normal_(module.attention_weights.weight)
    return module


def test_a_point_in_the_middle_of_a_position_reads_it_alone():
    value = torch.randn(1, 20, 1, 3)
    place = torch.tensor([(2 + 0.5) / 4, (3 + 0.5) / 5]).view(1, 1, 1, 1, 1, 2)
    out = deformable_sample(value, SHAPES[:1], place, torch.ones(1, 1, 1, 1, 1))
    torch.testing.assert_close(out[0, 0], value[0, 3 * 4 + 2, 0])


def test_points_outside_read_zero():
    value = torch.randn(1, 20, 1, 3)
    place = torch.tensor([[-0.5, 0.5], [0.5, 7.0], [1e9, -1e9]]).view(1, 3, 1, 1, 1, 2)
    out = deformable_sample(value, SHAPES[:1], place, torch.ones(1, 3, 1, 1, 1))
    assert (out == 0).all()


def test_depth_weighting_equals_sampling_the_lifted_volume():
    torch.manual_seed(0)
    value = torch.randn(2, 20, 1, 3, dtype=torch.float64, requires_grad=True)
    depth = torch.rand(2, 20, 6, dtype=torch.float64, requires_grad=True)
    place = torch.rand(2, 7, 1, 1, 2, 3, dtype=torch.float64) * 1.4 - 0.2
    place.requires_grad_()
    weights = torch.rand(2, 7, 1, 1, 2, dtype=torch.float64, requires_grad=True)
    out = deformable_sample(value, SHAPES[:1], place, weights, depth)
    volume = (value[:, :, 0, :, None] * depth[:, :, None]).unflatten(1, (5, 4))
    read = F.grid_sample(
        volume.permute(0, 3, 4, 1, 2), 2 * place[:, None, :, 0, 0] - 1, align_corners=False
    )
    expected = (read[:, :, 0] * weights[:, None, :, 0, 0]).sum(-1).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    wanted = (value, depth, place, weights)
    mine = torch.autograd.grad(out.sin().sum(), wanted)
    theirs = torch.autograd.grad(expected.sin().sum(), wanted)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_depth_that_is_even_gives_what_two_dimensions_give_away_from_its_ends():
    flat, deep = build(), build(dims=3)
    inputs = sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight = deep.sampling_offsets.weight.view(2, 2, 3, 3, 8)
        weight[..., :2, :] = flat.sampling_offsets.weight.view(2, 2, 3, 2, 8)
        weight[..., 2, :] = 0
        bias = deep.sampling_offsets.bias.view(2, 2, 3, 3)
        bias[..., :2] = flat.sampling_offsets.bias.view(2, 2, 3, 2)
        for name in ("attention_weights", "value_proj", "output_proj"):
            deep.get_submodule(name).load_state_dict(flat.get_submodule(name).state_dict())
    points = torch.cat([inputs["reference_points"], torch.full((2, 6, 2, 1), 0.5).double()], -1)
    depth = torch.ones(2, 26, 5, dtype=torch.float64)
    lifted = deep(inputs["x"], points, inputs["value"], SHAPES, depth)
    torch.testing.assert_close(lifted, flat(**inputs))


def test_features_that_are_not_valid_are_never_read():
    module = build()
    inputs = sample(2, torch.Generator().manual_seed(0))
    valid = torch.rand(2, 26, generator=torch.Generator().manual_seed(1)) > 0.4
    clean = module(**inputs, valid=valid)
    poisoned = inputs["value"].masked_fill(~valid[..., None], torch.nan).requires_grad_()
    out = module(**{**inputs, "value": poisoned}, valid=valid)
    torch.testing.assert_close(out, clean)
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_a_new_layer_reads_along_one_direction_for_each_head():
    rays = DeformableAttention(8, num_heads=4, levels=1, points=2).sampling_offsets.bias
    expected = [[1, 0], [2, 0], [0, 1], [0, 2], [-1, 0], [-2, 0], [0, -1], [0, -2]]
    torch.testing.assert_close(rays.view(8, 2), torch.tensor(expected).float(), atol=1e-6, rtol=0)


def test_what_does_not_fit_is_refused():
    module = build()
    inputs = sample(2, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="spatial_shapes has 1 levels, expected 2"):
        module(**{**inputs, "spatial_shapes": SHAPES[:1]})
    with pytest.raises(ValueError, match="depth goes with dims=3, got dims=2"):
        module(**inputs, depth=torch.ones(2, 26, 5))
    with pytest.raises(ValueError, match=r"value is .* expected floats"):
        module(**{**inputs, "value": inputs["value"][:, :-1]})
    with pytest.raises(ValueError, match="deformable_3d: num_heads 3 does not divide channels 8"):
        catalogue()["deformable_3d"].build(channels=8, num_heads=3)
