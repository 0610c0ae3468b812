"""The explorer's panel: every control, what people drop on it, and what must never happen."""

import io
import json
import threading

import drive
import ipywidgets as widgets
import numpy as np
import pytest
import scenes
from drive import BROKEN, CHEST, SKIN, TISSUE, FakeShelf, click, drop, pictures, said, settled
from PIL import Image

from medrobust_utils.explorer import controls, gallery, summary
from medrobust_utils.explorer.look import Memory, look
from medrobust_utils.explorer.panel import Explorer


@pytest.fixture
def explorer(tmp_path):
    return settled(Explorer(FakeShelf(), tmp_path, SKIN))


@pytest.fixture
def looks(monkeypatch):
    """Every look that is really taken, as (network, choice)."""
    taken = []

    def counted(scene, network, sample, choice, **how):
        taken.append((network.name, choice))
        return look(scene, network, sample, choice, **how)

    monkeypatch.setattr(gallery, "look", counted)
    return taken


def records(explorer):
    return [one.record for one in explorer._shown]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), float)


def test_it_opens_on_two_networks_with_something_to_see(explorer):
    shown = pictures(explorer)
    assert len(shown) == 2 and shown[0] != shown[1]
    for png in shown:
        assert pixels(png).std() > 20 and pixels(png).shape[1] >= 600
    assert [one["network"] for one in records(explorer)] == ["vanilla", "adversarial training"]
    assert said(explorer)[0].startswith("Done in ")
    assert "vanilla" in explorer.controls.numbers.value
    assert explorer.controls.progress.layout.display == "none"


def test_the_controls_have_the_names_that_readers_find_them_by(explorer):
    found = {}

    def walk(box):
        for child in getattr(box, "children", ()):
            walk(child)
        if getattr(box, "description", ""):
            found[box.description] = type(box).__mro__[1 if isinstance(box, controls.List) else 0]

    walk(explorer.widget)
    lists = ("paper", "data", "image", "left", "right", "attack", "class", "layer", "map")
    assert found == dict.fromkeys(lists, widgets.Dropdown) | {
        "own image": widgets.FileUpload,
        "eps (1/255)": widgets.SelectionSlider,
        "save this view": widgets.Button,
    }
    assert [label for label, _ in explorer.controls.eps.options][:6] == [
        *("0", "1/16", "1/8", "1/4", "1/2", "1")
    ]
    assert "none" in dict(explorer.controls.right.options)
    assert [label for label, _ in explorer.controls.target.options][:3] == [
        *("what it answers", "the image's label", scenes.single_label().data.classes[0])
    ]


@pytest.mark.parametrize(
    ("name", "label", "key", "value"),
    [
        ("attack", "FGSM", "attack", "fgsm"),
        ("target", "df", "explained", "df"),
        ("left", "adversarial training", "network", "adversarial training"),
    ],
)
def test_a_choice_changes_the_picture_and_its_numbers(explorer, name, label, key, value):
    before = pictures(explorer)
    click(getattr(explorer.controls, name), label)
    settled(explorer)
    assert pictures(explorer)[0] != before[0]
    assert records(explorer)[0][key] == value


def test_another_image_eps_and_layer_change_the_picture(explorer):
    one = explorer.controls
    seen = [pictures(explorer)]
    one.image.set_state({"index": 3})
    seen.append(pictures(settled(explorer)))
    one.eps.set_state({"index": controls.EPS.index(8)})
    seen.append(pictures(settled(explorer)))
    assert records(explorer)[0]["eps_255"] == 8
    assert records(explorer)[0]["image"] == scenes.single_label().sample(3).name
    one.layer.set_state({"index": len(one.layer.options) - 1})
    seen.append(pictures(settled(explorer)))
    assert one.layer.label == f"{records(explorer)[0]['layer']} (32 x 32)"
    assert len({shown[0] for shown in seen}) == len({shown[1] for shown in seen}) == 4


