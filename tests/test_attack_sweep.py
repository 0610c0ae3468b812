"""Sweeps: the ways agree, fooled is fooled, a kill costs a part, memory costs a warning."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medrobust_utils import attacks, models
from medrobust_utils.attacks import radii, radius_sweep
from medrobust_utils.attacks.engine import ball
from medrobust_utils.core import env
from medrobust_utils.core.errors import ContractError, RunError
from medrobust_utils.core.losses import per_image
from medrobust_utils.data import to_float
from medrobust_utils.scoring import metrics

EPSILONS = np.array([0, 0.00125, 0.5, 1, 2, 4, 16]) / 255
INDEX = np.arange(30, 140)
MODES = ("bisection", "skip_fooled", "independent")
every_mode = pytest.mark.parametrize("mode", MODES)


def net(outputs, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 6 * 6, outputs))
    return models.MedicalModel(backbone, (0.5,) * 3, (0.25,) * 3).eval().to(env.pick_device())


@pytest.fixture(scope="module")
def trained(skin):
    """Learnt from 100 phantoms for a second; the other 40 are new to it."""
    model = net(7).train()
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    images, labels = to_float(skin.images[:100]), torch.from_numpy(skin.targets[:100])
    for _ in range(60):
        loss = per_image(model(images), labels).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def bisection(trained, skin):
    return attacks.attack_sweep(trained, skin, INDEX, EPSILONS, seed=3)


@pytest.fixture(scope="module")
def independent(trained, skin):
    return attacks.attack_sweep(trained, skin, INDEX, EPSILONS, seed=3, mode="independent")


def first(skin, count):
    return to_float(skin.images[:count]), torch.from_numpy(skin.targets[:count])


def same(a, b, atol=1e-4):
    """Equal outcomes, and logits equal up to float32 rounding."""
    return np.array_equal(a.min_adversarial_radius(), b.min_adversarial_radius()) and np.allclose(
        a.logits, b.logits, atol=atol
    )


def test_bisection_is_never_more_robust_than_independent(bisection, independent):
    # five images in a hundred leave room for luck; the net falls from 0.8 to 0 on the way
    assert independent.accuracy()[0] > 0.7 and independent.accuracy()[-1] == 0
    assert (independent.accuracy() > 0.1).sum() > 3
    assert (bisection.accuracy() <= independent.accuracy() + 0.01).all()
    small = EPSILONS < 1 / 255  # where steps do not matter
    assert np.abs(bisection.accuracy() - independent.accuracy())[small].max() < 0.02
    for result in (bisection, independent):  # an eps of zero is the clean result
        assert np.array_equal(result.logits[0], result.clean)
        assert result.accuracy()[0] == result.clean_right.mean()


@every_mode
def test_an_eps_of_one_leaves_nothing(mode, trained, skin):
    result = attacks.attack_sweep(trained, skin, INDEX[:20], [1.0], mode=mode)
    assert result.accuracy() == 0 and np.isfinite(result.logits).all()


def test_what_was_wrong_before_is_counted_apart():
    two = np.array([[[2, 0], [0, 1], [2, 0], [2, 0]], [[2, 0], [0, 1], [0, 3], [2, 0]]])
    logits = np.concatenate([two, [[[2, 0], [0, 1], [2, 0], [0, 9]]]]).astype(np.float32)
    labels = np.zeros(4, np.int64)
    epsilons = np.array([0.1, 0.2, 0.3])
    result = attacks.SweepResult(epsilons, logits, logits[0], labels, "independent")
    assert result.accuracy() == pytest.approx([0.75, 0.5, 0.5])
    assert result.min_adversarial_radius().tolist() == [np.inf, 0, 0.2, 0.3]


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_fooled_image_keeps_what_fooled_it(mode, trained, skin):
    images, labels = first(skin, 24)
    found = attacks.at_radii(trained, images, labels, EPSILONS, mode=mode, steps=5)
    assert [one.eps for one in found] == EPSILONS.tolist()
    assert torch.equal(found[0].images, images)
    for before, after in zip(found, found[1:], strict=False):
        lost = before.logits.argmax(1) != labels
        assert torch.equal(after.images[lost], before.images[lost])
        assert torch.equal(after.logits[lost], before.logits[lost])
        low, high = ball(images, after.eps)
        assert (after.images >= low).all() and (after.images <= high).all()
        with torch.no_grad():
            assert torch.allclose(trained(after.images), after.logits, atol=1e-5)


@every_mode
def test_neither_batch_nor_order_matters(mode, trained, skin):
    part, how = INDEX[40:65], dict(epsilons=EPSILONS[2:5], mode=mode, seed=1, steps=6)
    whole = attacks.attack_sweep(trained, skin, part, **how)
    assert same(whole, attacks.attack_sweep(trained, skin, part, batch=4, **how))
    order = np.random.default_rng(0).permutation(len(part))
    mixed = attacks.attack_sweep(trained, skin, part[order], **how)
    assert np.allclose(mixed.logits, whole.logits[:, order], atol=1e-4)
    other = attacks.attack_sweep(trained, skin, part, **how | dict(seed=2))
    assert not np.allclose(other.logits, whole.logits, atol=1e-4)


ALIKE = [
    ("fgsm", dict()),
    ("bim", dict()),
    ("mifgsm", dict()),
    ("mifgsm", dict(steps=4)),
    ("mifgsm", dict(steps=3, step_size=2 / 255)),
    ("pgd", dict()),
    ("pgd", dict(steps=3, step_size=2 / 255)),
]


@pytest.mark.parametrize(("attack", "how"), ALIKE)
@pytest.mark.parametrize("mode", MODES[1:])
def test_a_sweep_runs_the_attack_it_names(attack, how, mode, trained, skin):
    """With its defaults, and with torchattacks' step of 2/255, larger than the smallest ball."""
    images, labels = first(skin, 12)
    given = dict(attack=attack, mode=mode, **how)
    found = attacks.at_radii(trained, images, labels, [1 / 255, 4 / 255], **given)
    for one, before in zip(found, [trained(images), found[0].logits], strict=True):
        given = dict(how)
        if attack == "pgd":  # a step of 0 leaves PGD where it starts
            rest = dict(steps=1, rel_step=0.0, mode="independent")
            (begin,) = attacks.at_radii(trained, images, labels, [one.eps], **rest)
            given["start"] = begin.images
            assert not torch.equal(begin.images, images)
        expected = getattr(attacks, attack)(trained, images, labels, one.eps, **given)
        hit = (before.argmax(1) == labels) | (mode == "independent")
        apart = (one.images[hit] - expected[hit]).abs() > 1e-6
        assert apart.float().mean() < 1e-4  # a slope of nothing may round to either side


