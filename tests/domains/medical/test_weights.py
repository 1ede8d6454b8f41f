"""Weights files and backbones."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from domains.medical.models.parts.backbones import ResidualBackbone
from domains.medical.models.parts.weights import load_weights
from shared_runtime.errors import DataError


def net(width=3):
    return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 1))


@pytest.mark.parametrize("form", ["safetensors", "plain", "nested", "parallel"])
def test_every_form_of_file_fills_the_module(tmp_path, form):
    source, target = net(), net()
    state = source.state_dict()
    path = tmp_path / ("net.safetensors" if form == "safetensors" else "net.pt")
    if form == "safetensors":
        save_file(state, path)
    elif form == "parallel":
        torch.save({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form == "nested" else state, path)
    fit = load_weights(target, path)
    assert len(fit.loaded) == 4 and not fit.missing and not fit.unused
    x = torch.randn(5, 2)
    assert torch.equal(target(x), source(x))


def test_what_does_not_fit_is_named_and_left_alone(tmp_path, caplog):
    target, wide = net(3), net(4)
    kept = {k: v.clone() for k, v in target.state_dict().items()}
    state = {**wide.state_dict(), "extra": torch.zeros(1)}
    del state["0.bias"]
    torch.save(state, tmp_path / "net.pt")
    with caplog.at_level("WARNING", logger="heed.medical.weights"):
        fit = load_weights(target, tmp_path / "net.pt")
    assert fit.loaded == ("1.bias",)
    assert fit.reshaped == ("0.weight", "1.weight")
    assert fit.unused == ("extra",)
    assert set(fit.missing) == {"0.weight", "0.bias", "1.weight"}
    assert "1 of 4 tensors loaded" in caplog.text and "extra" in caplog.text
    assert torch.equal(target.state_dict()["0.weight"], kept["0.weight"])
    assert torch.equal(target.state_dict()["1.bias"], wide.state_dict()["1.bias"])


class Payload:
    """Would run code when unpickled."""

    def __reduce__(self):
        return (eval, ("1 + 1",))


def test_unreadable_files_are_one_clear_line(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "short.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Payload()))
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pt")
    for name, message in {
        "text.pt": "cannot be read as weights",
        "short.safetensors": "cannot be read as weights|holds no tensors",
        "empty.pt": "cannot be read as weights",
        "code.pt": "cannot be read as weights",
        "tensor.pt": "holds no tensors by name",
        "other.pt": "no tensor fits Sequential",
        "absent.pt": "no such weights file",
        ".": "no such weights file",
    }.items():
        with pytest.raises(DataError, match=message) as caught:
            load_weights(net(), tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_levels_of_the_small_backbone_halve_the_grid(stride):
    backbone = ResidualBackbone(3, 2, width=4, stride=stride)
    maps = backbone(torch.randn(1, 2, 32, 24, 32))
    assert [x.shape[1] for x in maps] == [4, 8, 16, 32]
    assert [x.shape[2] for x in maps] == [32 // stride // 2**i for i in range(4)]


def test_resnext_reads_a_weights_file_and_averages_colours(tmp_path, monkeypatch):
    import torchvision

    from domains.medical.models.parts.backbones import ResNeXtBackbone

    def tiny(weights=None):
        return torchvision.models.resnet._resnet(
            torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], None, False
        )

    monkeypatch.setattr("torchvision.models.resnext101_32x8d", tiny)
    source = tiny().eval()
    torch.save(source.state_dict(), tmp_path / "net.pt")
    grey = ResNeXtBackbone(1, str(tmp_path / "net.pt")).eval()
    x = torch.randn(1, 1, 64, 64)
    expected = source.maxpool(source.relu(source.bn1(source.conv1(x.expand(-1, 3, -1, -1)))))
    torch.testing.assert_close(grey.stem(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(grey.levels[3][0].conv1.weight, source.layer4[0].conv1.weight)
    colour = ResNeXtBackbone(3, str(tmp_path / "net.pt")).eval()
    x = torch.randn(1, 3, 64, 64)
    maps = colour(x)
    torch.testing.assert_close(
        maps[0], source.layer1(source.maxpool(source.relu(source.bn1(source.conv1(x)))))
    )
    assert [m.shape[1] for m in maps] == list(ResNeXtBackbone.widths)
