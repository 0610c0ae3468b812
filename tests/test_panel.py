"""The explorer's panel: every control, what people drop on it, and what must never happen."""

import io
import json

import drive
import numpy as np
import pytest
import scenes
from drive import BROKEN, CHEST, SKIN, TISSUE, FakeIndex, click, drop, pictures, said
from PIL import Image

from medrobust_utils.explorer import look, panel
from medrobust_utils.explorer.panel import Explorer

HOSTILE = "<img src=x onerror=alert(1)>" + "a" * 500 + "\x00\n.png"


def opened(out, entry=SKIN):
    return Explorer(FakeIndex(), out, entry).show()


@pytest.fixture
def explorer(tmp_path):
    return opened(tmp_path)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), float)


def test_it_opens_on_two_networks_with_something_to_see(explorer):
    shown = pictures(explorer)
    assert len(shown) == 2 and shown[0] != shown[1] and said(explorer) == ("Done.", "done")
    assert all(pixels(png).std() > 20 and pixels(png).shape[1] >= 600 for png in shown)
    names = [network.name for network in scenes.single_label().networks]
    assert [one["network"] for one in explorer.records] == names
    assert all(name in explorer.numbers.value for name in names)
    assert explorer.progress.layout.display == "none"


def test_all_that_could_be_chosen_can_be_chosen(explorer):
    lists = ("paper", "data", "image", "left", "right", "attack", "class", "layer", "map")
    assert tuple(explorer.lists) == lists
    assert [one.description for one in (explorer.eps, explorer.upload, explorer.save)] == [
        *("eps (1/255)", "own image", "save this view")
    ]
    assert len(explorer.eps.options) == 33, "the clean image and 32 radii"
    offered = {name: [text for text, _ in one.options] for name, one in explorer.lists.items()}
    assert offered["attack"] == ["PGD", "random noise", "MI-FGSM", "BIM", "FGSM"]
    assert offered["map"] == ["grad-cam", "grad-cam++", "hirescam", "layercam"]
    assert offered["class"][:3] == ["what it answers", "the image's label", "akiec"]
    assert offered["image"] == list(scenes.single_label().names)
    assert offered["right"] == ["none", *offered["left"]]
    click(explorer.lists["paper"], "U-Net")
    attacks = [text for text, _ in explorer.lists["attack"].options]
    assert attacks == ["PGD to the background", "SegPGD", "PGD", "random noise"]


@pytest.mark.parametrize("name", ["left", "image", "attack", "class", "layer", "map"])
def test_a_choice_changes_the_picture(explorer, name):
    before, views = pictures(explorer), explorer.views
    label = explorer.lists[name].options[-1][0]
    click(explorer.lists[name], label)
    assert pictures(explorer)[0] != before[0] and explorer.views == views + 1
    assert explorer.lists[name].label == label and said(explorer)[1] == "done"


def test_the_slider_only_looks_up(explorer, monkeypatch):
    monkeypatch.setattr(scenes.MedicalModel, "forward", None)
    seen = set()
    for place, (label, _) in list(enumerate(explorer.eps.options))[::4]:
        explorer.eps.set_state({"index": place})
        assert {one["eps_255"] for one in explorer.records} == {look.LEVELS[place]}
        assert float(label) == pytest.approx(look.LEVELS[place], rel=0.01)
        seen.add(pictures(explorer)[0])
    assert len(seen) == 9 and said(explorer)[1] == "done"


def test_the_right_side_can_be_empty_and_comes_back(explorer):
    left, right = pictures(explorer)
    click(explorer.lists["right"], "none")
    assert pictures(explorer) == [left] and len(explorer.records) == 1
    click(explorer.lists["right"], "adversarial training")
    assert pictures(explorer) == [left, right]


def test_the_layers_on_offer_are_those_of_the_left_network(explorer):
    explorer.lists["layer"].set_state({"index": len(explorer.lists["layer"].options) - 1})
    click(explorer.lists["left"], "adversarial training")
    scene = scenes.single_label()
    offered = [value for _, value in explorer.lists["layer"].options if value]
    assert offered == list(look.layers(scene, scene.networks[1]))
    assert explorer.lists["layer"].value == ""  # the other network had no layer of that name


def test_other_data_and_another_paper_fill_the_lists(explorer):
    click(explorer.lists["attack"], "random noise")
    click(explorer.lists["data"], CHEST.title)
    chest = scenes.multi_label()
    assert [label for label, _ in explorer.lists["image"].options] == list(chest.names)
    assert explorer.records[0]["data"] == chest.data.name
    assert dict(explorer.lists["class"].options).keys() >= set(chest.data.classes)
    click(explorer.lists["paper"], "U-Net")
    assert [label for label, _ in explorer.lists["data"].options] == [TISSUE.title]
    assert explorer.lists["attack"].value == "noise", "an attack that fits stays"
    assert "dice" in explorer.numbers.value


def test_data_that_cannot_be_opened_is_a_sentence_and_all_stays(explorer, tmp_path):
    shown = pictures(explorer)
    click(explorer.lists["data"], BROKEN.title)
    words = "skin-vanilla: its weights are missing. Run the notebook again."
    assert said(explorer) == (words, "refused")
    assert explorer.lists["data"].value == SKIN and pictures(explorer) == shown
    explorer.eps.set_state({"index": 3})
    assert said(explorer)[1] == "done"
    nothing = opened(tmp_path, BROKEN)  # but other data can be chosen
    assert said(nothing) == (words, "refused") and not pictures(nothing)
    nothing.save.click()
    assert said(nothing)[0].startswith("There is no picture yet") and not list(tmp_path.iterdir())
    drop(nothing.upload, "a.png", drive.a_file())
    assert said(nothing)[1] == "refused"
    click(nothing.lists["data"], CHEST.title)
    assert len(pictures(nothing)) == 2


