"""The phantoms: reproducible, well formed, labelled truly, and not readable from brightness."""

import numpy as np
import pytest

from medrobust_utils.core.errors import DataError
from medrobust_utils.data.phantoms import MODALITIES, draw, phantom_set

SINGLE = [name for name, kind in MODALITIES.items() if not kind.multi_label]
# Their first class has nothing to outline; in all others something must be drawn.
EMPTY = {"fundus", "mri", "ct", "ultrasound"}


@pytest.fixture(scope="module")
def sets():
    """A set of each modality, drawn once for all tests: 240 images of 48 pixels."""
    return {name: phantom_set(name, 240, size=48) for name in MODALITIES}


@pytest.mark.parametrize("name", MODALITIES)
def test_a_phantom_depends_on_seed_and_index_only(name, sets):
    drawn, again = sets[name], phantom_set(name, 4, size=48)
    assert np.array_equal(again.images, drawn.images[:4])
    assert np.array_equal(again.masks, drawn.masks[:4])
    for i in (3, 1):
        phantom = draw(name, i, size=48)
        assert np.array_equal(phantom.image, drawn.images[i])
        assert np.array_equal(phantom.target, drawn.targets[i])
    other = phantom_set(name, 4, size=48, seed=1)
    assert np.abs(other.images.astype(int) - again.images).mean() > 2
    assert len({image.tobytes() for image in drawn.images}) == 240
    assert other.checksum != again.checksum == phantom_set(name, 4, size=48).checksum


@pytest.mark.parametrize("name", MODALITIES)
def test_the_set_is_well_formed(name, sets):
    drawn, kind = sets[name], MODALITIES[name]
    assert drawn.name == f"phantom-{name}" and drawn.synthetic and drawn.complete
    assert drawn.images.shape == (240, 48, 48, kind.channels) and drawn.images.dtype == np.uint8
    assert drawn.masks.shape == (240, 48, 48) and drawn.masks.dtype == np.uint8
    assert drawn.classes == kind.classes and drawn.multi_label == kind.multi_label
    assert drawn.ids[12] == f"phantom-{name}-000012"
    assert np.array_equal(drawn.groups, np.arange(240))
    # Pictures, neither black nor burnt out: contrast within, and little clipped to white.
    assert drawn.images.reshape(240, -1).std(1).min() > 8
    assert (drawn.images == 255).mean() < 0.06
    assert drawn.census["classes"] == drawn.class_counts()


@pytest.mark.parametrize("name", MODALITIES)
def test_the_same_picture_at_every_size(name):
    for index in range(3):
        small, large = draw(name, index, size=48), draw(name, index, size=96)
        assert np.array_equal(small.target, large.target)
        shrunk = large.image.reshape(48, 2, 48, 2, -1).mean((1, 3))
        assert np.corrcoef(shrunk.ravel(), small.image.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("name", SINGLE)
def test_every_class_occurs_and_masks_show_the_finding(name, sets):
    drawn = sets[name]
    healthy = np.isin(drawn.targets, 0) if name in EMPTY else np.zeros(240, bool)
    assert np.array_equal(drawn.masks.any((1, 2)), ~healthy)
    counts = list(drawn.class_counts().values())
    assert min(counts[1:] if drawn.classes[0] == "background" else counts) >= 5


def test_chest_no_finding_is_the_absence_of_findings():
    drawn = phantom_set("chest", 400, size=32)
    found = drawn.targets[:, :14].sum(1)
    assert drawn.targets.dtype == np.uint8 and drawn.targets.shape == (400, 15)
    assert np.array_equal(drawn.targets[:, 14] == 1, found == 0)
    assert np.array_equal(drawn.masks.any((1, 2)), found > 0)
    assert 0.4 < (found == 0).mean() < 0.6 and found.max() == 3
    counts = drawn.class_counts()
    assert min(counts.values()) >= 4
    assert counts["Infiltration"] > 2 * counts["Hernia"]


def test_kandinsky_figures_have_exact_label_maps_and_colour_does_not_tell_a_shape(sets):
    drawn = sets["kandinsky"]
    colours, shape = drawn.images[drawn.masks > 0].astype(int), drawn.masks[drawn.masks > 0]
    ground = drawn.images[drawn.masks == 0].astype(int)
    assert (np.ptp(ground, axis=1) < 60).mean() > 0.9, "the ground is gray up to soft edges"
    assert (np.ptp(colours, axis=1) > 60).mean() > 0.9, "what is labelled is painted"
    means = np.stack([colours[shape == kind].mean(0) for kind in (1, 2, 3)])
    assert np.ptp(means, axis=0).max() < 20


def test_skin_is_half_moles_and_histology_maps_hold_the_classes(sets):
    skin = sets["dermatoscopy7"]
    assert 0.4 < (skin.targets == 5).mean() < 0.6
    assert skin.masks.mean((1, 2)).min() > 0.02 and skin.masks.mean((1, 2)).max() < 0.8
    drawn = sets["histology"]
    shares = np.bincount(drawn.masks.ravel(), minlength=6) / drawn.masks.size
    assert len(shares) == 6 and 0.70 < shares[0] < 0.87 and shares[1:].min() > 0.005
    nuclei = np.stack([np.bincount(m.ravel(), minlength=6)[1:] for m in drawn.masks])
    assert np.array_equal(nuclei.argmax(1) + 1, drawn.targets)


@pytest.mark.parametrize("name", SINGLE)
def test_mean_colour_does_not_give_the_label_away(name, sets):
    """A nearest-neighbour reader of the channel means stays near chance."""
    drawn = sets[name]
    means = drawn.images.mean((1, 2))
    means = (means - means.mean(0)) / means.std(0)
    distance = np.square(means[:, None] - means[None]).sum(-1)
    np.fill_diagonal(distance, np.inf)
    votes = drawn.targets[np.argsort(distance, axis=1)[:, :9]]
    present = np.unique(drawn.targets)
    share = np.stack([(votes == k).mean(1) / (drawn.targets == k).mean() for k in present], 1)
    guess = present[share.argmax(1)]
    recall = [(guess[drawn.targets == k] == k).mean() for k in present]
    assert np.mean(recall) < 1 / len(present) + 0.22


def test_mean_brightness_does_not_show_a_chest_finding(sets):
    """Half of the area-under-curve range above chance would be a giveaway; a quarter is not."""
    means, ill = sets["chest"].images.mean((1, 2, 3)), sets["chest"].targets[:, 14] == 0
    auc = (means[ill][:, None] > means[~ill][None]).mean()
    assert abs(auc - 0.5) < 0.125


@pytest.mark.parametrize(
    ("given", "remedy"), [(("knee", 3, 32), "chest"), (("ct", 3, 31), "32"), (("ct", 0, 32), "1")]
)
def test_bad_input_is_refused_with_the_remedy(given, remedy):
    with pytest.raises(DataError, match=remedy):
        phantom_set(given[0], given[1], size=given[2])
