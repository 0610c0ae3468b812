"""Figures of study 4, drawn from small tables and label maps that were made by hand."""

import matplotlib.colors as colours
import numpy as np
import pandas as pd
import pytest

from medrobust_utils.core.losses import IGNORED
from medrobust_utils.studies import unet_adversarial_plots as figures
from medrobust_utils.studies.unet_adversarial import SCHEMES
from medrobust_utils.studies.unet_adversarial_attack import (
    BACKGROUND,
    CLEAN,
    PER_STEP,
    TRANSFERRED,
    WORST,
    attacks,
)

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


def test_every_way_of_being_tested_has_a_title():
    settings = {"attack": {"eps": 0.01, "steps": 2}}
    assert set(figures.CELLS) == {CLEAN, TRANSFERRED, WORST, *attacks(settings)}
    assert len(set(figures.CELLS.values())) == len(figures.CELLS)


def test_rows_are_titled_in_the_order_of_the_cells_and_others_are_left_out():
    table = pd.DataFrame(
        [WORST._asdict(), CLEAN._asdict(), PER_STEP._asdict(), dict(attack=None), CLEAN._asdict()]
    ).assign(value=[1, 2, 3, 4, 5])
    found = figures.tested(table)
    titles = [figures.CELLS[cell] for cell in (CLEAN, CLEAN, PER_STEP, WORST)]
    assert list(found["label"]) == titles
    assert list(found["value"]) == [2, 5, 3, 1]


def test_nothing_to_title_is_nothing():
    table = pd.DataFrame([BACKGROUND._asdict()]).assign(value=1)
    assert not len(figures.tested(table[table["value"].gt(1)]))


def test_pictures_stand_where_they_were_put():
    rows = [[IMAGE, label_map()], [None, 0 * label_map()]]
    figure = figures.pictures(rows, ["image", "truth"], CLASSES, ["one", "two"])
    first, truth, nothing, empty = figure.axes
    assert [first.get_title(), truth.get_title(), nothing.get_title()] == ["image", "truth", ""]
    assert [first.get_ylabel(), nothing.get_ylabel()] == ["one", "two"]
    assert np.array_equal(first.images[0].get_array(), IMAGE)
    assert not nothing.images
    shown = truth.images[0]
    assert np.array_equal(shown.get_array(), np.where(label_map() == IGNORED, 0, label_map()))
    for kind, colour in enumerate(figures.CLASS_COLOURS):
        assert shown.cmap(shown.norm(kind)) == pytest.approx(colours.to_rgba(colour))
    assert empty.images[0].get_array().max() == 0


def test_a_class_carries_its_number_inside_its_largest_area():
    (axis,) = figures.pictures([[label_map()]], ["truth"], CLASSES).axes
    (number,) = axis.texts
    x, y = number.get_position()
    assert number.get_text() == "2", "a speck of class 5 has no room for its number"
    assert (3 < x < 7) and (2 < y < 8), "not at the rim, and not in the small area"


def test_ignored_pixels_are_hatched_and_named():
    (axis,) = figures.pictures([[label_map()]], ["truth"], CLASSES).axes
    (area,) = axis.collections
    assert set(area.hatches) == {"xxxx"}
    (legend,) = axis.figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words == [*[f"{k} {name}" for k, name in enumerate(CLASSES)], "nobody can say"]


def test_without_ignored_pixels_or_maps_the_legend_is_shorter():
    known = np.where(label_map() == IGNORED, 0, label_map())
    figure = figures.pictures([[known]], ["truth"], CLASSES)
    assert len(figure.legends[0].get_texts()) == len(CLASSES)
    assert not figures.pictures([[IMAGE]], ["image"], CLASSES).legends


def test_images_are_left_out_with_the_rows_and_columns_they_filled():
    one, two = label_map(), 0 * label_map()
    rows = [[IMAGE, IMAGE, IMAGE], [IMAGE, one, two], [None, two, IMAGE]]
    found, titles, labels = figures.without_images(rows, ["a", "b", "c"], ["x", "y", "z"])
    assert (titles, labels) == (["b", "c"], ["y", "z"])
    assert [[None if p is None else int(p.max()) for p in row] for row in found] == [
        [IGNORED, 0],
        [0, None],
    ]
    assert figures.without_images([[IMAGE]], ["a"]) == ([], [], [])
    kept, titles, _ = figures.without_images([[one, two]], ["truth", "clean"])
    assert titles == ["clean"] and kept[0][0] is two, "outlines that people drew are no answer"
    assert figures.without_images(rows, ["a", "b", "c"])[2] == []


