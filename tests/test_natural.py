"""The photographs are the packages' own, cropped where they say, and never fetched."""

import socket

import numpy as np
import pytest
from skimage import data as scikit
from sklearn.datasets import load_sample_image

from medrobust_utils.data import photographs


def test_forty_crops_of_eight_photographs():
    photos = photographs.natural_photos(48)
    assert photos.images.shape == (40, 48, 48, 3) and photos.images.dtype == np.uint8
    assert photos.name == "natural-photographs" and photos.complete and not photos.synthetic
    assert photos.class_counts() == {"photograph": 40}
    assert photos.ids[:2] == ("astronaut/centre", "astronaut/top-left")
    names = np.array([name.split("/")[0] for name in photos.ids])
    same = photos.groups[:, None] == photos.groups
    assert (same == (names[:, None] == names)).all() and len(set(names)) == 8
    flat = photos.images.reshape(40, -1).astype(float)
    assert len(np.unique(flat, axis=0)) == 40 and (flat.std(1) > 10).all()


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("camera", lambda: scikit.camera()[:, :, None].repeat(3, 2)),
        ("china", lambda: load_sample_image("china.jpg")),
    ],
)
def test_crops_lie_where_their_names_say(name, whole):
    whole = whole()
    height, width = whole.shape[:2]
    side = round(0.75 * min(height, width))
    photos = photographs.natural_photos(side)  # the size of this crop: it is not resized
    for place, top, left in (
        ("top-left", 0, 0),
        ("top-right", 0, width - side),
        ("bottom-left", height - side, 0),
        ("bottom-right", height - side, width - side),
        ("centre", round((height - side) / 2), round((width - side) / 2)),
    ):
        found = photos.images[photos.ids.index(f"{name}/{place}")]
        assert (found == whole[top : top + side, left : left + side]).all(), place


def test_nothing_is_fetched(monkeypatch):
    def refuse(*args, **how):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(scikit._fetchers, "_fetch", refuse)
    assert len(photographs.natural_photos(8)) == 40