class Wave(nn.Module):
    """Its answer changes with the brightness of an image, back and forth."""

    def forward(self, images):
        wave = torch.cos(20 * (images.mean((1, 2, 3)) - 0.49))
        return torch.stack([wave, -wave], 1)


def test_a_larger_single_step_may_overshoot_and_skipping_forgets_no_success():
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    right = {}
    for mode in MODES[1:]:
        how = dict(attack="fgsm", mode=mode)
        found = attacks.at_radii(Wave().eval(), images, labels, [0.01, 0.1, 0.3], **how)
        right[mode] = [(one.logits.argmax(1) == labels).tolist() for one in found]
    # the second image is wrong before the attack: a step too far even corrects it
    assert right["independent"] == [[True, False], [False, True], [True, False]]
    assert right["skip_fooled"] == [[True, False], [False, False], [False, False]]


def test_the_sweep_attacks_what_at_radii_shows(trained, skin, bisection):
    rows = INDEX[30:36]
    images, labels = to_float(skin.images[rows]), torch.from_numpy(skin.targets[rows])
    found = attacks.at_radii(trained, images, labels, EPSILONS, rows=rows, seed=3)
    shown = np.stack([one.logits.numpy() for one in found])
    assert np.allclose(shown, bisection.logits[:, 30:36], atol=1e-4)


def test_success_is_scored_in_float32_when_gradients_are_not(trained, skin):
    seen = []

    class Spy(nn.Module):
        def forward(self, images):
            seen.append((torch.is_autocast_enabled(images.device.type), torch.is_grad_enabled()))
            return trained(images)

    how = dict(dtype=torch.bfloat16, mode="independent", steps=2)
    result = attacks.attack_sweep(Spy().eval(), skin, INDEX[:8], [2 / 255], **how)
    assert set(seen) == {(True, True), (False, False)}
    assert result.logits.dtype == np.float32


