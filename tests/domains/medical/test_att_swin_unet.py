"""Att-SwinU-Net: what crosses the skips, any grid, any mechanism, torchvision's weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from domains.medical.models.att_swin_unet import AttSwinUNet
from shared_attention.errors import UnsupportedError
from shared_runtime.errors import DataError

SMALL = {"embed_dim": 12, "depths": (2, 2, 2), "num_heads": (3, 3, 6), "window": 3}


def build(spatial_dims: int = 2, **options) -> AttSwinUNet:
    torch.manual_seed(0)
    sizes = {"channels": 1, "classes": 2, "token_size": 2, "patch_size": (24,) * spatial_dims}
    model = AttSwinUNet(spatial_dims=spatial_dims, **{**sizes, **SMALL, **options})
    for name, parameter in model.named_parameters():
        if name.endswith("table"):
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("grid", [(24, 24), (17, 30), (3, 41), (9, 14, 11), (2, 3, 30)])
def test_any_grid_is_segmented(grid):
    model = build(len(grid)).eval()
    assert model(torch.randn(2, 1, *grid)).shape == (2, 2, *grid)


@pytest.mark.parametrize("options", [{}, {"transfer": "multiply"}, {"attention": "linear"}])
def test_every_parameter_learns(options):
    model = build(drop_path=0.0, **options).train()
    model(torch.randn(2, 1, 22, 24)).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize("attention", [None, "linear"])
def test_the_encoders_maps_reach_the_output_and_teach_the_encoder(attention):
    """All that the encoder's queries can change beyond its own output goes through the maps."""
    model = build(drop_path=0.0, attention=attention).eval()
    image = torch.randn(2, 1, 24, 24)
    plain = build(drop_path=0.0, attention=attention, transfer="none").eval()
    plain.load_state_dict(model.state_dict())
    assert (plain(image) - model(image)).abs().max() > 1e-4

    x = torch.randn(1, 12, 12, 12)
    features, maps = model._run(model.encoder[0], x, keep=True)
    decoded, _ = model._run(model.decoder[0], features.detach(), maps)
    decoded.square().sum().backward()
    first = model.encoder[0][0].attn
    weight = (first.qkv if attention is None else first.attention.project_in).weight
    queries, keys, _ = weight.grad.chunk(3)
    assert queries.abs().sum() > 0 and keys.abs().sum() > 0
    last = model.encoder[0][1].attn
    weight = (last.qkv if attention is None else last.attention.project_in).weight
    assert weight.grad.chunk(3)[2].abs().sum() == 0  # its values go to the features only


def test_adding_and_multiplying_differ():
    image = torch.randn(1, 1, 24, 24)
    added, multiplied = build().eval(), build(transfer="multiply").eval()
    assert (added(image) - multiplied(image)).abs().max() > 1e-4


def test_skips_exchange_context_between_distant_places():
    """A far corner of one map moves a token of the other; without the exchange it does not."""
    for exchanged in (True, False):
        model = build(cross_contextual=exchanged).eval()
        x, skip = torch.randn(2, 1, 12, 12, 12).unbind(0)
        changed = skip.clone()
        changed[:, -1, -1] += 5
        before, after = (model.exchange[0](x, s)[:, 0, 0, :12] for s in (skip, changed))
        assert ((after - before).abs().max() > 1e-6) == exchanged


def test_softmax_by_name_is_window_attention():
    """The path for any mechanism, with the same weights, equals the fast one."""
    model, other = build(drop_path=0.0).eval(), build(drop_path=0.0, attention="softmax").eval()
    names = {
        ".attn.attention.project_in.": ".attn.qkv.",
        ".attn.attention.project_out.": ".attn.proj.",
        ".attn.positions.table": ".attn.relative_position_bias_table",
    }
    state = model.state_dict()
    mapped = {}
    for name in other.state_dict():
        own = name
        for theirs, ours in names.items():
            own = own.replace(theirs, ours)
        mapped[name] = state[own]
    other.load_state_dict(mapped)
    image = torch.randn(2, 1, 21, 26)
    torch.testing.assert_close(other(image), model(image), atol=1e-5, rtol=1e-4)


def test_samples_do_not_depend_on_their_neighbours():
    model = build().eval()
    image = torch.randn(3, 1, 20, 24)
    torch.testing.assert_close(model(image)[1:2], model(image[1:2]), atol=1e-5, rtol=1e-4)


def test_training_mode_drops_branches_and_evaluation_does_not():
    model = build(drop_path=0.9)
    image = torch.randn(4, 1, 24, 24)
    assert not torch.allclose(model.train()(image), model(image))
    torch.testing.assert_close(model.eval()(image), model(image))


