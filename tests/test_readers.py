"""Every declared set: what is read of a small tree in its layout, and damage by name."""

import shutil

import numpy as np
import pandas as pd
import pytest
import small_trees
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import READERS, decoding
from medrobust_utils.data.readers import NIH, official_split
from medrobust_utils.data.splits import leaks, split_by_group

HAM, NIH_FOLDER = "ham10000", "nih_chestxray14"
TABLES = {
    "ham10000": "ham10000/HAM10000_metadata.csv",
    "nih": "nih_chestxray14/Data_Entry_2017_v2020.csv",
    "retinopathy": "diabetic_retinopathy/trainLabels.csv",
    "isic": "isic/metadata.csv",
}
# name: channels, classes; whether outlines and subjects are known
TREES = {
    "ham10000": (3, 7, True, True),
    "nih": (1, 15, False, True),
    "retinopathy": (3, 5, False, True),
    "brain_mri": (1, 4, False, False),
    "kermany": (1, 2, False, True),
    "iq_othnccd": (1, 3, False, False),
    "busi": (1, 3, True, False),
    "isic": (3, 10, False, True),
}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Builds the small tree of a set below MEDROBUST_DATA."""
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path))

    def build(name):
        small_trees.BUILDERS[name](tmp_path)
        return tmp_path

    return build


def change(path, edit):
    edit(pd.read_csv(path, dtype=str)).to_csv(path, index=False)


@pytest.mark.parametrize("name", TREES)
def test_a_set_is_read_in_its_publishers_layout(tree, name):
    tree(name)
    channels, classes, masks, subjects = TREES[name]
    found = data.load(name, size=24, duplicates=True)
    assert found.name == name and len(found) == 12 and len(found.classes) == classes
    assert found.images.shape == (12, 24, 24, channels) and not found.complete
    assert (found.masks is not None) == masks and (found.subjects is not None) == subjects
    assert found.class_counts() == found.census["images_per_class"]
    assert data.load(name, size=24, duplicates=True).checksum == found.checksum


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ham10000", lambda a, b: a // 2 == b // 2),
        ("nih", lambda a, b: a // 3 == b // 3),
        ("retinopathy", lambda a, b: a // 2 == b // 2),
        ("isic", lambda a, b: a // 2 == b // 2),
    ],
)
def test_patients_and_lesions_are_groups(tree, name, same):
    tree(name)
    found = data.load(name, size=24)
    rows = {image: row for row, image in enumerate(sorted(found.ids))}
    numbers = [rows[image] for image in found.ids]
    together = found.subjects[:, None] == found.subjects
    assert together.tolist() == [[same(a, b) for b in numbers] for a in numbers]


def test_kermanys_patients_are_told_by_the_names_of_files(tree):
    tree("kermany")
    found = data.load("kermany", size=24)
    by_name = dict(zip(found.ids, found.subjects, strict=True))
    first = by_name["train/PNEUMONIA/person1_bacteria_1"]
    assert first == by_name["train/PNEUMONIA/person1_virus_7_2"]
    assert (
        by_name["train/NORMAL/NORMAL2-IM-0009-0001"] == by_name["test/NORMAL/NORMAL2-IM-0009-0001"]
    )
    assert first != by_name["train/NORMAL/IM-0001-0001"]


def test_pixels_and_outlines_are_those_of_the_files(tree):
    root = tree("ham10000")
    found = data.load(HAM, size=small_trees.SIDE)
    for row in (0, 7):
        name = found.ids[row]
        (path,) = root.glob(f"{HAM}/*/{name}.jpg")
        np.testing.assert_array_equal(found.images[row], np.asarray(Image.open(path)))
        drawn = root / HAM / "HAM10000_segmentations_lesion_tschandl" / f"{name}_segmentation.png"
        np.testing.assert_array_equal(found.masks[row] > 0, np.asarray(Image.open(drawn)) > 127)


def test_several_outlines_of_an_image_are_united(tree):
    root = tree("busi")
    place = root / "Dataset_BUSI_with_GT/benign"
    parts = [np.asarray(Image.open(place / f"benign (2)_mask{end}.png")) for end in ("", "_1")]
    found = data.load("busi", size=small_trees.SIDE)
    row = found.ids.index("benign/benign (2)")
    np.testing.assert_array_equal(found.masks[row] > 0, (parts[0] > 0) | (parts[1] > 0))


def test_no_split_parts_a_lesion_and_copies_are_counted(ham_root):
    folder = ham_root / HAM / "HAM10000_images_part_1"
    table = pd.read_csv(ham_root / HAM / "HAM10000_metadata.csv").set_index("image_id")
    names = sorted(path.stem for path in folder.iterdir())
    pairs = [
        (a, b) for a in names for b in names if a < b and table.lesion_id[a] != table.lesion_id[b]
    ]
    same = next((a, b) for a, b in pairs if table.dx[a] == table.dx[b])
    other = next((a, b) for a, b in pairs if table.dx[a] != table.dx[b] and not {a, b} & {*same})
    for first, second in (same, other):
        shutil.copy(folder / f"{first}.jpg", folder / f"{second}.jpg")
    found = READERS[HAM](ham_root, 16)
    assert found.census["exact_duplicates_removed"] == 1
    assert found.census["contradictory_labels_dropped"] == 2
    assert set(names) - set(found.ids) == {same[1], *other}
    split = split_by_group(found, seed=0)
    assert not leaks(found, data.ThreeWay(split.train, split.val, split.val))
    kept = READERS[HAM](ham_root, 16, duplicates=True)
    assert len(kept) == 60 and kept.census["duplicates_kept"] == 3
    assert kept.groups[kept.ids.index(other[0])] == kept.groups[kept.ids.index(other[1])]


def test_official_lists_split_nih(nih_root):
    found = READERS["nih"](nih_root, 16)
    split = official_split(found, nih_root)
    assert (len(split.train), len(split.val)) == (45, 15)
    (nih_root / NIH_FOLDER / "test_list.txt").write_text("")
    with pytest.raises(DataError, match="none or both of the official lists"):
        official_split(found, nih_root)


def test_later_exports_of_isic_name_the_same_diagnoses(tree):
    root = tree("isic")
    later = ["Melanoma in situ", "Solar or actinic keratosis", "Nevus", "Keloid", ""] + [
        "Nevus"
    ] * 7
    second = [""] * 4 + ["Benign soft tissue proliferations - Vascular"] + [""] * 7

    def export(t):
        t = t.drop(columns="diagnosis").assign(diagnosis_3=later, diagnosis_2=second)
        return t.assign(patient_id=["IP_0"] + [""] * 11, lesion_id=["IL_0", "IL_0"] + [""] * 10)

    change(root / TABLES["isic"], export)
    found = data.load("isic", size=24)
    names = [found.classes[k] for k in found.targets]
    assert names[:3] == ["melanoma", "actinic keratosis", "nevus"] and names[3] == "vascular lesion"
    assert found.census["other_diagnoses_by_name"] == {"keloid": 1}
    assert found.subjects[0] == found.subjects[1]  # the lesion's patient is known by one line
    assert found.census["grouped_by_lesion"] == 1 and found.census["grouped_by_image"] == 9


FORMS = {
    "as published": lambda t: t.to_csv(index=False),
    "semicolons, byte order mark": lambda t: "\ufeff" + t.to_csv(index=False, sep=";"),
    "tabs, quotes": lambda t: t.to_csv(index=False, sep="\t", quoting=1),
    "comma at the end of the heading": lambda t: t.to_csv(index=False).replace("\n", ",\n", 1),
    "comma at the end of all lines": lambda t: t.to_csv(index=False).replace("\n", ",\n"),
    "Windows' lines, an empty one": lambda t: t.to_csv(index=False, lineterminator="\r\n") + "\r\n",
    "numbers in front": lambda t: t.to_csv(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_table_is_read_in_every_form_that_mirrors_write(tree, name, form, encoding):
    root = tree(name)
    table = root / TABLES[name]
    plain = data.load(name, size=16).checksum
    rows = pd.read_csv(table, dtype=str)
    table.unlink()
    table.with_suffix(".tab").write_bytes(FORMS[form](rows).encode(encoding))
    assert data.load(name, size=16).checksum == plain


def test_labels_are_read_however_they_are_spelled(tree):
    root = tree("nih")
    change(
        root / TABLES["nih"],
        lambda t: t.assign(
            **{"Finding Labels": ["Pleural Thickening | mass", *["No finding"] * 11]}
        ),
    )
    found = data.load("nih", size=16)
    hit = [NIH[k] for k in np.flatnonzero(found.targets[0])]
    assert hit == ["Mass", "Pleural_Thickening"] and found.targets[1:, -1].all()
    root = tree("retinopathy")
    change(root / TABLES["retinopathy"], lambda t: t.assign(level=t.level + ".0"))
    assert data.load("retinopathy", size=16).targets.max() <= 4


IMAGE = "ham10000/HAM10000_images_part_1/ISIC_0000003.jpg"
META = TABLES["ham10000"]
EYE = "diabetic_retinopathy/train/10_left.jpeg"
BUSI = "Dataset_BUSI_with_GT/benign/benign (1)"
# set, what is done to its tree, and what the error names
DAMAGE = {
    "no line": (HAM, lambda r: change(r / META, lambda t: t.iloc[1:]), "0000000.*line"),
    "no file": (HAM, lambda r: (r / IMAGE).unlink(), "line 5, ISIC_0000003.*file"),
    "truncated": (
        HAM,
        lambda r: (r / IMAGE).write_bytes((r / IMAGE).read_bytes()[:300]),
        "ISIC_0000003.jpg: .*download it again",
    ),
    "foreign": (HAM, lambda r: (r / IMAGE).with_suffix(".txt").write_text("x"), "ISIC_0000003.txt"),
    "class": (HAM, lambda r: change(r / META, lambda t: t.assign(dx="x")), "line 2 .*'x'"),
    "twice": (HAM, lambda r: change(r / META, lambda t: pd.concat([t, t[:1]])), "line 14 "),
    "empty": (
        HAM,
        lambda r: change(r / META, lambda t: t.assign(dx=t.dx.where(t.index != 4))),
        "line 6 has an empty",
    ),
    "column": (HAM, lambda r: change(r / META, lambda t: t.drop(columns="lesion_id")), "lesion_id"),
    "table": (HAM, lambda r: (r / META).unlink(), "HAM10000_metadata.csv"),
    "places": (
        HAM,
        lambda r: shutil.copy(r / IMAGE, r / "ham10000/HAM10000_images_part_2"),
        "part_2/ISIC_0000003.*part_1",
    ),
    "folder": (HAM, lambda r: shutil.rmtree(r / HAM), "ham10000 is missing.*data_download"),
    "finding": (
        "nih",
        lambda r: change(
            r / TABLES["nih"], lambda t: t.assign(**{"Finding Labels": "No Finding|Mass"})
        ),
        "both 'No Finding' and",
    ),
    "eye": (
        "retinopathy",
        lambda r: (
            change(r / TABLES["retinopathy"], lambda t: t.replace("10_left", "10_middle"))
            or (r / EYE).rename((r / EYE).with_name("10_middle.jpeg"))
        ),
        "line 2, 10_middle.*not of the form",
    ),
    "part": ("kermany", lambda r: shutil.rmtree(r / "chest_xray/test"), "test/NORMAL"),
    "image of an outline": (BUSI, lambda r: (r / f"{BUSI}.png").unlink(), r"\(1\)_mask.png: "),
    "outline of an image": (BUSI, lambda r: (r / f"{BUSI}_mask.png").unlink(), r"\(1\).png: "),
    "diagnoses": (
        "isic",
        lambda r: change(r / TABLES["isic"], lambda t: t.assign(diagnosis="x")),
        "no image has one of the ten",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_where_it_is(tree, damage):
    name, spoil, message = DAMAGE[damage]
    name = "busi" if name == BUSI else name
    spoil(tree(name))
    with pytest.raises(DataError, match=message):
        data.load(name, size=16)


def test_the_cache_is_used_and_a_changed_file_is_decoded_again(ham_root, home, monkeypatch):
    first = READERS[HAM](ham_root, 16)
    monkeypatch.setattr(decoding, "decode", lambda *a: pytest.fail("decoded again"))
    assert READERS[HAM](ham_root, 16).checksum == first.checksum
    monkeypatch.undo()
    monkeypatch.setenv("MEDROBUST_HOME", str(home))
    path = next((ham_root / HAM).glob("*/ISIC_0000003.jpg"))
    Image.new("RGB", (40, 30), "red").save(path)
    assert READERS[HAM](ham_root, 16).checksum != first.checksum


def test_unset_and_wrong_roots_are_explained(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="unknown data set 'mars'.*ham10000"):
        data.load("mars", size=8)
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="is not a folder"):
        data.load(HAM, size=8)
    monkeypatch.delenv("MEDROBUST_DATA")
    with pytest.raises(DataError, match="MEDROBUST_DATA is not set"):
        data.load(HAM, size=8)
