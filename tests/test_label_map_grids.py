"""Label maps beside their images, drawn from small maps that were made by hand."""

import matplotlib.colors as colours
import numpy as np

from medrobust_utils.core.losses import IGNORED
from medrobust_utils.plots import images

CLASSES = ("background", "neoplastic", "inflammatory", "connective", "epithelial", "other")


def lightness(colour):
    """L* (CIE 1976) of a colour: what a gray print keeps of it."""
    parts = np.array(colours.to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 116 * (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3) - 16


def test_classes_are_told_apart_in_gray():
    steps = np.diff([lightness(colour) for colour in images.CLASS_COLOURS])
    assert (steps < -10).all(), "each class is clearly darker than the one before"


def test_the_largest_area_has_its_number_and_ignored_pixels_are_hatched():
    drawn = np.zeros((16, 16), np.uint8)
    drawn[2:9, 3:8] = drawn[12:15, 12:15] = 2
    drawn[0, 0] = 5  # a speck, too small for a number
    drawn[15, :2] = IGNORED
    rows = {"image": [np.full((16, 16, 3), 0.5), None], "truth": [drawn, drawn]}
    figure = images.label_maps(rows, ["one", "two"], CLASSES)
    above, empty, below, _ = figure.axes
    assert (above.get_title(), below.get_ylabel()) == ("one", "truth") and not empty.get_visible()
    (area,) = below.collections
    (number,) = below.texts
    x, y = number.get_position()
    assert set(area.hatches) == {"xxxx"} and number.get_text() == "2" and drawn[round(y), round(x)]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [*[f"{k} {name}" for k, name in enumerate(CLASSES)], "ignored"]