def test_the_encoder_is_torchvisions_with_its_weights(tmp_path):
    from torchvision.models.swin_transformer import SwinTransformer

    torch.manual_seed(1)
    theirs = SwinTransformer([4, 4], 24, [2, 2], [3, 6], [7, 7], stochastic_depth_prob=0.0).eval()
    for name, parameter in theirs.named_parameters():
        if "table" in name or "norm" in name:
            nn.init.normal_(parameter, mean=float("weight" in name), std=0.3)
    torch.save(theirs.state_dict(), tmp_path / "swin.pt")
    sizes = {"embed_dim": 24, "depths": (2, 2), "num_heads": (3, 6), "window": 7}
    model = build(channels=3, token_size=4, weights=str(tmp_path / "swin.pt"), **sizes).eval()
    model.encoder_as_torchvision().load_state_dict(
        {k: v for k, v in theirs.state_dict().items() if "index" not in k and "head" not in k}
    )
    image = torch.randn(1, 3, 56, 56)
    expected = theirs.norm(theirs.features(image))
    x = model.embed(image)
    for at in range(2):
        x, _ = model._run(model.encoder[at], x)
        x = model.norm(x) if at else model.merge[0](x)
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-4)


def test_a_file_with_weights_fills_the_encoder(tmp_path):
    from safetensors.torch import save_file

    donor = build(drop_path=0.0)
    nn.init.normal_(donor.embed.proj.weight)
    state = donor.encoder_as_torchvision().state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "swin.safetensors")
    model = build(classes=5, weights=str(tmp_path / "swin.safetensors"))
    assert torch.equal(model.embed.proj.weight, donor.embed.proj.weight)
    assert torch.equal(model.encoder[1][0].mlp[3].weight, donor.encoder[1][0].mlp[3].weight)
    with pytest.raises(DataError, match="no such weights file"):
        build(weights=str(tmp_path / "none.pt"))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="num_heads 5 does not divide the 12 channels of stage 1"):
        build(num_heads=(5, 3, 6))
    with pytest.raises(ValueError, match="one positive number for each of two or more stages"):
        build(depths=(2, 2))
    with pytest.raises(ValueError, match="transfer got 'copy'"):
        build(transfer="copy")
    with pytest.raises(ValueError, match="expected 2 or 3"):
        build(spatial_dims=1)
    with pytest.raises(ValueError, match=r"expected \[batch, 1 channels, 2 grid dimensions\]"):
        build()(torch.randn(1, 3, 24, 24))
    with pytest.raises(ValueError, match="attention_options got"):
        build(attention_options={"window": 4})
    with pytest.raises(UnsupportedError, match="cannot multiply attention maps of 'linear'"):
        build(attention="linear", transfer="multiply")
    with pytest.raises(UnsupportedError, match="always causal"):
        build(attention="scan")


@pytest.mark.parametrize("attention", [None, "linear"])
def test_it_exports_with_a_free_batch(attention):
    model = build(attention=attention, depths=(1, 1), num_heads=(3, 3)).eval()
    image = torch.randn(2, 1, 11, 12)
    batch = {"image": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (), {"image": image}, dynamic_shapes=batch)
    more = torch.randn(3, 1, 11, 12)
    torch.testing.assert_close(program.module()(image=more), model(more), atol=1e-5, rtol=1e-4)


def test_it_learns_a_lesion_from_few_images():
    model = build(drop_path=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    at = torch.arange(24.0)
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        centre = 6 + 12 * torch.rand(4, 2, generator=generator)
        away = (at[None, :, None] - centre[:, :1, None]) ** 2
        label = (away + (at[None, None] - centre[:, 1:, None]) ** 2 < 25).long()
        image = label[:, None] + 0.5 * torch.randn(4, 1, 24, 24, generator=generator)
        loss = nn.functional.cross_entropy(model(image), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model(image).argmax(1)
    assert 2 * (found * label).sum() / (found.sum() + label.sum()) > 0.85


@pytest.mark.parametrize("at_once", [1, 300, 10**6])
def test_a_network_by_rows_equals_its_layers_in_turn(monkeypatch, at_once):
    monkeypatch.setattr("domains.medical.models.parts.swin.WIDE_AT_ONCE", at_once)
    block = build().eval().encoder[0][1]
    nn.init.normal_(block.norm2.bias)
    x = torch.randn(2, 5, 7, 12)
    expected = block(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
        seen = []
        handle = block.mlp[0].register_forward_hook(lambda *_: seen.append(1))
        block(x)
    handle.remove()
    assert seen == [1]


def test_volumes_have_one_stage_less():
    sizes = {"channels": 1, "classes": 2, "embed_dim": 12}
    flat = AttSwinUNet(spatial_dims=2, patch_size=(64, 64), **sizes)
    volume = AttSwinUNet(spatial_dims=3, patch_size=(32, 48, 32), **sizes)
    assert (len(flat.encoder), len(volume.encoder)) == (4, 3)
    assert volume(torch.randn(1, 1, 6, 5, 7)).shape == (1, 2, 6, 5, 7)