def test_what_nobody_thought_of_is_a_sentence_as_well(explorer, monkeypatch, capfd):
    def burst(*args, **how):
        raise ZeroDivisionError("<b>by zero</b>")

    shown = pictures(explorer)
    monkeypatch.setattr(panel, "look", burst)
    explorer.eps.set_state({"index": 3})
    text, kind = said(explorer)
    assert kind == "refused" and "unexpected" in text and "ZeroDivisionError" in text
    assert "<b>" not in text and pictures(explorer) == shown
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("entry", [SKIN, CHEST, TISSUE])
@pytest.mark.parametrize(
    "mode, words", [("RGB", ""), ("L", ""), ("I;16", "becomes black to white")]
)
def test_an_own_image_is_looked_at_with_a_word_about_it(tmp_path, entry, mode, words):
    explorer = opened(tmp_path, entry)
    before = pictures(explorer)
    drop(explorer.upload, "mine.png", drive.a_file(mode, (64, 70)))
    assert explorer.lists["image"].label == "uploaded: mine.png"
    assert pictures(explorer)[0] != before[0] and explorer.records[0]["label"] is None
    assert "squeezed" in said(explorer)[0] and words in explorer.numbers.value
    assert panel.files(explorer.upload.value) == []  # the button forgets it
    click(explorer.lists["class"], "the image's label")
    assert any("no label" in note for note in explorer.records[0]["notes"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.png", b"just a text"),
        ("half.png", drive.a_file()[:600]),
        ("scan.dcm", bytes(128) + b"DICM" + bytes(500)),
    ],
)
def test_a_wrong_file_is_refused_and_all_stays(explorer, name, content):
    before, choices = pictures(explorer), explorer.lists["image"].options
    drop(explorer.upload, name, content)
    text, kind = said(explorer)
    assert kind == "refused" and text.startswith(f"{name}: ") and "unexpected" not in text
    assert pictures(explorer) == before and explorer.lists["image"].options == choices
    drop(explorer.upload, "good.png", drive.a_file())
    assert pictures(explorer) != before


def test_names_are_text_and_never_markup(explorer):
    drop(explorer.upload, HOSTILE, b"nonsense")
    assert "<img" not in explorer.status.value and len(said(explorer)[0]) < 400
    drop(explorer.upload, HOSTILE, drive.a_file("L"))
    assert "<img" not in explorer.status.value + explorer.numbers.value
    explorer.save.click()
    assert [one.suffix for one in sorted((explorer.out / "views").iterdir())] == [".json", ".png"]
    hostile = explorer.records[0] | {"network": "<i>a</i>", "notes": ["<b>bold</b>"]}
    html = panel.table([hostile, hostile])
    assert "<i>" not in html and "<b>" not in html


def test_both_forms_of_an_upload_are_understood():
    new = ({"name": "a.png", "type": "", "size": 3, "content": memoryview(b"abc")},)
    old = {"a.png": {"metadata": {"name": "a.png"}, "content": b"abc"}}
    assert panel.files(new) == panel.files(old) == [("a.png", b"abc")]
    assert panel.files(()) == panel.files({}) == []


def test_a_view_is_saved_as_it_is_on_show(explorer):
    explorer.save.click()
    folder = explorer.out / "views"
    numbers, png = sorted(folder.iterdir())
    assert (numbers.suffix, png.suffix, png.stem) == (".json", ".png", numbers.stem)
    assert str(png) in said(explorer)[0] and list(explorer.out.iterdir()) == [folder]
    shown = [pixels(one) for one in pictures(explorer)]
    # drawn as one figure, so the rims of letters may differ
    assert np.abs(pixels(png.read_bytes()) - np.concatenate(shown, 1)).mean() < 2
    found = json.loads(numbers.read_text("utf-8"))
    assert found["schema"] == panel.SCHEMA and found["records"] == explorer.records
    assert found["provenance"]["versions"]["torch"]
    explorer.save.click()
    assert len(list(folder.iterdir())) == 2  # the same view has the same name
    explorer.eps.set_state({"index": 28})
    explorer.save.click()
    assert len(list(folder.iterdir())) == 4


def test_where_nothing_can_be_written_a_sentence_says_so(explorer):
    (explorer.out / "views").write_text("a file in the way")
    explorer.save.click()
    text, kind = said(explorer)
    assert kind == "refused" and "cannot be written" in text and "OUT" in text


def test_many_random_clicks_leave_no_trouble(explorer):
    rng, trouble = np.random.default_rng(0), []
    widgets = [*explorer.lists.values(), *explorer.lists.values(), explorer.eps]
    widgets += [explorer.upload, explorer.save]
    explorer.status.observe(lambda change: trouble.append(change.new), "value")
    for _ in range(15):
        widget = widgets[rng.integers(len(widgets))]
        if widget is explorer.save:
            widget.click()
        elif widget is explorer.upload:
            content = drive.a_file(("L", "RGB")[rng.integers(2)])[: rng.choice([400, 100000])]
            drop(widget, "mine.png", content)
        else:
            widget.set_state({"index": int(rng.integers(len(widget.options)))})
    assert not [text for text in trouble if "unexpected" in text]
