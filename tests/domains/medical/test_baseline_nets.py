"""MONAI's networks behind the contract of the domain's models."""

import importlib

import pytest
import torch

from domains.medical.models.parts.padding import pad_to
from shared_runtime.errors import UsageError

NETS = {
    "UNet": ("unet", {}),
    "DynUNet": ("dyn_unet", {"width": 4}),
    "AttentionUnet": ("attention_unet", {"widths": (4, 8, 16)}),
    "SegResNet": ("segresnet", {}),
    "SwinUNETR": ("swin_unetr", {"depths": (1, 1, 1, 1)}),
}


def build(name, spatial_dims, **options):
    if name == "SwinUNETR":
        pytest.importorskip("einops", reason="MONAI's SwinUNETR needs einops")
    module, sizes = NETS[name]
    torch.manual_seed(0)
    patch = (16, 16, 24) if spatial_dims == 3 else (32, 40)
    cls = getattr(importlib.import_module(f"domains.medical.models.{module}"), name)
    arguments = {"channels": 2, "classes": 3, "patch_size": patch, **sizes, **options}
    return cls(spatial_dims=spatial_dims, **arguments)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", NETS)
def test_any_grid_gets_logits_and_every_parameter_a_gradient(name, spatial_dims):
    model = build(name, spatial_dims)
    image = torch.randn(2, 2, *(13, 21, 17)[:spatial_dims])
    logits = model(image)
    assert logits.shape == (2, 3, *image.shape[2:])
    logits.square().mean().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == [n for n in idle if n.startswith("heads.")]
    model.eval()
    torch.testing.assert_close(model(image[:1]), model(image)[:1], rtol=1e-4, atol=1e-4)
    assert model(torch.randn(1, 2, *(3,) * spatial_dims)).shape[2:] == (3,) * spatial_dims


@pytest.mark.parametrize("name", ["UNet", "DynUNet"])
def test_nets_export_with_a_free_batch(name):
    model, image = build(name, 2).eval(), torch.randn(2, 2, 13, 21)
    free = {"image": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (), {"image": image}, dynamic_shapes=free)
    one = image[:1]
    torch.testing.assert_close(program.module()(image=one), model(one), rtol=1e-4, atol=1e-4)


def test_the_default_unet_has_the_parameters_that_the_domain_states():
    from domains.medical.models.unet import UNet

    model = UNet(channels=1, classes=3, spatial_dims=3, patch_size=(40, 56, 40))
    assert 1.1e6 < sum(p.numel() for p in model.parameters()) < 1.3e6


def test_heads_of_dynunet_come_from_the_levels_that_make_its_prediction():
    model = build("DynUNet", 3, patch_size=(32, 32, 48))
    image = torch.randn(2, 2, 30, 32, 46)
    output = model.outputs(image)
    torch.testing.assert_close(output.logits, model(image))
    assert [weight for _, weight in output.heads] == [0.5, 0.25]
    shapes = [tuple(head.shape) for head, _ in output.heads]
    assert shapes == [(2, 3, 15, 16, 23), (2, 3, 8, 8, 12)]
    terms = [output.logits, *(head for head, _ in output.heads)]
    sum(term.square().mean() for term in terms).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_swin_unetr_says_what_it_needs(monkeypatch):
    from domains.medical.models.swin_unetr import SwinUNETR

    monkeypatch.setitem(__import__("sys").modules, "einops", None)
    with pytest.raises(UsageError, match="einops is needed"):
        SwinUNETR(channels=1, classes=2, spatial_dims=3, patch_size=(32, 32, 32))


def test_padding_is_at_the_end_and_is_cut_again():
    image = torch.randn(2, 3, 5, 8)
    padded, crop = pad_to(image, (4, 8))
    assert padded.shape == (2, 3, 8, 8)
    assert torch.equal(crop(padded), image)
    assert padded[:, :, 5:].abs().max() == 0
    same, crop = pad_to(image[:, :, :4], 4)
    assert same.shape == (2, 3, 4, 8) and torch.equal(crop(same), image[:, :, :4])
    assert pad_to(image, 8, two=True)[0].shape == (2, 3, 8, 16)
    assert pad_to(image, 4, two=True)[0].shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="zip"):
        pad_to(image, (4, 4, 4))
