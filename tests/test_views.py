"""Views ask other questions to the same images and leave the set they came from alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrobust_utils.core.errors import DataError
from medrobust_utils.data import batches, split_by_group
from medrobust_utils.data.imageset import Rows, to_float
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.data.views import (
    binary,
    copy_per_label,
    enhance,
    enhanced,
    enhanced_pixels,
    label_maps,
    undersample,
)

SIDES = ("negative", "positive")


@pytest.fixture(scope="module")
def fundus():
    return phantom_set("fundus", 60, size=32)


def test_several_grades_become_one_class(fundus):
    view = binary(fundus, ["Moderate", "Severe", "Proliferative DR"], SIDES)
    assert (view.targets == (fundus.targets >= 2)).all() and view.targets.dtype == np.int64
    assert view.classes == SIDES and not view.multi_label
    assert view.images is fundus.images and view.groups is fundus.groups and view.ids == fundus.ids
    assert view.census["images_per_class"] == view.class_counts()
    assert "images_per_class" not in fundus.census  # the old set is unharmed


def test_one_finding_of_many_becomes_a_question(chest):
    column = chest.classes.index("Pneumothorax")
    view = binary(chest, ["Pneumothorax"], SIDES)
    assert (view.targets == chest.targets[:, column]).all() and 0 < view.targets.mean() < 1
    assert view.targets.ndim == 1 and chest.multi_label
    either = binary(chest, ["Pneumothorax", "Mass"], SIDES)
    mass = chest.targets[:, chest.classes.index("Mass")]
    assert (either.targets == (view.targets | mass)).all()


def test_impossible_questions_and_draws_are_refused(fundus, skewed, chest):
    severe = binary(skewed, ["Severe"], SIDES)
    for ask, told in (
        (lambda: binary(fundus, ["Severe", "Grave"], SIDES), r"no class \['Grave'\]. Known: No DR"),
        (lambda: binary(fundus, fundus.classes, SIDES), "60 of 60 images are positive"),
        (lambda: binary(fundus, [], SIDES), "0 of 60 images are positive"),
        (lambda: undersample(severe, 0, seed=0), "Ask for at least one"),
        (lambda: undersample(skewed, 5, seed=0), "0 images a class.*'Mild': 0.*`binary`"),
        (lambda: undersample(chest, 5, seed=0), "one label an image"),
    ):
        with pytest.raises(DataError, match=told):
            ask()


@pytest.mark.parametrize(
    "index",
    [np.int64(5), -1, slice(2, 9, 3), np.array([7, 0, 7]), np.arange(12) % 2 == 0],
    ids=str,
)
@pytest.mark.parametrize("rows", [False, True], ids=["array", "rows"])
def test_filtered_images_are_indexed_like_the_array(index, rows):
    base = phantom_set("chest", 12, size=64).images
    stored = Rows(base, np.arange(12)[::-1]) if rows else base
    plain = base[::-1] if rows else base
    got = Rows(stored, change=enhanced_pixels)[index]
    chosen = plain[index]
    floats = enhance(to_float(chosen if chosen.ndim == 4 else chosen[None])).mul(255)
    expected = floats.permute(0, 2, 3, 1).numpy()
    assert got.dtype == np.uint8 and got.shape == chosen.shape
    assert np.abs(got.astype(float) - expected.reshape(got.shape)).max() <= 0.5 + 1e-4
    assert not np.array_equal(got, chosen)


@pytest.fixture(scope="module")
def skewed(fundus):
    """20 ill and 40 healthy images in pairs of neighbours, with outlines and subjects."""
    ill = np.isin(np.arange(60) // 2 % 3, [0])
    return replace(
        fundus,
        targets=np.where(ill, 3, 0),
        groups=np.arange(60) // 2,
        subjects=np.arange(60),
        masks=np.arange(60, dtype=np.uint8)[:, None, None] * np.ones((1, 32, 32), np.uint8),
        checksum="skewed",
        census={"groups": 30},
    )


def test_classes_are_made_equally_large(skewed):
    view = binary(skewed, ["Severe"], SIDES)
    even = undersample(view, 100, seed=0)
    assert even.class_counts() == {"negative": 20, "positive": 20}
    assert even.census["images_per_class"] == even.class_counts()
    assert even.census["left_out_per_class"] == {"negative": 20, "positive": 0}
    assert even.census["groups"] == 30 and "left_out_per_class" not in view.census
    rows = [view.ids.index(name) for name in even.ids]
    assert rows == sorted(rows)  # in their order
    assert (even.targets == view.targets[rows]).all()
    assert (even.groups == view.groups[rows]).all() and (even.subjects == rows).all()
    assert (even.images[:] == view.images[rows]).all()
    assert (even.masks[:] == view.masks[rows]).all() and even.masks[3].max() == rows[3]
    fewer = undersample(view, 7, seed=0)
    assert fewer.class_counts() == {"negative": 7, "positive": 7}
    assert fewer.census["left_out_per_class"] == {"negative": 33, "positive": 13}
    assert set(fewer.ids) < set(even.ids)


def test_the_draw_belongs_to_its_seed(skewed):
    view = binary(skewed, ["Severe"], SIDES)
    first, again, other = (undersample(view, 10, seed=seed) for seed in (0, 0, 1))
    assert first.ids == again.ids and first.checksum == again.checksum
    assert set(first.ids) != set(other.ids)
    same_size = undersample(view, 20, seed=0)
    assert len({v.checksum for v in (view, first, other, same_size)}) == 4
    assert undersample(view, 99, seed=0).checksum == same_size.checksum  # the same images


@pytest.fixture(scope="module")
def histology():
    return phantom_set("histology", 24, size=32)


def test_masks_of_classes_become_label_maps(histology):
    view = label_maps(histology)
    assert view.segmentation and not view.multi_label and not histology.segmentation
    assert (view.targets == histology.masks).all() and view.masks is None
    assert view.classes == histology.classes and view.images is histology.images
    assert view.checksum not in (histology.checksum, enhanced(histology).checksum)
    for k, name in enumerate(view.classes):
        assert view.class_counts()[name] == sum(k in np.unique(mask) for mask in histology.masks)
        share = (histology.masks == k).mean()
        assert view.census["pixel_shares"][name] == pytest.approx(share)
    assert view.census["images_per_class"] == view.class_counts()
    assert "classes" in histology.census and "classes" not in view.census
    chunk, images, targets = next(batches(view, np.array([5, 2]), 2))
    assert images.shape == (2, 3, 32, 32) and (targets.numpy() == histology.masks[[5, 2]]).all()


def test_parts_follow_their_images(skewed, histology, chest):
    parts = tuple("train" if i % 3 else "test" for i in range(60))
    even = undersample(binary(replace(skewed, parts=parts), ["Severe"], SIDES), 7, seed=0)
    assert even.parts == tuple(parts[skewed.ids.index(name)] for name in even.ids)
    parted = replace(chest, parts=chest.ids)
    copies, _ = copy_per_label(parted, split_by_group(parted, seed=0))
    assert copies.parts == tuple(name.split("#")[0] for name in copies.ids)
    with pytest.raises(DataError, match="as many parts, not 2"):
        replace(histology, parts=("train", "test"))


def test_perturbed_images_may_be_floats(histology):
    floats = np.random.default_rng(0).random((24, 32, 32, 3), np.float32)
    _, images, _ = next(batches(replace(histology, images=floats), np.arange(3), 3))
    assert images.dtype == torch.float32
    assert (images.permute(0, 2, 3, 1).numpy() == floats[:3]).all()
    to_float(floats).zero_()  # a copy: nobody can write into the set
    assert floats.any()
    with pytest.raises(DataError, match="uint8 or float32"):
        replace(histology, images=floats.astype(np.float64))
