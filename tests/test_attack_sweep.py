"""Sweeps: the ways agree, fooled is fooled, a kill costs a part, memory costs a warning."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medrobust_utils import attacks, models
from medrobust_utils.attacks import partial_results as module
from medrobust_utils.attacks import radii
from medrobust_utils.attacks.engine import ascend, ball
from medrobust_utils.core import env
from medrobust_utils.core.errors import ContractError, RunError
from medrobust_utils.core.losses import per_image
from medrobust_utils.data import to_float
from medrobust_utils.scoring import metrics

EPSILONS = np.array([0, 0.00125, 0.5, 1, 2, 4, 16]) / 255


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


INDEX = np.arange(30, 140)


@pytest.fixture(scope="module")
def bisection(trained, skin):
    return attacks.attack_sweep(trained, skin, INDEX, EPSILONS, seed=3)


@pytest.fixture(scope="module")
def independent(trained, skin):
    return attacks.attack_sweep(trained, skin, INDEX, EPSILONS, seed=3, mode="independent")


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
    np.testing.assert_allclose(bisection.clean, independent.clean, rtol=1e-5, atol=1e-5)


def test_two_ways_agree_where_steps_do_not_matter(bisection, independent):
    small = EPSILONS < 1 / 255
    assert np.abs(bisection.accuracy() - independent.accuracy())[small].max() < 0.02


def test_an_eps_of_zero_is_the_clean_result(bisection, independent):
    for result in (bisection, independent):
        assert np.array_equal(result.logits[0], result.clean)
        assert result.success()[0] == 0
        assert result.accuracy()[0] == pytest.approx(1 - result.clean_wrong / len(INDEX))


def test_an_eps_of_one_leaves_nothing(trained, skin):
    for mode in ("bisection", "skip_fooled", "independent"):
        result = attacks.attack_sweep(trained, skin, INDEX[:20], [1.0], mode=mode)
        assert result.accuracy() == 0 and np.isfinite(result.logits).all()


def test_scores_agree_with_the_metrics(bisection, skin):
    weights = metrics.group_weights(skin.groups[INDEX], draws=2)
    for logits, accuracy in zip(bisection.logits, bisection.accuracy(), strict=True):
        scores = metrics.score(logits, bisection.labels, weights)
        assert scores["top1"].value == pytest.approx(accuracy)
        assert scores["val_accuracy"].value == pytest.approx(accuracy)


def test_what_was_wrong_before_is_counted_apart():
    two = np.array([[[2, 0], [0, 1], [2, 0], [2, 0]], [[2, 0], [0, 1], [0, 3], [2, 0]]])
    logits = np.concatenate([two, [[[2, 0], [0, 1], [2, 0], [0, 9]]]]).astype(np.float32)
    epsilons = np.array([0.1, 0.2, 0.3])
    labels = np.zeros(4, np.int64)
    result = attacks.SweepResult(epsilons, logits, logits[0], labels, "independent")
    assert result.clean_wrong == 1
    assert result.accuracy() == pytest.approx([0.75, 0.5, 0.5])
    assert result.success() == pytest.approx([0, 1 / 3, 1 / 3])
    assert result.min_adversarial_radius().tolist() == [np.inf, 0, 0.2, 0.3]
    hopeless = replace(result, labels=np.array([1, 0, 1, 1]))
    assert hopeless.clean_wrong == 4 and np.isnan(hopeless.success()).all()


@pytest.mark.parametrize("mode", ["bisection", "skip_fooled"])
def test_a_fooled_image_keeps_what_fooled_it(mode, trained, skin):
    images, labels = to_float(skin.images[:24]), torch.from_numpy(skin.targets[:24])
    rungs = list(attacks.at_radii(trained, images, labels, EPSILONS, mode=mode, steps=5))
    assert [rung.eps for rung in rungs] == EPSILONS.tolist()
    assert torch.equal(rungs[0].images, images)
    for before, after in zip(rungs, rungs[1:], strict=False):
        lost = before.logits.argmax(1) != labels
        assert torch.equal(after.images[lost], before.images[lost])
        assert torch.equal(after.logits[lost], before.logits[lost])
        low, high = ball(images, after.eps)
        assert (after.images >= low).all() and (after.images <= high).all()
        with torch.no_grad():
            assert torch.allclose(trained(after.images), after.logits, atol=1e-5)


@pytest.mark.parametrize("mode", ["bisection", "skip_fooled", "independent"])
def test_neither_batch_nor_order_matters(mode, trained, skin):
    epsilons, part = EPSILONS[2:5], INDEX[40:65]
    whole = attacks.attack_sweep(trained, skin, part, epsilons, mode=mode, seed=1, steps=6)
    parts = attacks.attack_sweep(trained, skin, part, epsilons, mode=mode, seed=1, steps=6, batch=4)
    assert same(whole, parts)
    order = np.random.default_rng(0).permutation(len(part))
    mixed = attacks.attack_sweep(trained, skin, part[order], epsilons, mode=mode, seed=1, steps=6)
    assert np.array_equal(mixed.min_adversarial_radius(), whole.min_adversarial_radius()[order])
    assert np.allclose(mixed.logits, whole.logits[:, order], atol=1e-4)
    other = attacks.attack_sweep(trained, skin, part, epsilons, mode=mode, seed=2, steps=6)
    assert not np.allclose(other.logits, whole.logits, atol=1e-4)


ALIKE = [
    ("fgsm", dict()),
    ("bim", dict()),
    ("bim", dict(steps=3, step_size=2 / 255)),
    ("mifgsm", dict()),
    ("mifgsm", dict(steps=4)),
    ("mifgsm", dict(steps=3, step_size=2 / 255)),
    ("pgd", dict()),
    ("pgd", dict(steps=3, step_size=2 / 255)),
]


@pytest.mark.parametrize(("attack", "how"), ALIKE)
@pytest.mark.parametrize("mode", ["skip_fooled", "independent"])
def test_a_ladder_runs_the_attack_it_names(attack, how, mode, trained, skin):
    """With its defaults, and with torchattacks' step of 2/255, larger than the smallest ball."""
    images, labels = to_float(skin.images[:12]), torch.from_numpy(skin.targets[:12])
    epsilons = [1 / 255, 4 / 255]
    rungs = list(
        attacks.at_radii(trained, images, labels, epsilons, attack=attack, mode=mode, **how)
    )
    for rung, before in zip(rungs, [trained(images), rungs[0].logits], strict=True):
        given = dict(how)
        if attack == "pgd":  # a step of 0 leaves PGD where it starts
            rest = dict(steps=1, rel_step=0.0, mode="independent")
            (begin,) = attacks.at_radii(trained, images, labels, [rung.eps], **rest)
            given["start"] = begin.images
            assert not torch.equal(begin.images, images)
        expected = getattr(attacks, attack)(trained, images, labels, rung.eps, **given)
        hit = before.argmax(1) == labels
        if mode == "independent":
            hit |= True
        assert hit.any()
        apart = (rung.images[hit] - expected[hit]).abs() > 1e-6
        assert apart.float().mean() < 1e-4  # a slope of nothing may round to either side
        low, high = ball(images, rung.eps)
        assert (rung.images >= low).all() and (rung.images <= high).all()


