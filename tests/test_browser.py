"""The explorer in a browser, as `make explore` serves it: all that can be chosen, and uploads."""

import json
import os
import signal
from pathlib import Path

import browsing
import numpy as np
import psutil
import pytest
import served
from PIL import Image

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def server(tmp_path_factory, out):
    """The command of `make explore`, with caches of its own and no data set."""
    private = {"MEDROBUST_HOME": tmp_path_factory.mktemp("home"), "MEDROBUST_DATA": ""}
    with served.started(ROOT, "--out", out, **private) as started:
        yield started


@pytest.fixture(scope="module")
def shared(tmp_path_factory, server):
    """One page for all tests: each puts it where it wants it."""
    with browsing.opened(tmp_path_factory.mktemp("profile"), server.url) as panel:
        yield panel


@pytest.fixture
def panel(shared):
    """The page, which must come through the test without an error of any kind."""
    yield shared
    assert shared.faults == []
    assert shared.abroad == []


def drawing(*shape):
    """Noise that PNG cannot shrink."""
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def keep_screenshots(page, name):
    """For human eyes, where MEDROBUST_SCREENSHOTS names a folder."""
    if folder := os.environ.get("MEDROBUST_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_the_page_opens_with_two_pictures_and_no_code(panel):
    assert len(panel.pictures()) == 2
    for photograph in panel.photographs():
        assert photograph.width > 400
        assert len(np.unique(photograph)) > 50, "the picture is blank"
    assert "import" not in panel.page.locator("body").inner_text()
    keep_screenshots(panel.page, "explorer-1280")


def test_pictures_stand_side_by_side_where_there_is_room_else_below_one_another(panel):
    left, right = panel.boxes()
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    panel.page.set_viewport_size({"width": 800, "height": 1000})
    # the page is laid out anew a moment later
    browsing.wait_for(lambda: len({one["x"] for one in panel.boxes()}) == 1, panel.boxes)
    upper, lower = panel.boxes()
    assert upper["y"] + upper["height"] <= lower["y"]
    overhang = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert panel.page.evaluate(overhang) <= 0, "the page must be scrolled sideways"
    keep_screenshots(panel.page, "explorer-800")
    panel.page.set_viewport_size({"width": 1280, "height": 1000})


@pytest.mark.parametrize(
    "name, option, blocks",
    [
        ("left", 1, 2),
        ("left", 0, 2),
        ("right", "none", 1),
        ("right", 1, 2),
        ("image", 3, 2),
        ("attack", 1, 2),
        ("class", "mel", 2),
        ("layer", 2, 2),
        ("map", "hirescam", 2),
    ],
)
def test_a_choice_changes_what_is_shown(panel, name, option, blocks):
    before = panel.pictures()
    shown = panel.choose(name, option)
    assert len(shown) == blocks
    assert shown != before


def test_the_slider_changes_what_is_shown(panel):
    pictures, before = panel.pictures(), panel.views()
    panel.press("ArrowRight")
    assert panel.settled(before) != pictures
    before = panel.views()
    panel.press("ArrowLeft")
    assert panel.settled(before) == pictures


def test_a_drag_over_all_values_ends_with_the_last_ones_picture(panel):
    """However late what came between arrives, the picture is that of the value on the slider."""
    before = panel.views()
    panel.press("End")
    last = panel.settled(before)
    before = panel.views()
    panel.press("Home")
    assert panel.settled(before) != last
    panel.drag()
    browsing.wait_for(lambda: panel.settled() == last, panel.status)
    assert panel.page.locator(".widget-hslider .widget-readout").inner_text() == "16"


def test_an_own_image_is_shown_and_what_was_done_to_it_is_said(panel, tmp_path):
    """Of 13 MB: more than Tornado's own limit."""
    before = panel.views()
    Image.fromarray(drawing(2100, 2100, 3)).save(tmp_path / "large.png")
    panel.upload(tmp_path / "large.png")
    panel.settled(before)
    assert panel.chosen("image") == "uploaded: large.png"
    assert "resized from 2100 x 2100" in panel.page.locator("body").inner_text()


def test_what_is_no_picture_is_refused_in_words_and_nothing_else_happens(panel, tmp_path):
    before, image = panel.pictures(), panel.chosen("image")
    (tmp_path / "notes.png").write_text("this is no picture")
    panel.upload(tmp_path / "notes.png")
    assert panel.refused().startswith("notes.png: ")
    assert (panel.pictures(), panel.chosen("image")) == (before, image)
    keep_screenshots(panel.page, "refused")
    panel.choose("image", 4)


def test_a_view_is_saved_with_its_numbers(panel, out):
    panel.click("save this view")
    browsing.wait_for(lambda: "Saved" in panel.status()[1])
    (picture,) = (out / "views").glob("*.png")
    with Image.open(picture) as image:
        image.load()
        assert image.width > 1000
    record = json.loads(picture.with_suffix(".json").read_text())
    assert len(record["records"]) == 2
    assert str(picture) in panel.status()[1]


def test_another_paper_brings_its_own_networks_images_and_attacks(panel):
    *_, segmentation = papers = panel.options("paper")
    assert len(papers) == 4
    before = {name: panel.options(name) for name in ("left", "image", "attack", "class")}
    panel.choose("paper", segmentation)
    assert panel.chosen("paper") == segmentation
    assert all(panel.options(name) != options for name, options in before.items())
    assert "dice" in panel.page.locator("table").inner_text()
    keep_screenshots(panel.page, "segmentation")


def test_a_second_visitor_has_a_kernel_of_its_own_until_the_page_is_closed(shared, server):
    def kernels():
        return [one for one in server.process.children() if one.is_running()]

    assert len(kernels()) == 1
    page = shared.page.context.new_page()
    panel = browsing.Panel(page, server.url)
    assert len(kernels()) == 2
    page.close(run_before_unload=True)
    browsing.wait_for(lambda: len(kernels()) == 1)
    assert panel.faults == shared.faults == []


def test_ctrl_c_ends_the_server_and_its_kernels(shared, server, out):
    children = server.process.children(recursive=True)
    assert children
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(browsing.SECONDS) == 0
    assert psutil.wait_procs(children, timeout=browsing.SECONDS)[1] == []
    assert not list(server.temporary.glob("medrobust-*")), "left behind"
    assert {path.name for path in out.iterdir()} <= {"views"}