@every_mode
def test_a_single_logit_and_several_labels_are_swept(mode, skin, chest):
    single, several = net(1), net(len(chest.classes))
    with torch.no_grad():  # labels the nets themselves would give, so that all are right before
        scores = single(to_float(skin.images))[:, 0]
        single.backbone[-1].bias -= scores.median()
        binary = replace(skin, targets=(scores > scores.median()).long().numpy())
        hot = (several(to_float(chest.images)) > 0).numpy().astype(np.uint8)
    for model, data in ((single, binary), (several, replace(chest, targets=hot))):
        result = attacks.attack_sweep(model, data, INDEX[:30], [0.001, 0.1], mode=mode, steps=5)
        assert result.logits.shape == (2, 30, model.backbone[-1].out_features)
        assert result.clean_right.sum() >= 29
        assert result.accuracy()[0] > result.accuracy()[1]
        weights = metrics.group_weights(data.groups[INDEX[:30]], draws=2)
        scores = metrics.score(result.logits[1], result.labels, weights)
        expected = (result.logits[1] > 0).reshape(30, -1) == result.labels.reshape(30, -1)
        assert result.accuracy()[1] == pytest.approx(expected.all(1).mean())
        assert scores["val_accuracy"].value == pytest.approx(expected.mean())


class Sizes(nn.Module):
    """Notes how many images go through the network with a gradient, and without."""

    def __init__(self, model):
        super().__init__()
        self.model, self.up, self.scored = copy.deepcopy(model), [], []
        # a sweep takes its gradients of a copy, which shall note them here
        self.__deepcopy__ = lambda memo: self

    def forward(self, images):
        (self.up if images.requires_grad else self.scored).append(len(images))
        return self.model(images)


def test_batches_are_filled_up_as_images_are_fooled(trained, skin, tmp_path):
    whole, alone = Sizes(trained).eval(), Sizes(trained).eval()
    rows, epsilons = INDEX[:32], np.linspace(0.5, 6, 12) / 255
    together = attacks.attack_sweep(whole, skin, rows, epsilons, batch=8, folder=tmp_path)
    assert len(list(tmp_path.glob("*/*.npz"))) == 1
    assert max(whole.up + whole.scored) == 8
    parts = [attacks.attack_sweep(alone, skin, some, epsilons) for some in rows.reshape(4, 8)]
    smallest = [part.min_adversarial_radius() for part in parts]
    assert np.array_equal(together.min_adversarial_radius(), np.concatenate(smallest))
    assert together.accuracy()[-1] < 0.3 < together.accuracy()[0]  # batches do shrink
    assert sum(whole.up) == sum(alone.up) and len(whole.up) < 0.8 * len(alone.up)


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_bisection_attacks_each_image_at_few_radii_only(count, trained, skin, monkeypatch):
    """Every image at most once in a round, with steps that shrink."""
    asked, real = [], radii.ascend
    monkeypatch.setattr(
        radii, "ascend", lambda *args, **how: asked.append((args[3], how)) or real(*args, **how)
    )
    images, labels = first(skin, 24)
    epsilons = (np.geomspace(0.2, 8, count) / 255).tolist()
    attacks.at_radii(trained, images, labels, epsilons)
    assert len(asked) <= 2 * count.bit_length() + 1
    right = int((trained(images).argmax(1) == labels).sum())
    assert asked[0][0].shape == (right,) and len(asked[0][0].unique()) <= count
    shares = torch.tensor([0.7 / k for k in range(1, 6)])
    for eps, how in asked:
        assert torch.allclose(how["lengths"], torch.outer(shares, eps))


def test_an_image_gets_no_further_step_once_it_is_fooled(trained, skin):
    spy = Sizes(trained).eval()
    result = attacks.attack_sweep(spy, skin, INDEX, EPSILONS[-1:])
    fooled = result.clean_right.sum()
    assert result.accuracy() == 0 and fooled > 50
    assert sum(spy.up) < 3 * fooled  # of six steps


def test_bisection_counts_the_images_whose_gradient_vanished(trained, skin):
    class Loud(nn.Module):
        def forward(self, images):
            return 1e4 * trained(images)

    how = dict(index=INDEX[:40], epsilons=EPSILONS[2:])
    assert not attacks.attack_sweep(trained, skin, **how).vanished.any()
    assert attacks.attack_sweep(Loud().eval(), skin, **how).vanished.sum() > 10
    assert attacks.attack_sweep(trained, skin, **how, mode="independent").vanished is None