class Wave(nn.Module):
    """Its answer changes with the brightness of an image, back and forth."""

    def forward(self, images):
        wave = torch.cos(20 * (images.mean((1, 2, 3)) - 0.49))
        return torch.stack([wave, -wave], 1)


def test_a_larger_single_step_may_overshoot_and_standing_forgets_no_success():
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    right = {}
    for mode in ("independent", "skip_fooled"):
        rungs = attacks.at_radii(
            Wave().eval(), images, labels, [0.01, 0.1, 0.3], attack="fgsm", mode=mode
        )
        right[mode] = [(rung.logits.argmax(1) == labels).tolist() for rung in rungs]
    # the second image is wrong before the attack: a step too far even corrects it
    assert right["independent"] == [[True, False], [False, True], [True, False]]
    assert right["skip_fooled"] == [[True, False], [False, False], [False, False]]


def test_the_sweep_attacks_what_at_radii_shows(trained, skin, bisection):
    part = slice(30, 36)
    rows = INDEX[part]
    images, labels = to_float(skin.images[rows]), torch.from_numpy(skin.targets[rows])
    rungs = attacks.at_radii(trained, images, labels, EPSILONS, rows=rows, seed=3)
    shown = np.stack([rung.logits.numpy() for rung in rungs])
    assert np.allclose(shown, bisection.logits[:, part], atol=1e-4)


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