def test_the_right_side_can_be_empty_and_comes_back(explorer):
    left, right = pictures(explorer)
    click(explorer.controls.right, "none")
    assert pictures(settled(explorer)) == [left] and len(records(explorer)) == 1
    click(explorer.controls.right, "adversarial training")
    assert pictures(settled(explorer)) == [left, right]


def test_the_layers_on_offer_are_those_of_the_left_network(explorer):
    one = explorer.controls
    plain = dict(one.layer.options)
    one.layer.set_state({"index": len(one.layer.options) - 1})
    settled(explorer)
    click(one.left, "adversarial training")
    settled(explorer)
    names = dict(scenes.single_label().networks[1].model.named_modules())
    offered = [value for value in dict(one.layer.options).values() if value]
    assert dict(one.layer.options) != plain and offered and set(offered) <= set(names)
    assert one.layer.value == ""  # the other network had no layer of that name
    assert records(explorer)[0]["layer"] in names


def test_what_was_seen_before_comes_back_at_once(explorer, looks):
    shown = pictures(explorer)
    explorer.controls.eps.value = 8
    assert pictures(settled(explorer)) != shown
    taken = len(looks)
    explorer.controls.eps.value = controls.START
    assert pictures(explorer) == shown  # already: nobody waited
    assert records(explorer)[0]["eps_255"] == controls.START
    settled(explorer)
    assert len(looks) == taken and pictures(explorer) == shown


def test_a_quick_drag_ends_with_the_last_value_and_queues_nothing(explorer, looks):
    for eps in controls.EPS:
        explorer.controls.eps.value = eps
    settled(explorer)
    assert [one["eps_255"] for one in records(explorer)] == [16, 16]
    assert len(looks) <= 4  # the last value, and at most one that was begun before


