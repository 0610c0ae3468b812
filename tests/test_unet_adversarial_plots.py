"""Figures of study 4, drawn from small tables and label maps that were made by hand."""

import matplotlib.colors as colours
import numpy as np

from medrobust_utils.core.losses import IGNORED
from medrobust_utils.studies import unet_adversarial_plots as figures
from medrobust_utils.studies.unet_adversarial import SCHEMES

CLASSES = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")
IMAGE = np.full((16, 16, 3), 0.5)


def label_map():
    """A large and a small area of class 2, a speck of class 5, two pixels nobody can name."""
    found = np.zeros((16, 16), np.uint8)
    found[2:9, 3:8] = 2
    found[12:15, 12:15] = 2
    found[0, 0] = 5
    found[15, :2] = IGNORED
    return found


def lightness(colour):
    """L* (CIE 1976) of a colour: what a gray print keeps of it."""
    parts = np.array(colours.to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 116 * (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3) - 16


def test_classes_are_told_apart_in_gray():
    steps = np.diff([lightness(colour) for colour in figures.CLASS_COLOURS])
    assert len(figures.CLASS_COLOURS) == len(CLASSES)
    assert (steps < -10).all(), "each class is clearly darker than the one before"


def test_no_two_networks_look_alike():
    for looks in (figures.LOOKS, figures.SIDE_LOOKS):
        assert len({marker for marker, _, _ in looks.values()}) == len(looks)
    assert tuple(figures.NAMES) == SCHEMES and set(figures.LOOKS) == set(SCHEMES)
    assert set(figures.SIDES) == set(figures.SIDE_LOOKS)


def test_ignored_pixels_are_hatched_and_named():
    (axis,) = figures.pictures([[label_map()]], ["truth"], CLASSES).axes
    (area,) = axis.collections
    assert set(area.hatches) == {"xxxx"}
    (legend,) = axis.figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == [*[f"{k} {name}" for k, name in enumerate(CLASSES)], "nobody can say"]