@pytest.mark.parametrize("mode", ["bisection", "skip_fooled", "independent"])
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
        assert result.clean_wrong <= 1
        assert result.accuracy()[0] > result.accuracy()[1]
        weights = metrics.group_weights(data.groups[INDEX[:30]], draws=2)
        scores = metrics.score(result.logits[1], result.labels, weights)
        expected = (result.logits[1] > 0).reshape(30, -1) == result.labels.reshape(30, -1)
        assert result.accuracy()[1] == pytest.approx(expected.all(1).mean())
        assert scores["val_accuracy"].value == pytest.approx(expected.mean())


def test_finished_batches_are_read_back(trained, skin, tmp_path, monkeypatch):
    settings = dict(batch=10, seed=1, mode="independent", steps=4)
    how = settings | dict(folder=tmp_path)
    expected = attacks.attack_sweep(trained, skin, INDEX[:40], EPSILONS[2:4], **settings)
    real, done = module._fitting, []

    def interrupted(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(module, "_fitting", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attacks.attack_sweep(trained, skin, INDEX[:40], EPSILONS[2:4], **how)
    done[:] = [1] * -5
    monkeypatch.setattr(module, "_fitting", lambda *args: done.append(args) or real(*args))
    result = attacks.attack_sweep(trained, skin, INDEX[:40], EPSILONS[2:4], **how | dict(batch=15))
    assert [len(rows) for _, rows, *_ in done] == [15, 5]  # of 40 images 20 were kept
    assert same(result, expected)
    attacks.attack_sweep(trained, skin, INDEX[:40], EPSILONS[2:4], **how)
    assert len(done) == 2


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
    parts = [
        attacks.attack_sweep(alone, skin, rows[start : start + 8], epsilons, batch=8)
        for start in range(0, 32, 8)
    ]
    assert np.array_equal(
        together.min_adversarial_radius(),
        np.concatenate([part.min_adversarial_radius() for part in parts]),
    )
    assert together.accuracy()[-1] < 0.3 < together.accuracy()[0]  # batches do shrink
    assert sum(whole.up) == sum(alone.up) and len(whole.up) < 0.8 * len(alone.up)


def climbed(model, images, labels, epsilons):
    """Smallest eps that fools each image, each eps attacked from where the last one ended."""
    moved, before, smallest = images, 0, torch.full((len(images),), 2 * epsilons[-1])
    open_ = model(images).argmax(1) == labels
    smallest[~open_] = epsilons[0]
    for eps in epsilons.tolist():
        first = torch.rand(images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        start = images + (eps / before * (moved - images) if before else eps * first)
        lengths = [(1 if before else 2) * eps / 2 / k for k in (1, 2, 3, 4)]
        new = ascend(
            model,
            images[open_],
            labels[open_],
            eps,
            lengths=lengths,
            start=start[open_],
            fooled=lambda moved, labels: torch.ones_like(labels, dtype=torch.bool),
        )
        moved = moved.clone()
        moved[open_] = new
        lost = open_ & (model(moved).argmax(1) != labels)
        smallest[lost], open_, before = eps, open_ & ~lost, eps
    return smallest


def test_bisection_asks_for_fewer_gradients_than_a_climb_and_is_no_weaker(trained, skin):
    climbing, halving = Sizes(trained).eval(), Sizes(trained).eval()
    epsilons = np.geomspace(0.25, 16, 8) / 255
    images, labels = to_float(skin.images[INDEX]), torch.from_numpy(skin.targets[INDEX])
    with torch.no_grad():
        expected = climbed(climbing, images, labels, epsilons).log2().mean().item()
    result = attacks.attack_sweep(halving, skin, INDEX, epsilons)
    assert sum(halving.up) <= 0.8 * sum(climbing.up)
    smallest = np.clip(result.min_adversarial_radius(), epsilons[0], 2 * epsilons[-1])
    assert np.log2(smallest).mean() <= expected + 0.01
    assert (np.diff(result.accuracy()) <= 0).all() and np.ptp(result.accuracy()) > 0.5


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_bisection_attacks_each_image_at_few_radii_only(count, trained, skin, monkeypatch):
    """Every image at most once in a round, with steps that shrink."""
    asked = []
    real = radii.ascend
    monkeypatch.setattr(
        radii, "ascend", lambda *args, **how: asked.append((args[3], how)) or real(*args, **how)
    )
    images, labels = to_float(skin.images[:24]), torch.from_numpy(skin.targets[:24])
    epsilons = (np.geomspace(0.2, 8, count) / 255).tolist()
    found = list(attacks.at_radii(trained, images, labels, epsilons))
    assert [one.eps for one in found] == epsilons
    assert len(asked) <= 2 * count.bit_length() + 1
    right = int((trained(images).argmax(1) == labels).sum())
    assert asked[0][0].shape == (right,) and len(asked[0][0].unique()) <= count
    shares = torch.tensor([0.7 / k for k in range(1, 6)])
    for eps, how in asked:
        assert torch.allclose(how["lengths"], torch.outer(shares, eps))


def test_bisection_counts_the_images_whose_gradient_vanished(trained, skin):
    class Loud(nn.Module):
        def forward(self, images):
            return 1e4 * trained(images)

    how = dict(index=INDEX[:40], epsilons=EPSILONS[2:])
    assert not attacks.attack_sweep(trained, skin, **how).vanished.any()
    assert attacks.attack_sweep(Loud().eval(), skin, **how).vanished.sum() > 10
    assert attacks.attack_sweep(trained, skin, **how, mode="independent").vanished is None


def test_an_image_gets_no_further_step_once_it_is_fooled(trained, skin):
    spy = Sizes(trained).eval()
    result = attacks.attack_sweep(spy, skin, INDEX, EPSILONS[-1:])
    assert result.accuracy() == 0
    fooled = result.clean_right.sum()
    assert fooled > 50 and sum(spy.up) < 3 * fooled  # of six steps


def test_bisection_that_does_not_fit_gets_smaller_batches_too(trained, skin, tmp_path):
    how = dict(index=INDEX[:30], epsilons=EPSILONS[2:4], batch=8)
    with pytest.warns(UserWarning, match="8 images do not fit into memory: going on with 4"):
        small = Small(trained, 5, torch.OutOfMemoryError("no")).eval()
        result = attacks.attack_sweep(small, skin, folder=tmp_path, **how)
    assert same(result, attacks.attack_sweep(trained, skin, **how))
    kept = sorted(int(path.stem) for path in tmp_path.glob("*/*.npz"))
    assert kept == [0, 16]


def test_bisection_goes_on_at_the_part_where_it_was_stopped(trained, skin, tmp_path, monkeypatch):
    how = dict(index=INDEX[:40], epsilons=EPSILONS[2:4], folder=tmp_path)
    real, done = module._fitting, []

    def interrupted(*args):
        done.append(len(args[1]))
        if len(done) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "_fitting", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attacks.attack_sweep(trained, skin, batch=4, **how)
    result = attacks.attack_sweep(trained, skin, batch=3, **how)
    assert done == [16, 16, 12, 12]  # four batches each, of what the first part left
    whole = attacks.attack_sweep(trained, skin, **how | dict(folder=None))
    assert same(result, whole)


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
        dict(step_size=0.006),
        dict(mode="skip_fooled"),
        dict(mode="skip_fooled", attack="bim"),
        dict(mode="skip_fooled", attack="mifgsm", steps=10, rel_step=0.2),
        dict(mode="skip_fooled", attack="fgsm"),
        dict(mode="independent", attack="fgsm"),
    ]
    first = attacks.attack_sweep(**base, folder=tmp_path)
    for change in others:
        call = base | change
        assert same(attacks.attack_sweep(**call, folder=tmp_path), attacks.attack_sweep(**call))
    names = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert len(names) == 1 + len(others)  # no two are told apart by the attack's name alone
    assert same(attacks.attack_sweep(**base, folder=tmp_path), first)


def test_a_damaged_or_foreign_batch_is_refused(trained, skin, tmp_path):
    def sweep(seed):
        attacks.attack_sweep(trained, skin, INDEX[:6], [0.01], seed=seed, folder=tmp_path)
        return max(tmp_path.glob("*/*.npz"), key=lambda path: path.stat().st_mtime_ns)

    first, second = sweep(0), sweep(1)
    first.write_bytes(second.read_bytes())
    with pytest.raises(RunError, match="other settings"):
        sweep(0)
    first.write_bytes(second.read_bytes()[:100])
    with pytest.raises(RunError, match="Delete it"):
        sweep(0)


class Small(nn.Module):
    """Has memory for so many images."""

    def __init__(self, model, room, error):
        super().__init__()
        self.model, self.room, self.error = model, room, error

    def forward(self, images):
        if len(images) > self.room:
            raise self.error
        return self.model(images)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("no"), RuntimeError("MPS backend out of memory (MPS allocated: 1)")],
    ids=["CUDA", "MPS"],
)
def test_a_batch_that_does_not_fit_is_halved(error, trained, skin, tmp_path):
    how = dict(index=INDEX[:30], epsilons=EPSILONS[2:4], batch=16, mode="skip_fooled", steps=4)
    with pytest.warns(UserWarning) as said:
        small = attacks.attack_sweep(Small(trained, 5, error).eval(), skin, folder=tmp_path, **how)
    assert [str(w.message) for w in said] == [
        f"{2 * n} images do not fit into memory: going on with {n}" for n in (8, 4)
    ]
    assert same(small, attacks.attack_sweep(trained, skin, **how))
    assert len(list(tmp_path.glob("*/*.npz"))) == 8  # seven of 4 images and the last 2


