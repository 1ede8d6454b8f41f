"""MSGuidedNet: every part counts, and the losses of its guidance by hand."""

import pytest
import torch

from domains.medical.models.ms_guided_net import MSGuidedNet
from domains.medical.models.parts.guided_attention import SemanticModule, semantic_losses
from shared_runtime.errors import UsageError


def small(spatial_dims=2, **options):
    torch.manual_seed(0)
    patch = (32, 40) if spatial_dims == 2 else (16, 16, 24)
    settings = {"channels": 2, "classes": 3, "width": 8, "backbone_width": 4, **options}
    return MSGuidedNet(spatial_dims=spatial_dims, patch_size=patch, **settings)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_any_grid_gets_logits_and_every_parameter_a_gradient(spatial_dims):
    model = small(spatial_dims)
    image = torch.randn(2, 2, *(15, 21, 9)[:spatial_dims])
    with torch.autocast("cpu", torch.bfloat16):
        output = model.outputs(image)
    assert output.logits.shape == (2, 3, *image.shape[2:])
    loss = sum(head.float().square().mean() for head, _ in output.heads)
    (loss + sum(output.auxiliary.values())).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_the_prediction_is_the_mean_of_the_refined_heads():
    model, image = small(), torch.randn(2, 2, 29, 35)
    output = model.outputs(image)
    assert len(output.heads) == 8 and all(weight == 1 for _, weight in output.heads)
    heads = [head for head, _ in output.heads]
    assert all(head.shape == (2, 3, 29, 35) for head in heads)
    torch.testing.assert_close(output.logits, sum(heads[4:]) / 4)
    torch.testing.assert_close(model(image), output.logits, rtol=1e-4, atol=1e-5)
    assert all(not torch.allclose(heads[0], other) for other in heads[1:])


def test_in_volumes_the_heads_before_attention_stay_coarse():
    output = small(3).outputs(torch.randn(1, 2, 15, 21, 9))
    grids = [head.shape[2:] for head, _ in output.heads]
    assert grids == [(8, 11, 5)] * 4 + [(15, 21, 9)] * 4
    refined = [head for head, _ in output.heads[4:]]
    torch.testing.assert_close(output.logits, sum(refined) / 4)


def test_auxiliary_losses_are_the_published_sums():
    model, image = small(), torch.randn(2, 2, 32, 40)
    _, steps = model._attend(image)
    given = model.outputs(image).auxiliary
    guidance = reconstruction = 0.0
    for level in range(4):
        one, two = (step.bottleneck.chunk(4)[level] for step in steps)
        guidance += (one - two).square().mean()
        for step in steps:
            pair = step.entered.chunk(4)[level], step.left.chunk(4)[level]
            reconstruction += (pair[0] - pair[1]).square().mean()
    torch.testing.assert_close(given["guidance"], 0.25 * guidance)
    torch.testing.assert_close(given["reconstruction"], 0.1 * reconstruction)
    assert semantic_losses([steps[0], steps[0]])["guidance"] == 0


@pytest.mark.parametrize(
    "silence",
    [
        lambda m: m.steps[0].position[0][1].position.gamma,
        lambda m: m.steps[0].channel[1][1].attention.gamma,
        lambda m: m.steps[1].position[2][1].position.gamma,
        lambda m: m.steps[1].channel[3][1].attention.gamma,
        lambda m: m.steps[0].semantic.decoder[-1].weight,
        lambda m: m.steps[1].semantic.decoder[-1].weight,
        lambda m: m.fuse[-1][1].weight,
    ],
)
def test_every_mechanism_changes_the_output(silence):
    model, image = small().eval(), torch.randn(1, 2, 32, 40)
    before = model(image)
    silence(model).data.zero_()
    assert (model(image) - before).abs().max() > 1e-5


def test_samples_do_not_see_each_other():
    model = small().eval()
    image = torch.randn(3, 2, 29, 35)
    torch.testing.assert_close(model(image[1:2]), model(image)[1:2], rtol=1e-4, atol=1e-4)


def test_the_semantic_module_narrows_to_a_quarter_and_back():
    bottleneck, out = SemanticModule(3, 4, 8)(torch.randn(1, 4, 8, 8, 12))
    assert bottleneck.shape == (1, 16, 2, 2, 3)
    assert out.shape == (1, 4, 8, 8, 12)


def test_sizes_follow_patch_and_dimensions():
    arguments = {"channels": 1, "classes": 2}
    large = MSGuidedNet(spatial_dims=2, patch_size=(256, 256), backbone_width=4, **arguments)
    assert large.backbone.stride == 4
    assert large.fuse[0][0].out_channels == 64
    volume = MSGuidedNet(spatial_dims=3, patch_size=(40, 56, 40), **arguments)
    assert volume.backbone.stride == 2
    assert volume.fuse[0][0].out_channels == 16
    inner = [m.steps[0].semantic.encoder[0].out_channels for m in (large, volume)]
    assert inner == [256, 32]


def test_other_mechanisms_take_the_place_of_the_scores():
    image = torch.randn(1, 2, 32, 40)
    out = small(attention="linear").eval()(image)
    assert out.isfinite().all()
    assert not torch.allclose(out, small().eval()(image))


def test_contradictions_are_refused():
    with pytest.raises(UsageError, match="resnext101 is 2-D"):
        small(3, backbone="resnext101")
    with pytest.raises(UsageError, match="weights are for backbone=resnext101"):
        small(weights="net.safetensors")