def test_outdated_work_is_never_shown(explorer, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def stubborn(scene, network, sample, choice, **how):
        if choice.eps_255 == 16:
            begun.set()
            assert go.wait(drive.LONG)
        return look(scene, network, sample, choice, memory=Memory())  # heeds nobody

    monkeypatch.setattr(gallery, "look", stubborn)
    shown = []
    explorer.controls.pictures[0].observe(lambda change: shown.append(change.new), "value")
    explorer.controls.eps.value = 16
    assert begun.wait(drive.LONG)
    explorer.controls.eps.value = 1
    go.set()
    settled(explorer)
    assert len(shown) == 1 and records(explorer)[0]["eps_255"] == 1


def test_other_data_fills_the_lists_and_looks_once(explorer, looks):
    click(explorer.controls.data, CHEST.title)
    settled(explorer)
    chest = scenes.multi_label()
    assert [name for name, _ in looks] == [one.name for one in chest.networks]
    assert [label for label, _ in explorer.controls.image.options] == list(chest.names)
    assert dict(explorer.controls.target.options).keys() >= set(chest.data.classes)
    assert records(explorer)[0]["data"] == chest.data.name


def test_another_paper_brings_its_data_and_attacks(explorer):
    explorer.controls.attack.value = "noise"
    explorer.controls.eps.value = 4
    settled(explorer)
    click(explorer.controls.paper, "U-Net")
    settled(explorer)
    kinds = [value for _, value in explorer.controls.attack.options]
    assert kinds == ["background", "pgd", "segpgd", "noise"]
    assert explorer.controls.attack.value == "noise" and explorer.controls.eps.value == 4
    assert [label for label, _ in explorer.controls.data.options] == [TISSUE.title]
    assert records(explorer)[0]["data"] == scenes.segmentation().data.name
    assert "Dice" in explorer.controls.numbers.value


def test_the_place_it_is_given_opens_first(tmp_path):
    explorer = settled(Explorer(FakeShelf(), tmp_path, CHEST))
    assert explorer.shelf.opened == [CHEST.key] and explorer.controls.data.value == CHEST


def test_data_that_cannot_be_opened_is_a_sentence_and_all_stays(explorer):
    shown = pictures(explorer)
    click(explorer.controls.data, BROKEN.title)
    assert explorer.wait(drive.LONG)
    assert said(explorer) == (
        "skin-vanilla: its weights are missing. Run the notebook again.",
        "refused",
    )
    assert explorer.controls.data.value == SKIN and pictures(explorer) == shown
    explorer.controls.eps.value = 8
    assert records(settled(explorer))[0]["eps_255"] == 8


def test_where_the_first_data_cannot_be_opened_other_data_can(tmp_path):
    explorer = Explorer(FakeShelf(), tmp_path, BROKEN)
    assert explorer.wait(drive.LONG)
    assert said(explorer)[1] == "refused" and not pictures(explorer)
    assert explorer.controls.eps.disabled and not explorer.controls.data.disabled
    explorer.controls.save.click()
    assert said(explorer)[0].startswith("There is no picture yet") and not list(tmp_path.iterdir())
    drop(explorer.controls.upload, "a.png", drive.a_file())
    assert said(explorer)[0].startswith("a.png: the networks are still being opened")
    click(explorer.controls.data, CHEST.title)
    assert len(pictures(settled(explorer))) == 2 and not explorer.controls.eps.disabled


def test_what_nobody_thought_of_is_a_sentence_as_well(explorer, monkeypatch, capfd):
    def burst(*args, **how):
        raise ZeroDivisionError("<b>by zero</b>")

    shown = pictures(explorer)
    monkeypatch.setattr(gallery, "look", burst)
    explorer.controls.eps.value = 8
    assert explorer.wait(drive.LONG)
    text, kind = said(explorer)
    assert kind == "refused" and "unexpected" in text and "ZeroDivisionError" in text
    assert "<b>" not in text and pictures(explorer) == shown
    monkeypatch.setattr(gallery, "look", look)
    monkeypatch.setattr(gallery, "save", burst)
    explorer.controls.eps.value = 6
    settled(explorer)
    explorer.controls.save.click()
    assert "unexpected" in said(explorer)[0]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (drive.a_file(), ""),
        (drive.a_file("L", (70, 70)), "gray"),
        (drive.a_file("I;16"), "stretched"),
    ],
)
def test_an_own_image_is_looked_at_with_a_word_about_it(explorer, content, words):
    before = pictures(explorer)
    drop(explorer.controls.upload, "mine.png", content)
    settled(explorer)
    assert explorer.controls.image.label == "uploaded: mine.png"
    assert pictures(explorer)[0] != before[0]
    assert records(explorer)[0]["image"] == "uploaded: mine.png"
    assert records(explorer)[0]["label"] is None
    assert words in said(explorer)[0] and words in explorer.controls.numbers.value.lower()
    assert controls.files(explorer.controls.upload.value) == []  # the button forgets it


@pytest.mark.parametrize("scene", [CHEST, TISSUE])
def test_an_own_image_fits_every_kind_of_network(tmp_path, scene):
    explorer = settled(Explorer(FakeShelf(), tmp_path, scene))
    drop(explorer.controls.upload, "mine.png", drive.a_file("L", (40, 50)))
    settled(explorer)
    click(explorer.controls.target, "the image's label")
    settled(explorer)
    click(explorer.controls.attack, "PGD")
    assert records(settled(explorer))[0]["attack"] == "pgd"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.png", b"just a text"),
        ("half.png", drive.a_file()[:600]),
        ("scan.dcm", bytes(128) + b"DICM" + bytes(500)),
    ],
)
def test_a_wrong_file_is_refused_and_all_stays(explorer, name, content):
    before, choices = pictures(explorer), explorer.controls.image.options
    drop(explorer.controls.upload, name, content)
    text, kind = said(explorer)
    assert kind == "refused" and text.startswith(f"{name}: ") and "unexpected" not in text
    assert explorer.wait(drive.LONG) and pictures(explorer) == before
    assert explorer.controls.image.options == choices
    drop(explorer.controls.upload, "good.png", drive.a_file())
    assert pictures(settled(explorer)) != before


