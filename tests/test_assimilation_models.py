"""Texture and colour modules before a backbone, and attacks that go through all of them."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from medrobust_utils import models
from medrobust_utils.attacks import engine
from medrobust_utils.core import env
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import per_image
from medrobust_utils.models import AssimilatedModel, MedicalModel, build_assimilated
from medrobust_utils.models.assimilation import COLOURS, ConvColour, DeconvColour, TextureModule

GRAY = torch.rand(3, 1, 32, 40, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1])


def build(colour="conv", seed=0):
    env.seed_everything(seed)
    return build_assimilated("resnet10t", 2, colour=colour, start="scratch").eval()


def trained_a_little(model):
    """T's last layer begins at zero, batch norms know no image: a network somewhere on its way."""
    torch.manual_seed(1)
    with torch.no_grad():
        for part in model.new_parameters():
            part += 0.1 * torch.randn_like(part)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 1.0
        model.train()(GRAY)
    return model.eval()


def tiny(colour="conv"):
    """Smooth between its ReLUs, small, float64."""
    torch.manual_seed(3)
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.Tanh(),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 2),
    )
    plain = MedicalModel(backbone, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    return trained_a_little(AssimilatedModel(plain, colour)).double()


def test_the_texture_module_begins_with_the_image_as_it_is_and_can_leave_it():
    torch.manual_seed(0)
    module = TextureModule()
    assert torch.equal(module(GRAY), GRAY)
    # stuck at zero it would be if the first layer began at zero as well
    module(GRAY).square().sum().backward()
    assert module.layers[2].weight.grad.abs().max() > 0
    with torch.no_grad():
        module.layers[2].weight += 0.1
    added = module.layers[2](module.layers[0](GRAY).relu())
    assert added.abs().mean() > 0.01
    assert torch.allclose(module(GRAY), GRAY + added, atol=1e-6)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("train", [True, False])
def test_colours_are_three_in_their_range_and_follow_the_image(colour, train):
    torch.manual_seed(0)
    module = COLOURS[colour]().train(train)
    with torch.no_grad():
        found = module(GRAY)
    assert found.shape == (3, 3, 32, 40)
    assert found.min() >= 0 and found.max() <= 1
    assert found.std((2, 3)).min() > 0.01  # a picture, not one colour
    assert (found[0] - found[1]).abs().mean() > 0.01


def test_colours_begin_with_the_contrast_that_he_initialisation_keeps():
    spreads = []
    for seed in range(5):
        torch.manual_seed(seed)
        module = ConvColour()
        ours = module(GRAY).std()
        for layer in module.layers:
            if isinstance(layer, torch.nn.Conv2d):
                layer.reset_parameters()
        spreads.append((ours / module(GRAY).std()).item())
    assert min(spreads) > 2  # torch's own leaves less than half


def test_parameters_are_those_counted_by_hand():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    texture = (9 * 16 + 16) + (9 * 16 + 1)
    conv = (9 * 16 + 16) + (9 * 16 * 16 + 16) + (9 * 16 * 3 + 3)
    assert (texture, conv) == (305, 2915)
    assert (count(TextureModule()), count(ConvColour())) == (texture, conv)
    model = build()
    assert count(model) == 3220 + count(model.backbone)
    stem = 49 * 64 + 2 * 64
    residual = 2 * (9 * 64 * 64 + 2 * 64)
    assert count(DeconvColour()) == stem + 8 * residual + (64 * 3 + 3) + (64 * 3 * 3 + 3)


def test_sides_are_multiples_of_four_for_the_deconvolution_only():
    for height, width in ((30, 32), (32, 30), (33, 33)):
        odd = torch.rand(1, 1, height, width)
        with pytest.raises(ContractError, match=f"multiples of 4, not {height} x {width}.*conv"):
            DeconvColour()(odd)
        assert ConvColour()(odd).shape == (1, 3, height, width)


@pytest.mark.parametrize("colour", COLOURS)
def test_logits_are_those_of_the_adapted_image(colour):
    model = trained_a_little(build(colour))
    with torch.no_grad():
        adapted = model.adapt(GRAY)
        logits = model(GRAY)
        assert torch.equal(adapted, model.colour(model.texture(GRAY)))
        assert not torch.allclose(adapted, model.colour(GRAY), atol=1e-3)
        assert torch.equal(logits, model.classify(adapted))
        by_hand = model.backbone((adapted - model.mean) / model.std)
        assert torch.allclose(logits, by_hand, atol=1e-6) and logits.shape == (3, 2)
        assert not torch.allclose(logits, model.backbone(adapted), atol=1e-4)


@pytest.mark.parametrize("start", ["scratch", "imagenet"])
def test_with_and_without_modules_a_seed_draws_the_same_head(start, tmp_path, monkeypatch):
    torch.manual_seed(9)
    state = timm.create_model("resnet10t").state_dict()
    save_file(state, tmp_path / "resnet10t.safetensors")
    monkeypatch.setenv("MEDROBUST_WEIGHTS", str(tmp_path))
    env.seed_everything(4)
    plain = models.build("resnet10t", 2, start=start)
    for colour in COLOURS:
        env.seed_everything(4)
        model = build_assimilated("resnet10t", 2, colour=colour, start=start)
        ours, theirs = model.backbone.state_dict(), plain.backbone.state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        assert (model.start, model.source) == (plain.start, plain.source)
        assert model.start == start and model.warnings == []
    body = torch.equal(plain.backbone.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert body is (start == "imagenet")


def test_a_warning_and_another_normalisation_come_along():
    plain = MedicalModel(torch.nn.Flatten(), (0.1, 0.2, 0.3), (0.5, 0.25, 1.0))
    plain.warnings.append("no weights")
    model = AssimilatedModel(plain, "conv")
    assert model.warnings == ["no weights"] and model.backbone is plain.backbone
    for name in ("mean", "std", "noise_unit"):
        assert torch.equal(getattr(model, name), getattr(plain, name))


def test_colour_images_and_unknown_names_are_refused():
    model = build()
    with pytest.raises(ContractError, match="3 channels.*Convert them to one channel"):
        model(GRAY.expand(-1, 3, -1, -1))
    for name, change, message in (
        ("resnet10t", {"colour": "pastel"}, "colour='pastel': choose one of conv, deconv"),
        ("resnet10t", {"start": "hub"}, "choose imagenet or scratch"),
        ("resnet999", {}, "no architecture 'resnet999'"),
    ):
        with pytest.raises(ContractError, match=message):
            build_assimilated(name, 2, **({"colour": "conv", "start": "scratch"} | change))


@pytest.mark.parametrize("colour", COLOURS)
def test_the_attackers_gradient_is_that_of_the_whole_network(colour):
    model, images = tiny(colour), GRAY[:2, :, :16, :16].double()
    labels = LABELS[:2]
    slopes, _ = engine.gradient(model, images, labels, (0.0, 1.0))
    assert slopes.shape == images.shape
    draw = torch.Generator().manual_seed(1)
    step = 1e-6
    for _ in range(6):
        way = torch.randn(images.shape, generator=draw, dtype=torch.float64)
        with torch.no_grad():
            ends = [per_image(model(images + s * way), labels).sum() for s in (step, -step)]
        numeric = ((ends[0] - ends[1]) / (2 * step)).item()
        assert (slopes * way).sum().item() == pytest.approx(numeric, rel=1e-4, abs=1e-7)
        assert abs(numeric) > 1e-5
