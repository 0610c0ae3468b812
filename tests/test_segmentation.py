"""Segmentation in four calls: trained, predicted, attacked, hardened; kept, and resumed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrobust_utils import attacks, models, segmentation
from medrobust_utils.core.errors import ContractError
from medrobust_utils.core.losses import IGNORED
from medrobust_utils.data import ImageSet, ThreeWay, to_float
from medrobust_utils.data.imageset import rows_of, union
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.views import label_maps
from medrobust_utils.scoring import segmentation as scoring
from medrobust_utils.scoring.segmentation import per_image, score
from medrobust_utils.segmentation import Attack, Layered, Selective

K = 6
RECIPE = {
    "epochs": 2,
    "batch": 4,
    "lr": 2e-2,
    "weight_decay": 0.01,
    "warmup_epochs": 0.5,
    "clip": 1.0,
    "flips": "both",
}
QUICK = Attack("segpgd", 0.02, 3)
BOTH = [Layered(0.02, 2), Selective(0.02, 0.03, "greedy")]


@pytest.fixture(scope="module")
def cells():
    """48 histology phantoms with a label for every pixel, some of them IGNORED."""
    data = label_maps(phantom_set("histology", 48, size=32))
    data.targets[:, :2] = IGNORED
    return data


@pytest.fixture(scope="module")
def split():
    return ThreeWay(np.arange(32), np.arange(32, 40), np.arange(40, 48))


def unet(seed=0):
    torch.manual_seed(seed)
    return models.build_unet(K, width=4, depth=2, size=32)


def fit(data, split, folder, recipe=RECIPE, **how):
    """Learning curve without times, and weights, of a training."""
    model = unet()
    history = segmentation.fit(model, data, split, recipe, folder, **{"seed": 0, **how})
    numbers = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    return numbers, {k: v.clone() for k, v in model.state_dict().items()}


@pytest.fixture(scope="module")
def whole(cells, split, tmp_path_factory):
    """An uninterrupted training."""
    return fit(cells, split, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def model(whole):
    """A trained network."""
    net = unet()
    net.load_state_dict(whole[1])
    return net.eval()


@pytest.fixture
def small_parts(monkeypatch):
    for module in (segmentation, scoring):
        monkeypatch.setattr(module, "BATCH", 2)


def hand_logits(model, data, index):
    with torch.no_grad():
        return model(to_float(data.images[index])).numpy()


# Training


def test_training_learns_to_segment(cells, split, whole, model):
    losses = [row["train_loss"] for row in whole[0]]
    assert losses[-1] < 0.9 * losses[0]
    last = whole[0][-1]
    found = segmentation.tallied(model, cells, split.val)
    expected = score(found, np.ones((1, len(found))), cells.classes)
    assert last["val_loss"] == pytest.approx(expected["loss"].value, abs=1e-5)
    assert last["val_pixel_accuracy"] == pytest.approx(expected["pixel_accuracy"].value, abs=1e-5)
    assert last["val_mean_iou"] == pytest.approx(expected["mean_iou"].value, abs=1e-5)


class Watching:
    """An objective that keeps what it was shown."""

    identity = "watching"

    def __init__(self):
        self.images, self.targets, self.rows = [], [], []

    def __call__(self, model, images, targets, rows, dtype):
        self.images.append(images.clone())
        self.targets.append(targets.clone())
        self.rows.append(rows)
        return model(images).square().mean()


def painted():
    """16 images whose pixels say their own label, no two alike when mirrored."""
    targets = np.random.default_rng(0).integers(0, K, (16, 32, 32)).astype(np.uint8)
    targets[:, 3:5, 7] = IGNORED
    return ImageSet(
        name="painted",
        images=np.repeat(targets[..., None], 3, axis=3),
        targets=targets,
        classes=tuple("abcdef"),
        groups=np.arange(16),
        ids=tuple(map(str, range(16))),
        synthetic=True,
        complete=True,
        checksum="painted",
    )


@pytest.mark.parametrize(
    ("flips", "mirrored"),
    [("none", {()}), ("horizontal", {(), (2,)}), ("both", {(), (1,), (2,), (1, 2)})],
)
def test_labels_are_mirrored_with_their_images(tmp_path, flips, mirrored):
    data, watching = painted(), Watching()
    split = ThreeWay(np.arange(16), np.arange(2), np.arange(2))
    recipe = RECIPE | {"epochs": 2, "flips": flips}
    fit(data, split, tmp_path, recipe, objective=watching)
    seen = [torch.cat(parts) for parts in (watching.images, watching.targets)]
    rows = np.concatenate(watching.rows)
    assert len(rows) == 32
    for channel in range(3):
        assert torch.equal((seen[0][:, channel] * 255).round().byte(), seen[1])
    found = set()
    for label, row in zip(seen[1], rows, strict=True):
        own = torch.from_numpy(data.targets[row])[None]
        (how,) = [
            axes for axes in [(), (1,), (2,), (1, 2)] if torch.equal(own.flip(axes)[0], label)
        ]
        found.add(how)
    assert found == mirrored


def test_validation_may_look_at_other_images(cells, split, tmp_path):
    hardened = segmentation.attack(unet().eval(), cells, split.train[:8], QUICK)
    nobody = np.zeros(0, int)
    everyone = ThreeWay(np.arange(8), nobody, nobody)
    recipe = RECIPE | {"epochs": 1}
    numbers, weights = fit(hardened, everyone, tmp_path, recipe, clean=(cells, split.val))
    net = unet()
    net.load_state_dict(weights)
    found = segmentation.tallied(net.eval(), cells, split.val)
    assert numbers[0]["val_loss"] == pytest.approx(found.loss.mean(), abs=1e-5)
    with pytest.raises(ContractError, match="the index is empty"):  # it has none of its own
        fit(hardened, everyone, tmp_path / "own", recipe)


# Predicting and scoring


def test_predictions_are_the_largest_logits(cells, model, small_parts):
    index = np.array([9, 0, 33, 2, 17, 5])
    logits = hand_logits(model, cells, index)
    maps = segmentation.predict(model, cells, index)
    assert maps.dtype == np.uint8 and np.array_equal(maps, logits.argmax(1))
    found, truth = segmentation.tallied(model, cells, index), cells.targets[index]
    right = [(a == b)[b != IGNORED].mean() for a, b in zip(maps, truth, strict=True)]
    assert per_image(found)["pixel_accuracy"] == pytest.approx(np.array(right))


# Attacking and hardening


@pytest.mark.parametrize("kind", attacks.layered.ATTACKS)
def test_attacked_images_come_back_as_a_set(cells, model, kind, small_parts):
    index, how = np.array([30, 3, 21, 8, 40]), Attack(kind, 0.02, 4)
    attacked = segmentation.attack(model, cells, index, how)
    images, labels = to_float(cells.images[index]), torch.from_numpy(cells.targets[index])
    goal = torch.zeros_like(labels) if kind == "background" else labels
    how = dict(steps=4, step_size=2.5 * 0.02 / 4, random_start=False)
    how |= dict(targeted=kind == "background", loss=attacks.layered.LOSSES.get(kind))
    expected = attacks.pgd(model, images, goal, 0.02, **how)
    found = to_float(attacked.images)
    # a gradient near zero may change its sign with the batch; all else is equal
    assert ((found - expected).abs() < 1e-6).float().mean() > 0.999
    assert attacked.images.dtype == np.float32 and attacked.segmentation
    assert ((found - images).abs() <= 0.02).all() and found.min() >= 0 and found.max() <= 1
    assert np.array_equal(attacked.targets, cells.targets[index])
    assert np.array_equal(attacked.groups, cells.groups[index])
    assert attacked.ids == tuple(cells.ids[row] for row in index)
    assert attacked.classes == cells.classes and attacked.name == cells.name
    if kind == "background":  # that is where it leads; the others away from the truth
        cells = replace(cells, targets=np.zeros_like(cells.targets))
        attacked = replace(attacked, targets=np.zeros_like(attacked.targets))
    after = segmentation.tallied(model, attacked, np.arange(5))
    before = segmentation.tallied(model, cells, index)
    change = after.loss - before.loss
    if kind == "masked":  # it leaves wrong pixels alone, whose loss may fall
        change = -np.trace(after.confusion - before.confusion, axis1=1, axis2=2)
    assert (change < 0).all() if kind == "background" else (change >= 0).all() and change.any()


@pytest.mark.parametrize("how", BOTH, ids=lambda how: type(how).__name__)
def test_hardened_images_are_those_of_the_method(cells, model, tmp_path, small_parts, how):
    index = np.array([12, 2, 44, 7, 19, 3])
    hardened, told = segmentation.harden(model, cells, index, how, tmp_path)
    images, labels = to_float(cells.images[index]), torch.from_numpy(cells.targets[index])
    expected = how(model, images, labels, torch.float32)
    close = (to_float(hardened.images) - expected.pop("images")).abs() < 1e-6
    assert told.keys() == expected.keys()
    if isinstance(how, Selective):
        assert np.array_equal(told["signs"], expected["signs"])
        assert told["signs"].shape == (6, K) and told["loss"].shape == (6,)
        assert (told["loss"] <= told["before"]).all()
        scored = segmentation.tallied(model, hardened, np.arange(6))
        assert scored.loss == pytest.approx(told["loss"], abs=1e-5)
    assert close.float().mean() > 0.99
    assert hardened.ids == tuple(cells.ids[row] for row in index)


def files(folder):
    return sorted(folder.rglob("*.npz"))


@pytest.mark.parametrize("how", [QUICK, *BOTH], ids=lambda how: type(how).__name__)
def test_a_killed_run_goes_on_and_a_second_reads_back(
    cells, model, tmp_path, small_parts, monkeypatch, how
):
    index = np.array([1, 5, 9, 13, 17])

    def run(name):
        return segmentation.harden(model, cells, index, how, tmp_path / name)

    def as_whole(found):
        assert np.array_equal(found[0].images, whole[0].images)
        assert all(np.array_equal(found[1][key], value) for key, value in whole[1].items())
        return found[0].checksum == whole[0].checksum

    whole = run("whole")
    batches, calls = segmentation.label_maps, []

    def counting(*args):
        calls.append(args[2].tolist())
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batches(*args)

    monkeypatch.setattr(segmentation, "label_maps", counting)
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    assert len(files(tmp_path / "cut")) == 2
    assert as_whole(run("cut")) and calls[3:] == [[17]]  # only what was missing
    files(tmp_path / "cut")[1].unlink()
    assert as_whole(run("cut")) and calls[4:] == [[9, 13]]
    assert as_whole(run("cut")) and len(calls) == 5


def test_what_is_kept_depends_on_all_it_was_made_of(cells, model, tmp_path):
    """Another seed's network, setting, image or precision is never read back."""
    other = unet(1).eval()
    moved = unet()
    moved.load_state_dict(model.state_dict())
    moved.eval()
    with torch.no_grad():
        moved.backbone.down[0][1].running_mean[0] += 0.1  # a buffer is content too
    index = np.arange(2)
    once = Attack("pgd", 0.02, 1)
    settings = [
        *(Attack(*how) for how in (("pgd", 0.01, 1), ("pgd", 0.02, 2), ("background", 0.02, 1))),
        *(Layered(0.02, 1, *how) for how in ((), ("image",), ("stage", True))),
        *(Selective(*how, "greedy") for how in ((0.02, 0.02), (0.02, 0.03), (0.01, 0.03))),
    ]
    runs = [
        (model, cells, index, once),
        (other, cells, index, once),
        (moved, cells, index, once),
        (model, replace(cells, checksum="another"), index, once),
        (model, cells, index[::-1], once),
        *((model, cells, index, how) for how in settings),
    ]
    found = [segmentation.harden(*run, tmp_path)[0] for run in runs]
    found.append(segmentation.harden(*runs[0], tmp_path, dtype=torch.bfloat16)[0])
    checksums = {one.checksum for one in found}
    assert len(files(tmp_path)) == len(checksums) == len(runs) + 1
    assert cells.checksum not in checksums
    copy = unet(5)
    copy.load_state_dict(model.state_dict())
    segmentation.harden(copy.eval(), *runs[0][1:], tmp_path)  # weights count, not objects
    assert len(files(tmp_path)) == len(runs) + 1


