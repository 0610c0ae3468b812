"""What training minimises, by hand: cross-entropy, the GLCM loss beside it, attacked images."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segmenters import tissue, untrained
from test_training import fit, interrupt, same

from medrobust_utils.attacks import Layered, engine
from medrobust_utils.core.errors import ContractError, RunError
from medrobust_utils.data import split_by_group, to_float
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.views import binary
from medrobust_utils.models import AssimilatedModel, MedicalModel
from medrobust_utils.training import fit as training
from medrobust_utils.training import glcm, recipes
from medrobust_utils.training.adversarial import AdversarialTraining, LayeredTraining
from medrobust_utils.training.objectives import Assimilation, CrossEntropy

HOW = {"levels": 8, "softness": 1.0, "rows": "areas"}
FULL = torch.float32
ROWS = np.array([7, 2, 30, 11])  # neither sorted nor from 0: a wrong order shows
SETTINGS = {
    "epochs": 2,
    "batch": 16,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "warmup_epochs": 1.0,
    "clip": 0.0,
    "flips": "none",
    "optimiser": "adam",
}


@pytest.fixture(scope="module")
def scans():
    """48 gray phantoms of 2 x 2 areas, two classes."""
    data = phantom_set("ct", 48, size=40)
    return binary(data, data.classes[-1:], ("negative", "positive"))


@pytest.fixture
def batch(scans):
    images = to_float(scans.images[ROWS])
    return images, torch.from_numpy(scans.targets[ROWS]), ROWS


def network(modules=True):
    """A backbone of one layer, with batch norm; where modules are, the last of T is not zero."""
    torch.manual_seed(0)
    backbone = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, stride=2),
        torch.nn.BatchNorm2d(6),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(3),
        torch.nn.Flatten(),
        torch.nn.Linear(54, 2),
    )
    plain = MedicalModel(backbone, (0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    if not modules:
        return plain
    model = AssimilatedModel(plain, "conv")
    with torch.no_grad():
        for part in model.texture.parameters():
            part += 0.05 * torch.randn_like(part)
    return model


def gradients(loss, model):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_cross_entropy_is_the_mean_over_images_each_with_the_weight_of_its_class(batch):
    images, targets, _ = batch
    assert set(targets.tolist()) == {0, 1}
    model, weights = network(modules=False).eval(), torch.tensor([0.5, 3.0])
    losses = F.cross_entropy(model(images), targets, reduction="none")
    plain = CrossEntropy()(model, *batch, FULL)
    assert plain.item() == pytest.approx(losses.mean().item(), rel=1e-6)
    weighted = CrossEntropy(weights)(model, *batch, FULL)
    # weights are one on average over the images, so their sum is no divisor
    assert weighted.item() == pytest.approx((losses * weights[targets]).mean().item(), rel=1e-6)


def test_alpha_one_is_cross_entropy_and_measures_no_texture(scans, batch, monkeypatch):
    for name in ("texture", "texture_of_set", "texture_distance", "grayscale"):
        monkeypatch.setattr(glcm, name, None)
    objective, model = Assimilation.of(scans, 1.0, **HOW), network().eval()
    ours, theirs = (
        gradients(loss(model, *batch, FULL), model) for loss in (objective, CrossEntropy())
    )
    assert len(ours) == len(list(model.parameters()))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def by_hand(model, images, rows, **how):
    """Mean largest row sum of |difference| over eight orientations, in plain loops."""
    red, green, blue = model.adapt(images).unbind(1)
    gray = 0.299 * red + 0.587 * green + 0.114 * blue
    ours, theirs = glcm.texture(gray[:, None], **how), glcm.texture(images, **how)
    losses = []
    for apart in (ours - theirs).abs():  # (areas, orientations, features)
        sums = [area.sum() * 2 for area in apart]  # four orientations stand for eight
        if rows == "orientations":
            sums = [apart[:, k].sum() for k in range(4)]
        losses.append(max(sums))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(
    "change", [{}, {"rows": "orientations"}, {"levels": 5}, {"softness": 0.3}], ids=str
)
def test_the_loss_is_the_weighted_sum_of_both_terms(scans, batch, alpha, change):
    images, targets, _ = batch
    model, how = network().eval(), HOW | change
    objective = Assimilation.of(scans, alpha, **how)
    entropy = F.cross_entropy(model(images), targets)
    distance = by_hand(model, images, **how)
    assert distance > 1 and abs(entropy - distance) > 0.1
    expected = alpha * entropy + (1 - alpha) * distance
    assert objective(model, *batch, FULL).item() == pytest.approx(expected.item(), rel=1e-5)
    terms = [term.item() for term in objective.terms(model, *batch, FULL)]
    assert terms == pytest.approx([entropy.item(), distance.item()], rel=1e-5)


def test_alpha_zero_trains_texture_only(scans, batch):
    model, objective = network().train(), Assimilation.of(scans, 0.0, **HOW)
    first = gradients(objective(model, *batch, FULL), model)
    for name, gradient in first.items():
        assert bool(gradient.any()) is name.startswith(("texture", "colour")), name
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(12):
        loss = objective(model, *batch, FULL)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_alpha_is_a_share(alpha):
    with pytest.raises(ContractError, match="choose a share from 0 to 1"):
        Assimilation(alpha, None)


def test_adversarial_training_learns_from_images_moved_within_the_ball(batch):
    images, targets, _ = batch
    model, eps, step = network(modules=False).train(), 8 / 255, 2 / 255
    fresh, seen, normed = copy.deepcopy(model), [], []
    model.register_forward_hook(lambda m, x, _: seen.append((m.training, x[0].detach())))
    model.backbone[1].register_forward_hook(lambda m, x, _: normed.append(x[0].detach()))
    torch.manual_seed(2)
    loss = AdversarialTraining(eps, 3, step)(model, *batch, FULL)
    # whether answers are steady is asked first; then three steps, and the one that trains
    assert [training for training, _ in seen][-4:] == [False] * 3 + [True]
    assert all(part.training for part in model.modules())
    moved = seen[-1][1]
    size = (moved - images).abs()
    assert size.max() <= eps and size.mean() > eps / 2 and moved.min() >= 0 and moved.max() <= 1
    torch.manual_seed(2)
    start = engine.uniform_start(images, eps, None)
    fresh.eval()
    wanted = engine.ascend(fresh, images, targets, eps, start=start, lengths=[step] * 3)
    assert torch.equal(moved, wanted)
    clean, attacked = (F.cross_entropy(fresh.train()(x), targets).item() for x in (images, moved))
    assert loss.item() == pytest.approx(attacked, rel=1e-6) and attacked > clean
    norm = model.backbone[1]  # has seen the moved images alone
    assert norm.num_batches_tracked == 1
    assert torch.allclose(norm.running_mean, 0.1 * normed[-1].mean((0, 2, 3)), atol=1e-6)
    assert all(p.grad is None for p in model.parameters())  # the attack leaves none behind
    slopes = gradients(loss, model)
    assert len(slopes) == len(list(model.parameters()))
    assert slopes["backbone.0.weight"].abs().max() > 0


def test_method_one_on_the_fly_learns_from_layers_against_the_model_as_it_is():
    model, (images, labels) = untrained(3).train(), tissue(3)
    images, labels = images[:4], labels[:4]
    objective = LayeredTraining(0.02, 2)
    expected = Layered(0.02, 2)(model.eval(), images, labels, torch.float32)["images"]
    seen = []
    model.register_forward_pre_hook(lambda module, x: seen.append((module.training, x[0])))
    loss = objective(model.train(), images, labels, np.arange(4), torch.float32)
    assert [mode for mode, _ in seen].count(True) == 1, "one step in training mode"
    assert torch.equal(seen[-1][1], expected) and seen[-1][0] and model.training
    assert 0.02 < (expected - images).abs().max() <= 3 * 0.02 + 1e-6
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert objective.identity != LayeredTraining(0.02, 3).identity


def objectives(data):
    return {
        "none": None,
        "glcm": Assimilation.of(data, 0.5, **HOW),
        "adversarial": AdversarialTraining(4 / 255, 2, 3 / 255),
    }


@pytest.fixture(scope="module")
def whole(scans, tmp_path_factory):
    """Uninterrupted runs by objective."""
    return {
        name: fit(scans, tmp_path_factory.mktemp(name), SETTINGS, network(), objective=objective)
        for name, objective in objectives(scans).items()
    }


def test_objectives_train_differently(whole):
    for one, other in (("glcm", "none"), ("adversarial", "none"), ("glcm", "adversarial")):
        assert not same(whole[one], whole[other])
    assert whole["glcm"][0][0]["train_loss"] > whole["none"][0][0]["train_loss"]


@pytest.mark.parametrize("name", ["glcm", "adversarial"])
def test_an_interruption_changes_nothing(scans, whole, tmp_path, monkeypatch, name):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    mend = interrupt(monkeypatch, "_step", 4)  # three steps an epoch
    with pytest.raises(KeyboardInterrupt):
        fit(scans, tmp_path, SETTINGS, network(), objective=objectives(scans)[name])
    mend()
    torch.rand(17)  # the process that resumes has another random state
    again = fit(scans, tmp_path, SETTINGS, network(), objective=objectives(scans)[name])
    assert same(whole[name], again)


def test_training_hands_over_the_numbers_of_the_images(scans, tmp_path):
    seen = []

    class Spy(CrossEntropy):
        def __call__(self, model, images, targets, rows, dtype):
            assert model.training and len(rows) == len(images)
            assert torch.equal(images, to_float(scans.images[rows]))
            assert np.array_equal(targets.numpy(), scans.targets[rows])
            seen.append(rows)
            return super().__call__(model, images, targets, rows, dtype)

    fit(scans, tmp_path, SETTINGS, network(), objective=Spy())
    train = split_by_group(scans, seed=0).train
    assert sorted(np.concatenate(seen).tolist()) == sorted([*train, *train])
    assert not np.array_equal(seen[0], np.sort(seen[0]))


def test_a_checkpoint_of_another_objective_is_refused(scans, tmp_path):
    known = objectives(scans) | {
        "other alpha": Assimilation.of(scans, 0.6, **HOW),
        "other rows": Assimilation.of(scans, 0.5, **(HOW | {"rows": "orientations"})),
        "other levels": Assimilation.of(scans, 0.5, **(HOW | {"levels": 5})),
        "other steps": AdversarialTraining(4 / 255, 3, 3 / 255),
    }
    once = SETTINGS | {"epochs": 1}
    for name in ("none", "glcm", "adversarial"):
        fit(scans, tmp_path / name, once, network(), objective=known[name])
        for other in known.keys() - {name}:
            with pytest.raises(RunError, match="belongs to other settings"):
                fit(scans, tmp_path / name, once, network(), objective=known[other])


def watch(monkeypatch):
    """The learning rates of every step, as they come."""
    seen, real = [], training._Job._step

    def watched(job, *args):
        seen.append([group["lr"] for group in job.optimiser.param_groups])
        return real(job, *args)

    monkeypatch.setattr(training._Job, "_step", watched)
    return seen


FASTER = SETTINGS | {"new_lr_factor": 10.0, "lr": 0.01, "epochs": 3}


def test_new_modules_learn_faster_before_and_after_a_resume(scans, tmp_path, monkeypatch):
    whole = watch(monkeypatch)
    expected = fit(scans, tmp_path / "whole", FASTER, network())
    assert len(whole) == 9 and max(whole)[0] == pytest.approx(0.01)
    for step, (known, new) in enumerate(whole):
        assert known == pytest.approx(0.01 * recipes.rate(FASTER | {"schedule": "cosine"}, step, 3))
        assert new == pytest.approx(10 * known)
    monkeypatch.undo()
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    interrupt(monkeypatch, "_step", 5)
    with pytest.raises(KeyboardInterrupt):
        fit(scans, tmp_path / "killed", FASTER, network())
    monkeypatch.undo()
    resumed = watch(monkeypatch)
    assert same(expected, fit(scans, tmp_path / "killed", FASTER, network()))
    assert resumed == whole[5:]


def test_new_modules_are_those_before_the_backbone():
    settings, model, plain = recipes.complete(FASTER), network(), network(modules=False)
    known, new = recipes.optimiser(model, settings).param_groups
    before = [*model.texture.parameters(), *model.colour.parameters()]
    assert {*map(id, new["params"])} == {*map(id, before)} and new["lr"] == pytest.approx(0.1)
    assert {*map(id, known["params"])} == {*map(id, model.backbone.parameters())}
    (group,) = recipes.optimiser(plain, settings).param_groups
    assert [*map(id, group["params"])] == [*map(id, plain.parameters())]
    assert known["lr"] == group["lr"] == 0.01