def test_shares_have_a_bar_a_class_and_side_told_by_hatch_too():
    table = pd.DataFrame(
        [
            dict(kind=kind, side=side, value=value)
            for side, values in {"train": (0.8, 0.2), "test": (0.9, 0.1)}.items()
            for kind, value in zip(("background", "neoplastic"), values, strict=True)
        ]
    )
    (axis,) = figures.shares(table).axes
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["train", "test"]
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers]
    assert widths == [pytest.approx([0.8, 0.2]), pytest.approx([0.9, 0.1])]
    assert len({bars[0].get_hatch() for bars in axis.containers}) == 2


def test_a_ring_marks_the_epoch_that_was_kept():
    def history(*losses):
        return [dict(epoch=1 + k, val_loss=loss) for k, loss in enumerate(losses)]

    runs = {"clean": [history(3, 1, 2), history(2, 2, 1)], "union": [history(5)]}
    figure = figures.curves(runs, {"clean": [3, 1], "union": [1]})
    first, second = figure.axes
    assert [axis.get_title() for axis in figure.axes] == [
        figures.NAMES["clean"],
        figures.NAMES["union"],
    ]
    curve, ring, other, other_ring = first.lines
    assert list(curve.get_xdata()) == [1, 2, 3]
    assert list(curve.get_ydata()) == [3, 1, 2] and list(other.get_ydata()) == [2, 2, 1]
    assert curve.get_linestyle() != other.get_linestyle()
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (3, 2)
    assert (other_ring.get_xdata()[0], other_ring.get_ydata()[0]) == (1, 2)
    assert len(second.lines) == 2


def test_candidates_are_all_counted_and_marks_stand_at_their_losses():
    losses = np.linspace(1, 2, 729)
    (axis,) = figures.candidates(losses, {"as it came": 1.5, "least": 1.0}).axes
    assert sum(bar.get_height() for bar in axis.patches) == 729
    assert [line.get_xdata()[0] for line in axis.lines] == [1.5, 1.0]
    assert len({line.get_linestyle() for line in axis.lines}) == 2


def test_signs_share_a_scale_and_say_their_share():
    table = pd.DataFrame([[0.1, 0.2, 0.7], [0.0, 1.0, 0.0]], ["a", "b"], [-1, 0, 1])
    figure = figures.signs({"seed 1": table, "seed 2": table})
    assert [axis.get_title() for axis in figure.axes] == ["seed 1", "seed 2"]
    for axis in figure.axes:
        assert axis.collections[0].get_clim() == (0, 1)
        assert [text.get_text() for text in axis.texts][:3] == ["0.10", "0.20", "0.70"]


def test_costs_count_gradients_and_evaluations_together():
    table = pd.DataFrame(
        [
            dict(method="layered", classes=k, gradients=100 * k, evaluations=0, seconds=k)
            for k in (1, 2)
        ]
        + [
            dict(method="selective", classes=k, gradients=k, evaluations=3**k, seconds=3**k)
            for k in (1, 2)
        ]
    )
    passes, seconds = figures.costs(table).axes
    assert passes.get_yscale() == seconds.get_yscale() == "log"
    drawn = [list(line.get_ydata()) for line in passes.lines]
    assert drawn == [[100, 200], [4, 11]]
    assert [list(line.get_ydata()) for line in seconds.lines] == [[1, 2], [3, 9]]
    words = [text.get_text() for text in passes.get_legend().get_texts()]
    assert words == ["layered (method one)", "selective (method two)"]


def test_networks_and_sides_have_markers_of_their_own():
    table = pd.DataFrame(
        [dict(label="clean", scheme=scheme, value=0.5, low=0.4, high=0.6) for scheme in SCHEMES]
    )
    figure = figures.dots({"mean IoU": table}, "share", line=0.0)
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == list(figures.NAMES.values())
    theirs = dict(label="1", side="paper", value=0.8, low=None, high=None)
    both = pd.DataFrame([theirs, dict(label="1", side="ours", value=0.7, low=0.6, high=0.9)])
    (axis,) = figures.beside({"accuracy": both}, ["share"]).axes
    points = {bars[0].get_xdata()[0]: bars[2][0].get_segments()[0] for bars in axis.containers}
    assert list(points[0.8][:, 0]) == pytest.approx([0.8, 0.8]), "the paper gives no interval"
    assert list(points[0.7][:, 0]) == pytest.approx([0.6, 0.9])
