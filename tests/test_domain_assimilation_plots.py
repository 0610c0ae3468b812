"""Figures of study 3, drawn from small tables of rows that were made by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from medrobust_utils.plots import glcm_plots
from medrobust_utils.studies import domain_assimilation_plots as figures

EPS = (1.0, 2.0, 4.0)
DEFENCES = {"none": 0.1, "glcm": 0.3, "adversarial": 0.5}  # what is left under every attack


def attacked():
    """``accuracy_attacked`` rows of three networks, 0.9 before the attack."""
    table = []
    for defence, left in DEFENCES.items():
        cells = [(("none", "none"), 0.0, 0.9)]
        cells += [(cell, eps, left / eps) for cell in figures.CELLS for eps in EPS]
        for (attack, step), eps, value in cells:
            table.append(
                {
                    "attack": attack,
                    "step": step,
                    "eps_255": eps,
                    "defence": defence,
                    "value": value,
                    "low": value - 0.05,
                    "high": value + 0.05,
                }
            )
    return pd.DataFrame(table)


def curves(axis):
    return {line.get_label(): line for line in axis.lines}


def test_the_slides_figure_has_a_panel_an_attack_and_a_curve_a_defence():
    table = attacked()
    figure = figures.by_eps(table.sample(frac=1, random_state=0), majority=0.5)
    assert [axis.get_title() for axis in figure.axes] == list(figures.CELLS.values())
    for axis in figure.axes:
        drawn = curves(axis)
        for defence, left in DEFENCES.items():
            line = drawn[figures.NAMES[defence]]
            assert list(line.get_xdata()) == [0, *EPS]
            assert list(line.get_ydata()) == pytest.approx([0.9, *[left / eps for eps in EPS]])
        assert set(drawn["constant answer"].get_ydata()) == {0.5}
        bands = [band.get_paths()[0].vertices[:, 1] for band in axis.collections]
        assert [band.min() for band in bands] == pytest.approx(
            [left / EPS[-1] - 0.05 for left in DEFENCES.values()]
        )
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [*[figures.NAMES[name] for name in DEFENCES], "constant answer"]


def test_an_attack_that_was_not_run_has_no_panel():
    table = attacked()
    figure = figures.by_eps(table[~table["step"].eq("torchattacks")])
    titles = [title for (_, step), title in figures.CELLS.items() if step != "torchattacks"]
    assert [axis.get_title() for axis in figure.axes] == titles
    below = [axis.get_title() for axis in figure.axes if axis.get_xlabel()]
    assert below == titles[-3:], "an axis with nothing below it says what it shows"


def test_small_eps_stand_on_a_log_scale_beside_the_slides_smallest():
    table = attacked()
    table = table[table["attack"].isin(["none", "fgsm"])]
    small = table[table["eps_255"].eq(1)].assign(eps_255=0.25, value=0.8)
    vanilla = small[small["defence"].eq("none")]
    figure = figures.below({"mri": vanilla, "ct": pd.concat([table, small])})
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [figures.NAMES[name] for name in DEFENCES], "of all panels, not the first"
    axis = figure.axes[1]
    line = curves(axis)[figures.NAMES["glcm"]]
    assert axis.get_xscale() == "log"
    assert list(line.get_xdata()) == [0.125, 0.25, *EPS], "0 has a place of its own"
    assert list(line.get_ydata())[:2] == [0.9, 0.8]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [
        "0",
        "0.25",
        "0.5",
        "1",
        "2",
        "4",
    ]
    assert [1, 1] in [list(line.get_xdata()) for line in axis.lines]


def test_vanilla_is_dashed_assimilated_solid_and_no_two_look_alike():
    looks = list(figures.LOOKS.values())
    assert (figures.LOOKS["none"][1], figures.LOOKS["glcm"][1]) == ("--", "-")
    assert set(figures.LOOKS) == set(figures.NAMES)
    assert len({marker for marker, _, _ in looks}) == len(looks)
    drawn = figures.by_eps(attacked()).axes[0].lines
    assert len({(line.get_marker(), line.get_linestyle()) for line in drawn}) == len(DEFENCES)


def rows_of(**values):
    """One line a label and defence, written ``label__defence=(value, low, high)``."""
    table = []
    for key, (value, low, high) in values.items():
        label, defence = key.split("__")
        table.append(dict(label=label, defence=defence, value=value, low=low, high=high))
    return pd.DataFrame(table)


def test_dots_stand_at_their_label_with_their_interval_and_do_not_hide_each_other():
    table = rows_of(ct__none=(0.5, 0.4, 0.7), ct__glcm=(0.6, 0.5, 0.8), mri__glcm=(0.9, None, None))
    axis = figures.dots({"clean": table}, "accuracy", line=0.0).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["ct", "mri"]
    found = {}
    for container in axis.containers:
        points, _, (bars,) = container
        spans = [tuple(part[:, 0]) for part in bars.get_segments()]
        for x, y, span in zip(points.get_xdata(), points.get_ydata(), spans, strict=True):
            found[x] = (y, span)
    assert found[0.5][1] == pytest.approx((0.4, 0.7))
    assert found[0.9][1] == pytest.approx((0.9, 0.9)), "a row without interval is exact"
    assert [round(found[x][0]) for x in (0.5, 0.6, 0.9)] == [0, 0, 1]
    assert found[0.5][0] != found[0.6][0]
    assert axis.get_ylim()[0] > axis.get_ylim()[1], "the first label is on top"


def test_dots_have_a_panel_a_table_and_name_each_defence_once():
    one, two = rows_of(a__none=(1, 0, 2)), rows_of(b__none=(3, 2, 4), b__glcm=(5, 4, 6))
    three = rows_of(c__glcm=(7, 6, 8))
    figure = figures.dots({"1": one, "2": two, "3": three}, ["x", "y", "z"], columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["1", "2", "3"]
    assert [axis.get_xlabel() for axis in figure.axes] == ["x", "y", "z"]
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [figures.NAMES["none"], figures.NAMES["glcm"]]


def test_a_term_without_gradient_is_missing_from_the_log_scale_not_drawn_at_its_floor():
    history = [dict(epoch=k, entropy_gradient=2.0 * k, glcm_gradient=0.0) for k in (1, 2, 3)]
    (axis,) = figures.pull({"ct": history}).axes
    drawn = curves(axis)
    assert axis.get_yscale() == "log"
    assert list(drawn["cross-entropy"].get_ydata()) == [2, 4, 6]
    assert np.isnan(drawn["GLCM loss"].get_ydata()).all()


def test_an_area_shows_the_level_of_every_pixel_and_every_count():
    levels = np.array([[0, 1, 1], [3, 3, 0]])
    counts = np.zeros((4, 4))
    counts[0, 1], counts[3, 0] = 5, 7
    pixels, numbers, matrix = glcm_plots.one_area(levels / 3, levels, counts).axes
    assert [text.get_text() for text in numbers.texts] == ["0", "1", "1", "3", "3", "0"]
    places = {(text.get_position(), text.get_text()) for text in matrix.texts}
    assert {((1, 0), "5"), ((0, 3), "7")} <= places, "rows are the first pixel"
    assert not pixels.texts


def test_matrices_share_one_colour_scale():
    figure = glcm_plots.heat_maps({"a": np.eye(2), "b": 3 * np.eye(2)}, "share")
    images = [axis.images[0] for axis in figure.axes if axis.images]
    assert [image.get_clim() for image in images] == [(0, 3), (0, 3)]
    assert [axis.get_title() for axis in figure.axes if axis.images] == ["a", "b"]


def test_every_level_has_its_line_and_its_number():
    values = np.linspace(0, 1, 5)
    shares = np.stack([1 - values, values], 1)
    (axis,) = glcm_plots.memberships(values, {"soft": shares}).axes
    assert [text.get_text() for text in axis.texts] == ["0", "1"]
    assert [text.get_position()[0] for text in axis.texts] == [0, 1]
    assert np.array([line.get_ydata() for line in axis.lines]) == pytest.approx(shares.T)


def test_the_worst_area_is_framed():
    sums = np.array([[1.0, 2.0, 3.0], [9.0, 4.0, 5.0]])
    axes = glcm_plots.row_sums(np.zeros((4, 6)), np.ones((4, 6)), sums).axes
    (frame,) = axes[2].patches
    assert frame.get_xy() == (-0.5, 0.5)


def test_the_loss_is_drawn_against_gray_levels_beside_the_border_of_a_wrong_answer():
    changes = np.array([0.0, 4.0, 8.0])
    courses = {
        "none": {"FGSM": changes / 8, "BIM": changes},
        "glcm": {"FGSM": 0 * changes, "BIM": changes},
    }
    panels = figures.loss_along(changes, courses).axes
    assert [axis.get_title() for axis in panels] == [figures.NAMES[name] for name in courses]
    drawn = curves(panels[0])
    assert list(drawn["FGSM"].get_ydata()) == [0, 0.5, 1]
    assert set(drawn["above: wrong answer"].get_ydata()) == {np.log(2)}
    assert drawn["FGSM"].get_linestyle() != drawn["BIM"].get_linestyle()
    assert list(curves(panels[1])["FGSM"].get_ydata()) == [0, 0, 0]


def test_surfaces_share_a_scale_and_the_border_is_drawn_only_where_there_is_one():
    changes = np.linspace(-8, 8, 5) / 255
    steep = np.abs(np.add.outer(changes, changes)) * 100
    figure = figures.surfaces({"steep": (changes, steep), "flat": (changes, steep / 1000)})
    panels = [axis for axis in figure.axes if axis.get_title()]
    meshes = [axis.collections[0] for axis in panels]
    assert [mesh.get_clim() for mesh in meshes] == [(0, steep.max())] * 2
    assert [len(axis.collections) for axis in panels] == [2, 1]
    assert panels[0].get_xlim() == pytest.approx((-8, 8))


def test_stretching_treats_every_image_and_channel_by_itself():
    images = torch.tensor([[[[0.2, 0.4]], [[0.5, 0.6]]], [[[0.3, 0.3]], [[0.0, 1.0]]]])
    out = figures.stretched(images)
    assert torch.allclose(out[0], torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]]))
    assert torch.allclose(out[1, 0], torch.zeros(1, 2)), "an even channel stays even"
    assert torch.allclose(out[1, 1], images[1, 1])


def row(**changes):
    usual = dict(defence="glcm", alpha=0.9, colour="conv", rows="areas")
    return SimpleNamespace(**usual | changes)


SETTINGS = {"alpha": 0.9, "glcm": {"rows": "areas"}}


@pytest.mark.parametrize(
    ("changes", "expected", "label"),
    [
        ({}, True, "alpha 0.9"),
        ({"defence": "modules", "alpha": 1.0, "rows": "none"}, True, "no GLCM loss"),
        ({"alpha": 0.5}, False, "alpha 0.5"),
        ({"colour": "deconv"}, False, "alpha 0.9, deconv"),
        ({"rows": "orientations"}, False, "alpha 0.9, orientations"),
    ],
)
def test_what_is_special_about_a_network_is_said(changes, expected, label):
    assert figures.usual(row(**changes), SETTINGS) is expected
    assert figures.variant(row(**changes)) == label


def test_vanilla_is_usual_and_a_row_of_no_network_is_not():
    vanilla = row(defence="none", alpha=1.0, colour="none", rows="none")
    majority = row(defence="majority", alpha=np.nan, colour=np.nan, rows=np.nan)
    assert figures.usual(vanilla, SETTINGS) is True
    assert figures.usual(majority, SETTINGS) is False