def test_not_even_one_image_fits(trained, skin):
    model = Small(trained, 0, torch.OutOfMemoryError("no")).eval()
    with pytest.warns(UserWarning), pytest.raises(RunError, match="not even one image"):
        attacks.attack_sweep(model, skin, INDEX[:4], [0.1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(index=INDEX[:0]), "empty"),
        (dict(epsilons=[]), "at least one"),
        (dict(epsilons=[0.2, 0.1]), "must rise"),
        (dict(epsilons=[1, 8]), "8/255, not 8"),
        (dict(mode="nest"), "bisection, skip_fooled, independent"),
        (dict(attack="cw"), "pgd, fgsm, bim, mifgsm"),
        (dict(attack="bim"), "mode='skip_fooled'"),
        (dict(engine="foolbox"), "attacks afresh at every eps"),
        (dict(attack="fgsm", mode="skip_fooled", steps=10), "no steps"),
        (dict(rel_step=0.25, step_size=2 / 255), "give one"),
        (dict(steps=0), "1 step or more"),
        (dict(wrap=lambda m: nn.Sequential(m, nn.Softmax(1)).eval()), "probabilities"),
        (dict(wrap=lambda m: nn.Sequential(m, nn.Dropout())), "training mode"),
        (dict(classes=3), "knows 0 to 2"),
    ],
)
def test_a_breach_has_its_own_error(change, message, skin):
    model = change.get("wrap", lambda m: m)(net(change.get("classes", 7)))
    call = dict(index=INDEX[:20], epsilons=[0.1])
    call |= {k: v for k, v in change.items() if k not in ("wrap", "classes")}
    with pytest.raises(ContractError, match=message):
        attacks.attack_sweep(model, skin, **call)
