"""Each measure on maps whose value is known, and on maps that say nothing."""

import numpy as np
import pytest

from medrobust_utils.explain import measures

SIZE = 40
PAIRS = (measures.correlation, measures.similarity, measures.top_overlap)
HITS = (measures.energy_inside, measures.pointing)
FOCUS = (measures.entropy, measures.area)


def spot(y, x, width=4.0):
    """A round map with its peak, 1, at (y, x)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))


def box(top, left, side=10):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


@pytest.mark.parametrize("measure", PAIRS)
def test_equal_maps_score_one_and_disjoint_ones_low(measure):
    maps = np.stack([spot(10, 10), spot(30, 12)])
    np.testing.assert_allclose(measure(maps, maps), 1)
    assert (measure(maps, maps[:, ::-1, ::-1]) < 0.4).all()
    nearer = measure(maps[:1], spot(12, 11)[None])
    assert measure(maps[:1], spot(16, 14)[None]) < nearer < 1


def test_unrelated_maps_score_what_the_docstrings_say():
    first, second = np.random.default_rng(0).random((2, 20, SIZE, SIZE))
    assert measures.correlation(first, second).mean() == pytest.approx(0, abs=0.02)
    assert measures.top_overlap(first, second).mean() == pytest.approx(1 / 9, abs=0.01)
    tenths = measures.top_overlap(first, second, share=0.1)
    assert tenths.mean() == pytest.approx(1 / 19, abs=0.01)


def test_correlation_ignores_contrast_and_ssim_does_not():
    one = spot(20, 20)[None]
    assert measures.correlation(one, one / 4) == pytest.approx(1)
    assert measures.similarity(one, one / 4) < 0.95


def test_pixels_that_are_zero_in_both_maps_do_not_overlap():
    assert measures.top_overlap(box(0, 0)[None], box(20, 20)[None]) == 0


@pytest.mark.parametrize("measure", HITS)
def test_a_map_equal_to_the_mask_hits_and_its_opposite_misses(measure):
    masks = np.stack([box(5, 5), box(20, 25, 6)])
    np.testing.assert_allclose(measure(masks.astype(float), masks), 1)
    assert (measure(1.0 - masks, masks) == 0).all()


def test_a_partial_hit_is_counted():
    maps, mask = box(5, 5)[None].astype(float), box(10, 5)[None]
    assert measures.energy_inside(maps, mask) == 0.5
    assert measures.pointing(maps, mask) == 0.5  # all pixels are equally bright
    assert measures.pointing(spot(7, 7)[None], mask) == 0
    flat = np.ones((1, SIZE, SIZE))
    assert measures.energy_inside(flat, mask) == mask.mean()


def test_entropy_runs_from_one_pixel_to_a_flat_map():
    maps = np.zeros((4, SIZE, SIZE))
    maps[0, 3, 4] = 1
    maps[1] = spot(20, 20, 3)
    maps[2] = spot(20, 20, 6)
    maps[3] = 0.7
    found = measures.entropy(maps)
    assert found[0] == 0 and found[3] == pytest.approx(1)
    assert (np.diff(found) > 0.05).all()


def test_area_is_the_share_that_reaches_half_of_the_maximum():
    rest = 1 - box(5, 5)
    maps = [box(5, 5), 0.6 * box(5, 5) + 0.2 * rest, 0.5 * box(5, 5) + rest, 0 * rest + 0.7]
    assert measures.area(np.stack(maps)) == pytest.approx([100 / SIZE**2] * 2 + [1, 1])
    # a round hill of width 4 falls to half at a radius of 4 * sqrt(2 log 2)
    expected = np.pi * 16 * 2 * np.log(2) / SIZE**2
    assert measures.area(spot(20, 20)[None]) == pytest.approx(expected, rel=0.05)
    assert (np.diff(measures.area(np.stack([spot(20, 20, w) for w in (2, 4, 6)]))) > 0).all()


@pytest.mark.parametrize("measure", PAIRS + HITS + FOCUS)
def test_invalid_maps_and_empty_masks_give_nan_and_leave_the_others_alone(measure):
    maps = np.stack([spot(10, 10)] * 3)
    maps[1], maps[2] = np.nan, 0
    partner = () if measure in FOCUS else (np.stack([box(5, 5)] * 3) / 1,)
    found = measure(maps, *partner)
    assert found.shape == (3,) and np.isnan(found).tolist() == [False, True, True]
    if measure in HITS:
        assert np.isnan(measure(maps[:1], np.zeros((1, SIZE, SIZE)))).all()