@pytest.mark.parametrize(("mode", "parts"), [("independent", [10, 10]), ("bisection", [16, 8])])
def test_a_killed_sweep_goes_on_where_it_was(mode, parts, trained, skin, tmp_path, monkeypatch):
    how = dict(model=trained, data=skin, index=INDEX[:40], epsilons=EPSILONS[2:4], mode=mode)
    how |= dict(steps=4, folder=tmp_path)
    expected = attacks.attack_sweep(**how | dict(folder=None))
    how["batch"] = dict(independent=10, bisection=4)[mode]  # by bisection four batches are a part
    kill_after = dict(independent=2, bisection=1)[mode]
    real, done = radius_sweep.Job, []

    def killed(*args):
        if len(done) == kill_after:
            raise KeyboardInterrupt
        done.append(len(args[2]))
        return real(*args)

    monkeypatch.setattr(radius_sweep, "Job", killed)
    with pytest.raises(KeyboardInterrupt):
        attacks.attack_sweep(**how)
    kill_after, done = -1, []
    assert same(attacks.attack_sweep(**how), expected)
    assert done == parts
    assert same(attacks.attack_sweep(**how), expected) and done == parts


def test_another_sweep_is_not_taken_for_this_one(trained, skin, tmp_path):
    base = dict(model=trained, data=skin, index=INDEX[:6], epsilons=[0.01], seed=0)
    others = [
        dict(model=net(7, seed=5)),
        dict(data=replace(skin, checksum="other")),
        dict(index=INDEX[1:7]),
        dict(epsilons=[0.02]),
        dict(seed=1),
        dict(mode="independent"),
        dict(steps=4),
        dict(dtype=torch.bfloat16),
        dict(rel_step=0.3),
        dict(step_size=0.003),
        dict(mode="skip_fooled"),
        dict(mode="skip_fooled", attack="bim"),
        dict(mode="skip_fooled", attack="fgsm"),
    ]
    kept = attacks.attack_sweep(**base, folder=tmp_path)
    for change in others:
        call = base | change
        assert same(attacks.attack_sweep(**call, folder=tmp_path), attacks.attack_sweep(**call))
    names = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert len(names) == 1 + len(others)  # no two are told apart by the attack's name alone
    assert same(attacks.attack_sweep(**base, folder=tmp_path), kept)
    for path in tmp_path.glob("*/*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="Delete it"):
        attacks.attack_sweep(**base, folder=tmp_path)


class Small(nn.Module):
    """Has memory for so many images."""

    def __init__(self, model, room, error):
        super().__init__()
        self.model, self.room, self.error = model, room, error

    def forward(self, images):
        if len(images) > self.room:
            raise self.error
        return self.model(images)


FULL = torch.OutOfMemoryError("no")
FULL_MPS = RuntimeError("MPS backend out of memory (MPS allocated: 1)")


@pytest.mark.parametrize(
    ("error", "how", "kept"),
    [
        (FULL, dict(mode="skip_fooled"), 4),
        (FULL_MPS, dict(mode="skip_fooled"), 4),
        (FULL, dict(mode="bisection"), 1),
        (FULL, dict(mode="independent", engine="foolbox"), 4),
        (FULL, dict(attack="autoattack", queries=20, targets=2), 4),
    ],
    ids=["CUDA", "MPS", "bisection", "Foolbox", "AutoAttack"],
)
def test_a_batch_that_does_not_fit_is_halved(error, how, kept, trained, skin, tmp_path):
    how = how | dict(index=INDEX[:30], epsilons=EPSILONS[2:4], batch=8, steps=4)
    with pytest.warns(UserWarning, match="8 images do not fit into memory: going on with 4"):
        small = attacks.attack_sweep(Small(trained, 5, error).eval(), skin, folder=tmp_path, **how)
    assert same(small, attacks.attack_sweep(trained, skin, **how))
    assert len(list(tmp_path.glob("*/*.npz"))) == kept
    with pytest.warns(UserWarning), pytest.raises(RunError, match="not even one image"):
        attacks.attack_sweep(Small(trained, 0, error).eval(), skin, **how)


BREACHES = [
    dict(index=INDEX[:0]),
    dict(epsilons=[]),
    dict(epsilons=[0.2, 0.1]),
    dict(epsilons=[1, 8]),
    dict(mode="nest"),
    dict(attack="cw"),
    dict(attack="bim"),
    dict(engine="foolbox"),
    dict(engine="foolbox", attack="bim", mode="independent"),
    dict(attack="fgsm", mode="skip_fooled", steps=10),
    dict(rel_step=0.25, step_size=2 / 255),
    dict(step_size=2),
    dict(steps=0),
    dict(fooled=np.zeros((1, 20), bool)),
]


@pytest.mark.parametrize("change", BREACHES, ids=str)
def test_what_makes_no_sweep_is_refused(change, skin):
    with pytest.raises(ContractError):
        attacks.attack_sweep(net(7), skin, **dict(index=INDEX[:20], epsilons=[0.1]) | change)