def test_names_are_text_and_never_markup(explorer):
    name = "<img src=x onerror=alert(1)>" + "a" * 500 + "\x00\n.png"
    drop(explorer.controls.upload, name, b"nonsense")
    assert "<img" not in explorer.controls.status.value and len(said(explorer)[0]) < 400
    drop(explorer.controls.upload, name, drive.a_file("L"))
    settled(explorer)
    assert "<img" not in explorer.controls.status.value + explorer.controls.numbers.value
    explorer.controls.save.click()
    assert [one.suffix for one in sorted((explorer.out / "views").iterdir())] == [".json", ".png"]


def test_both_forms_of_an_upload_are_understood():
    content = memoryview(b"abc")
    new = ({"name": "a.png", "type": "", "size": 3, "content": content},)
    old = {"a.png": {"metadata": {"name": "a.png"}, "content": b"abc"}}
    assert controls.files(new) == controls.files(old) == [("a.png", b"abc")]
    assert controls.files(()) == controls.files({}) == []


def test_a_view_is_saved_as_it_is_on_show(explorer):
    explorer.controls.save.click()
    folder = explorer.out / "views"
    numbers, png = sorted(folder.iterdir())
    assert (numbers.suffix, png.suffix, png.stem) == (".json", ".png", numbers.stem)
    assert str(png) in said(explorer)[0] and list(explorer.out.iterdir()) == [folder]
    shown = [pixels(one) for one in pictures(explorer)]
    assert (pixels(png.read_bytes()) == np.concatenate(shown, 1)).all()

    def refuse(text):
        raise AssertionError(f"{text} is not JSON")

    found = json.loads(numbers.read_text("utf-8"), parse_constant=refuse)
    assert found["schema"] == gallery.SCHEMA and found["records"] == records(explorer)
    assert found["provenance"]["versions"]["torch"]
    explorer.controls.save.click()
    assert len(list(folder.iterdir())) == 2  # the same view has the same name
    explorer.controls.eps.value = 8
    settled(explorer)
    explorer.controls.save.click()
    assert len(list(folder.iterdir())) == 4


def test_where_nothing_can_be_written_a_sentence_says_so(explorer):
    (explorer.out / "views").write_text("a file in the way")
    explorer.controls.save.click()
    text, kind = said(explorer)
    assert kind == "refused" and "cannot be written" in text and "OUT" in text
    explorer.controls.eps.value = 8
    settled(explorer)


def test_many_random_clicks_leave_no_trouble(tmp_path):
    explorer = settled(Explorer(FakeShelf(), tmp_path, SKIN))
    one, rng = explorer.controls, np.random.default_rng(0)
    lists = [one.paper, one.data, *one.asked, *one.asked, one.upload, one.save]
    trouble = []
    one.status.observe(lambda change: trouble.append(change.new), "value")
    for _ in range(40):
        widget = lists[rng.integers(len(lists))]
        if widget is one.save:
            widget.click()
        elif widget is one.upload:
            content = drive.a_file(("L", "RGB")[rng.integers(2)])[: rng.choice([400, 100000])]
            drop(widget, "mine.png", content)
        elif widget.options:
            widget.set_state({"index": int(rng.integers(len(widget.options)))})
    assert explorer.wait(drive.LONG)
    assert not [text for text in trouble if "unexpected" in text]
    click(one.paper, "U-Net" if one.paper.label != "U-Net" else "Attentive CNN")
    settled(explorer)
    assert len(pictures(explorer)) == 2


def test_the_table_says_what_is_unknown_and_says_everything_once(explorer):
    first, second = (dict(one) for one in records(explorer))
    first |= {"network": "<i>a</i>", "mask_share": None, "correlation": None}
    for side in ("before", "after"):
        first[f"inside_{side}"] = first[f"pointing_{side}"] = None
    first["no_map_after"] = "empty: nothing speaks for the class"
    second["notes"] = first["notes"] = ["made gray"]
    html = summary.table([first, second])
    assert "<i>" not in html and "&lt;i&gt;a&lt;/i&gt;: no map after: empty" in html
    assert html.count("Made gray.") == 1 and "<td>-</td>" in html
    assert "mask covers" not in summary.table([first]) and "mask covers" in html
    assert html.count("The image is a phantom: drawn by a program.") == 1
