"""Every declared set: what is read of a small tree in its layout, and damage by name."""

import shutil

import numpy as np
import pandas as pd
import pytest
import small_trees
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import READERS
from medrobust_utils.data.splits import leaks, split_by_group

HAM = "ham10000"
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


def kermanys_patient(name):
    """An ill and a normal child in each part, and a normal one that is in all."""
    part, _, file = name.split("/")
    return "in all" if "NORMAL2" in file else (part, file[:2])


SUBJECTS = {
    "ham10000": lambda name: int(name[-7:]) // 2,
    "nih": lambda name: name.split("_")[0],
    "retinopathy": lambda name: name.split("_")[0],
    "isic": lambda name: int(name[-7:]) // 2,
    "kermany": kermanys_patient,
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_patients_and_lesions_are_groups(tree, name):
    tree(name)
    found = data.load(name, size=24)
    wanted = [SUBJECTS[name](image) for image in found.ids]
    together = found.subjects[:, None] == found.subjects
    assert together.tolist() == [[a == b for a in wanted] for b in wanted]


def test_pixels_and_outlines_are_those_of_the_files(tree):
    root = tree("ham10000") / HAM
    found = data.load(HAM, size=small_trees.SIDE)
    for row in (0, 7):
        name = found.ids[row]
        (path,) = root.glob(f"*/{name}.jpg")
        np.testing.assert_array_equal(found.images[row], np.asarray(Image.open(path)))
        (path,) = root.glob(f"*/{name}_segmentation.png")
        np.testing.assert_array_equal(found.masks[row] > 0, np.asarray(Image.open(path)) > 127)
    place = tree("busi") / "Dataset_BUSI_with_GT/benign"
    first, second = (np.asarray(Image.open(place / f"benign (2)_mask{x}.png")) for x in ("", "_1"))
    found = data.load("busi", size=small_trees.SIDE)
    united = found.masks[found.ids.index("benign/benign (2)")]
    np.testing.assert_array_equal(united > 0, (first > 0) | (second > 0))


def test_no_split_parts_a_lesion_and_copies_are_counted(ham_root):
    folder = ham_root / HAM / "HAM10000_images_part_1"
    table = pd.read_csv(ham_root / TABLES[HAM]).set_index("image_id")
    names = sorted(path.stem for path in folder.iterdir())
    lesions = names[::2]  # one image of each
    pairs = [(a, b) for a in lesions for b in lesions if a < b]
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


def test_later_exports_of_isic_name_the_same_diagnoses(tree):
    root = tree("isic")
    later = ["Melanoma in situ", "Solar or actinic keratosis", "Nevus", "Keloid", ""]
    later += ["Nevus"] * 7
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
    "semicolons, byte order mark": lambda t: "\ufeff" + t.to_csv(index=False, sep=";"),
    "tabs, quotes": lambda t: t.to_csv(index=False, sep="\t", quoting=1),
    "comma at the end of the heading": lambda t: t.to_csv(index=False).replace("\n", ",\n", 1),
    "comma at the end of all lines": lambda t: t.to_csv(index=False).replace("\n", ",\n"),
    "Windows' lines, an empty one": lambda t: t.to_csv(index=False, lineterminator="\r\n") + "\r\n",
    "numbers in front": lambda t: t.to_csv(),
    "labels spelled otherwise": lambda t: t.replace(SPELLED).to_csv(index=False),
}
SPELLED = {"No Finding": "No finding", "Pleural_Thickening": "pleural thickening", "2": "2.0"}


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


IMAGE = "ham10000/HAM10000_images_part_1/ISIC_0000003.jpg"
BUSI = "Dataset_BUSI_with_GT/benign/benign (1)"


def shorten(path):
    return lambda r: (r / path).write_bytes((r / path).read_bytes()[:300])


def edit(name, table):
    """Writes what ``table`` makes of the rows of a set's table."""
    return lambda r: change(r / TABLES[name], table)


# set, what is done to its tree, and what the error names
DAMAGE = {
    "no line": (HAM, edit(HAM, lambda t: t.iloc[1:]), "0000000.*line"),
    "no file": (HAM, lambda r: (r / IMAGE).unlink(), "line 5, ISIC_0000003.*file"),
    "truncated": (HAM, shorten(IMAGE), "ISIC_0000003.jpg: .*Download .* again"),
    "foreign": (HAM, lambda r: (r / IMAGE).with_suffix(".txt").write_text("x"), "ISIC_0000003.txt"),
    "class": (HAM, edit(HAM, lambda t: t.assign(dx="x")), "line 2 .*'x'"),
    "twice": (HAM, edit(HAM, lambda t: pd.concat([t, t[:1]])), "line 14 "),
    "empty": (HAM, edit(HAM, lambda t: t.replace("ISIC_0000004", "")), "line 6 has an empty"),
    "column": (HAM, edit(HAM, lambda t: t.drop(columns="lesion_id")), "lesion_id"),
    "table": (HAM, lambda r: (r / TABLES[HAM]).unlink(), "HAM10000_metadata.csv"),
    "places": (
        HAM,
        lambda r: shutil.copy(r / IMAGE, r / "ham10000/HAM10000_images_part_2"),
        "part_2/ISIC_0000003.*part_1",
    ),
    "folder": (HAM, lambda r: shutil.rmtree(r / HAM), "ham10000 is missing.*data_download"),
    "finding": (
        "nih",
        edit("nih", lambda t: t.assign(**{"Finding Labels": "No Finding|Mass"})),
        "both 'No Finding' and",
    ),
    "part": ("kermany", lambda r: shutil.rmtree(r / "chest_xray/test"), "test/NORMAL"),
    "image of an outline": ("busi", lambda r: (r / f"{BUSI}.png").unlink(), r"\(1\)_mask.png: "),
    "outline of an image": ("busi", lambda r: (r / f"{BUSI}_mask.png").unlink(), r"\(1\).png: "),
    "diagnoses": ("isic", edit("isic", lambda t: t.assign(diagnosis="x")), "one of the ten"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_where_it_is(tree, damage):
    name, spoil, message = DAMAGE[damage]
    spoil(tree(name))
    with pytest.raises(DataError, match=message):
        data.load(name, size=16)


@pytest.mark.parametrize(
    ("name", "file"), [(HAM, "ISIC_0000003.jpg"), ("pannuke", "masks.npy"), ("consep", "*.png")]
)
def test_the_cache_is_used_and_a_changed_file_is_decoded_again(tree, home, name, file):
    def load():
        found = data.load(name, size=16).checksum
        return found, {path: path.stat().st_mtime_ns for path in home.rglob("*.npy")}

    path, first = next(tree(name).rglob(file)), load()
    assert load() == first and first[1]
    if path.suffix == ".npy":
        np.save(path, np.flip(np.load(path), 1))
    else:
        Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)
    assert load()[0] != first[0]


def test_unset_and_wrong_roots_are_explained(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="unknown data set 'mars'.*ham10000"):
        data.load("mars", size=8)
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="is not a folder"):
        data.load(HAM, size=8)
    monkeypatch.delenv("MEDROBUST_DATA")
    with pytest.raises(DataError, match="MEDROBUST_DATA is not set"):
        data.load(HAM, size=8)