# Sets of rows, and unions


def test_rows_are_a_set_of_their_own(cells):
    index = np.array([8, 3])
    some = rows_of(replace(cells, parts=("train",) * 48), index)
    assert np.array_equal(some.images, cells.images[index]) and some.images.dtype == np.uint8
    assert np.array_equal(some.targets, cells.targets[index])
    assert some.groups.tolist() == cells.groups[index].tolist()
    assert some.ids == (cells.ids[8], cells.ids[3]) and some.parts is None
    others = [rows_of(cells, index[::-1]), cells]
    assert some.checksum not in {other.checksum for other in others}


def test_a_union_keeps_images_labels_and_groups(cells, model):
    index = np.array([4, 30, 11])
    clean = rows_of(cells, index)
    attacked = segmentation.attack(model, cells, index, QUICK)
    both = union(clean, attacked)
    assert len(both) == 6 and both.images.dtype == np.float32 and both.classes == cells.classes
    expected = torch.cat([to_float(clean.images), to_float(attacked.images)])
    assert torch.equal(to_float(both.images), expected)
    assert np.array_equal(both.targets, np.concatenate([clean.targets] * 2))
    assert both.groups.tolist() == [*clean.groups, *clean.groups]  # on one side of a split
    assert len(set(both.ids)) == 6 and both.ids[1] == f"0/{cells.ids[30]}"
    assert both.checksum != union(attacked, clean).checksum
    found = segmentation.tallied(model, both, np.arange(6)).loss
    assert found[:3] == pytest.approx(segmentation.tallied(model, cells, index).loss, rel=1e-5)


# Contracts


def test_unknown_settings_are_refused(cells, model, tmp_path):
    with pytest.raises(ContractError, match="attack 'fgsm': choose background, pgd, segpgd"):
        Attack("fgsm", 0.1, 1)
    with pytest.raises(ContractError, match="ball='round'"):
        Layered(0.1, 1, "round")
    with pytest.raises(ContractError, match="search='random'"):
        Selective(0.1, 0.1, "random")
    with pytest.raises(ContractError, match="eps=8"):
        segmentation.attack(model, cells, np.arange(1), Attack("pgd", 8, 1), folder=tmp_path)
    assert not files(tmp_path)
