"""MEFN: what each part changes, and what it does when one modality is spoilt."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from domains.medical.models.mefn import MEFN
from domains.medical.models.parts.evidence import combine, conflict, vacuity
from domains.medical.models.parts.spoiling import spoil as spoilt
from shared_attention.errors import UnsupportedError


def build(**options) -> MEFN:
    torch.manual_seed(0)
    sizes = {"channels": 2, "classes": 3, "spatial_dims": 2, "patch_size": (16, 16), "width": 4}
    return MEFN(**{**sizes, "stages": 2, "spoilt": 0.0, **options})


def scans(count: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Regions that both modalities show, each in its own way."""
    generator = torch.Generator().manual_seed(seed)
    field = torch.randn(count, 1, 4, 4, generator=generator)
    label = (functional.interpolate(field, (size, size), mode="bilinear")[:, 0] > 0).long()
    noise = torch.randn(count, 2, size, size, generator=generator)
    return torch.stack([2.0 * label, 1.0 - 2.0 * label], 1) + 0.4 * noise, label


def spoil(image: torch.Tensor, modality: int, which: torch.Tensor, seed: int) -> torch.Tensor:
    """Replace one modality of some samples by noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = 1.1 * torch.randn(image[:, 0].shape, generator=generator)
    image = image.clone()
    image[which, modality] = noise[which]
    return image


@pytest.mark.parametrize("grid", [(16, 16), (19, 13), (5, 30)])
def test_any_grid_is_segmented(grid):
    model = build().eval()
    image = torch.randn(2, 2, *grid)
    assert model(image).shape == (2, 3, *grid)
    uncertainty = model.uncertainty(image)
    assert uncertainty.shape == (2, 1, *grid)
    assert ((uncertainty > 0) & (uncertainty <= 1)).all()


def test_volumes_too():
    model = build(spatial_dims=3, patch_size=(16, 16, 8)).eval()
    assert model(torch.randn(1, 2, 11, 16, 7)).shape == (1, 3, 11, 16, 7)


def test_the_prediction_is_the_combined_opinion():
    model = build().eval()
    image = torch.randn(2, 2, 16, 16)
    output = model.outputs(image)
    torch.testing.assert_close(output.fused, combine(*output.evidence))
    mean = (output.fused + 1) / (output.fused + 1).sum(1, keepdim=True)
    torch.testing.assert_close(model(image).softmax(1), mean)
    torch.testing.assert_close(model.uncertainty(image), vacuity(output.fused))


def test_every_parameter_learns():
    model = build().train()
    image, label = torch.randn(2, 2, 16, 16), torch.randint(3, (2, 16, 16))
    terms = model.loss_terms(model.outputs(image), label)
    sum(terms.values()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@pytest.mark.parametrize(
    "part", ["translators.0.decoder", "translators.1.guide", "mutual", "exchanges"]
)
def test_every_part_changes_the_output(part):
    model = build().eval()
    image = torch.randn(1, 2, 16, 16)
    before = model(image)
    with torch.no_grad():
        for parameter in model.get_submodule(part).parameters():
            parameter.add_(torch.randn_like(parameter))
    assert (model(image) - before).abs().max() > 1e-4


@pytest.mark.parametrize(("part", "width"), [("mutual", 16), ("exchanges.0", 8)])
def test_an_uncertain_modality_is_not_read_by_the_other(part, width):
    part = build().get_submodule(part)
    one, other, another = torch.randn(3, 1, width, 4, 4).unbind(0)
    with torch.no_grad():
        part.evidence[1].weight.zero_()
        part.evidence[1].bias.fill_(-1e4)
        (calibrated, _), evidence = part(one, other)
        (again, _), _ = part(one, another)
        torch.testing.assert_close(vacuity(evidence[1]), torch.ones(1, 1, 4, 4))
        torch.testing.assert_close(calibrated, one)
        torch.testing.assert_close(again, one)
        part.evidence[1].bias.fill_(10)
        (calibrated, _), _ = part(one, other)
    assert (calibrated - one).abs().max() > 1e-3


def test_samples_do_not_depend_on_their_neighbours():
    model = build().eval()
    image = torch.randn(3, 2, 16, 16)
    torch.testing.assert_close(model(image)[1:2], model(image[1:2]), atol=1e-5, rtol=1e-5)


def test_misleading_evidence_gains_weight_by_steps_that_a_checkpoint_keeps():
    image, label = torch.randn(1, 2, 16, 16), torch.randint(3, (1, 16, 16))

    def step(model: MEFN) -> float:
        output = model.outputs(image)
        return model.loss_terms(output, label)["misleading"].item()

    model = build(annealing_steps=4).train()
    values = [step(model) for _ in range(6)]
    assert values == pytest.approx([values[3] * share for share in (0.25, 0.5, 0.75, 1, 1, 1)])
    half = build(annealing_steps=4).train()
    _ = [step(half) for _ in range(2)]
    resumed = build(annealing_steps=4).train()
    resumed.load_state_dict(half.state_dict())
    assert step(resumed) == pytest.approx(values[2])
    assert step(resumed.eval()) == pytest.approx(values[3])
    assert resumed.steps.item() == 3


def test_the_perceptual_loss_looks_where_the_fused_opinion_is_vacuous():
    model = build(perceptual=1.0).eval()
    label = torch.zeros(1, 16, 16, dtype=torch.int64)
    output = model.outputs(torch.randn(1, 2, 16, 16))
    fused = torch.zeros_like(output.fused)
    fused[:, 1, :, 8:] = 1e6

    def perceptual(evidence: torch.Tensor) -> float:
        given = {**output.__dict__, "fused": evidence}
        return model.loss_terms(type(output)(**given), label)["perceptual"].item()

    vacuous = perceptual(torch.zeros_like(fused))
    assert perceptual(fused) == pytest.approx(vacuous, rel=1e-3)


def test_maps_are_those_of_the_opinions():
    model = build().eval()
    image = torch.randn(2, 2, 16, 16)
    logits, maps = model.with_maps(image)
    output = model.outputs(image)
    assert maps.shape == (2, len(model.map_names), 16, 16)
    torch.testing.assert_close(logits, model(image))
    torch.testing.assert_close(maps[:, :1], model.uncertainty(image))
    torch.testing.assert_close(maps[:, 1:3], model.modality_uncertainty(image))
    torch.testing.assert_close(maps[:, 3:], conflict(*output.evidence))


def test_spoiling_touches_one_modality_of_its_share_and_says_which():
    torch.manual_seed(0)
    image = torch.randn(400, 2, 6, 5)
    found, kept = spoilt(image, 0.3)
    assert 0.2 < 1 - kept.all(1).float().mean() < 0.4
    assert kept.any(1).all()
    assert (kept[:, 0] != kept[:, 1]).any() and (~kept).any(0).all()
    same = (found == image).flatten(2).all(2)
    assert torch.equal(same, kept)
    constant = found.flatten(2).var(2) < 1e-8
    ordered = (found.flatten(2).sort(2).values == image.flatten(2).sort(2).values).all(2)
    assert 20 < (constant & ~kept).sum() < 60, "a third of them are constants"
    assert 20 < (ordered & ~kept).sum() < 60, "another third are shuffled"
    assert torch.equal(spoilt(image, 0.0)[0], image)


def test_a_spoilt_modality_learns_to_be_vacuous_and_is_judged_for_nothing_else():
    model = build().train()
    image, label = torch.randn(2, 2, 16, 16), torch.randint(3, (2, 16, 16))
    output = model.outputs(image)
    kept = torch.tensor([[True, False], [True, False]])
    given = {**output.__dict__, "kept": kept}
    terms = model.loss_terms(type(output)(**given), label)
    assert terms["ignorance"] > 0
    assert terms["translation"] == 0 and terms["adversarial"] == 0
    (gradient,) = torch.autograd.grad(terms["ignorance"], output.evidence[1], retain_graph=True)
    scaled = (gradient * output.evidence[1]).sum(1)
    assert (scaled > 0).all(), "less of all its evidence costs less"
    one, other = torch.autograd.grad(
        terms["misleading"], output.evidence, retain_graph=True, allow_unused=True
    )
    whole = model.loss_terms(output, label)
    assert whole["ignorance"] == 0 and whole["translation"] > 0
    assert one.any()
    _, judged = torch.autograd.grad(whole["misleading"], output.evidence)
    assert not torch.allclose(judged, other)


def test_nothing_is_spoilt_in_evaluation():
    model = build(spoilt=1.0).eval()
    image = torch.randn(2, 2, 16, 16)
    torch.testing.assert_close(model(image), model(image))
    assert model.outputs(image).kept.all()
    assert (~model.train().outputs(image).kept).sum() == 2


def test_other_mechanisms_and_their_refusals():
    image = torch.randn(1, 2, 16, 16)
    assert not torch.allclose(build(attention="linear")(image), build()(image))
    with pytest.raises(UnsupportedError, match="MEFN cannot use attention"):
        build(attention="swin_window")
    with pytest.raises(UnsupportedError, match="MEFN cannot use attention"):
        build(attention="scan")


@pytest.mark.parametrize("channels", [1, 3])
def test_other_numbers_of_modalities_are_refused(channels):
    with pytest.raises(ValueError, match=f"two modalities.* got {channels} channel"):
        build(channels=channels)
    with pytest.raises(ValueError, match=r"expected \[batch, 2 channels, 2 grid"):
        build()(torch.randn(1, channels, 16, 16))


def test_it_exports_with_a_free_batch():
    model = build().eval()
    image = torch.randn(2, 2, 18, 16)
    batch = {"image": {0: torch.export.Dim.DYNAMIC}}
    program = torch.export.export(model, (), {"image": image}, dynamic_shapes=batch)
    more = torch.randn(3, 2, 18, 16)
    torch.testing.assert_close(program.module()(image=more), model(more), atol=1e-5, rtol=1e-4)


def test_a_spoilt_modality_is_uncertain_and_the_other_is_relied_on():
    """Trained on good scans only, of which the model itself spoils some."""
    model = build(classes=2, annealing_steps=40, spoilt=0.4, ignorance=1.0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(150):
        image, label = scans(8, 16, seed=step)
        optimizer.zero_grad()
        sum(model.loss_terms(model.outputs(image), label).values()).backward()
        optimizer.step()
    model.eval()
    image, label = scans(16, 16, seed=10_000)
    every = torch.ones(16, dtype=torch.bool)

    def right(image: torch.Tensor) -> float:
        return (model(image).argmax(1) == label).float().mean().item()

    with torch.no_grad():
        clean = model.modality_uncertainty(image).mean((0, 2, 3))
        fused = model.uncertainty(image).mean()
        assert right(image) > 0.95
        assert (fused < clean).all()
        for modality in range(2):
            bad = spoil(image, modality, every, seed=7)
            doubt = model.modality_uncertainty(bad).mean((0, 2, 3))
            assert doubt[modality] > 2 * clean[modality]
            assert doubt[1 - modality] < 2 * clean[1 - modality]
            assert model.uncertainty(bad).mean() > 1.5 * fused
            assert right(bad) > 0.9
