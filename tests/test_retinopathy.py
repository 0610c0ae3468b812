"""The retinopathy reader holds grades against files, and a patient's two eyes together."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import retinopathy
from medrobust_utils.data.phantoms import phantom_set

PATIENTS = 20


@pytest.fixture(scope="module")
def fundus():
    """40 fundus phantoms."""
    return phantom_set("fundus", 2 * PATIENTS, size=32)


@pytest.fixture
def root(tmp_path, fundus):
    """The publisher's layout with two eyes a patient; the label file's order is its own."""
    folder = tmp_path / "diabetic_retinopathy"
    (folder / "train").mkdir(parents=True)
    names = [f"{10 + i // 2}_{('left', 'right')[i % 2]}" for i in range(2 * PATIENTS)]
    for i, name in enumerate(names):
        Image.fromarray(fundus.images[i]).resize((48, 36)).save(folder / "train" / f"{name}.jpeg")
    table = pd.DataFrame({"image": names, "level": fundus.targets})
    table.iloc[::-1].to_csv(folder / "trainLabels.csv", index=False)
    return tmp_path


def change(root, edit):
    path = root / "diabetic_retinopathy" / "trainLabels.csv"
    edit(pd.read_csv(path)).to_csv(path, index=False)


def test_grades_patients_and_pixels(root, fundus):
    images = retinopathy.read(root, 24)
    assert images.images.shape == (40, 24, 24, 3) and images.images.dtype == np.uint8
    assert images.name == "retinopathy" and not images.synthetic and not images.complete
    assert images.classes == retinopathy.CLASSES and not images.multi_label
    assert images.ids[0] == "29_right" and (images.targets == fundus.targets[::-1]).all()
    assert images.targets.dtype == np.int64
    patients = np.array([name.split("_")[0] for name in images.ids])
    assert len(np.unique(images.subjects)) == PATIENTS
    same = images.subjects[:, None] == images.subjects
    assert (same == (patients[:, None] == patients)).all()
    for patient in patients:  # near duplicates may join patients, nothing parts one
        assert len(set(images.groups[patients == patient])) == 1
    file = root / "diabetic_retinopathy" / "train" / "17_left.jpeg"
    expected = Image.open(file).convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
    assert (images.images[images.ids.index("17_left")] == np.asarray(expected)).all()


def test_both_eyes_of_a_patient_lie_on_one_side(root):
    images = retinopathy.read(root, 16)
    split = data.split_by_group(images, seed=1)
    sides = [{images.ids[i].split("_")[0] for i in side} for side in split]
    assert not sides[0] & sides[1] and sum(map(len, sides)) == PATIENTS


def test_it_is_found_by_name(root, monkeypatch):
    monkeypatch.setenv("MEDROBUST_DATA", str(root))
    assert len(data.load("retinopathy", size=16)) == 40


def test_copies_go_unless_they_are_wanted(root):
    folder = root / "diabetic_retinopathy" / "train"
    (folder / "29_right.jpeg").write_bytes((folder / "10_left.jpeg").read_bytes())
    assert len(retinopathy.read(root, 16)) < 40
    assert len(retinopathy.read(root, 16, duplicates=True)) == 40


def grade(value):
    return lambda root: change(
        root,
        lambda t: t.astype({"level": object}).replace({"level": {t.level[3]: value}}, regex=False),
    )


def name(value):
    return lambda root: change(root, lambda t: t.assign(image=[value, *t.image[1:]]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (grade(5), r"line \d+ has the level 5; grades are 0 to 4"),
        (grade(2.5), r"line \d+ has the level 2.5;"),
        (name("12_middle"), "'12_middle' is not of the form"),
    ],
)
def test_damage_is_named_with_a_remedy(root, damage, message):
    damage(root)
    with pytest.raises(DataError, match=message):
        retinopathy.read(root, 16)


def test_the_line_of_a_bad_grade_is_right(root):
    path = root / "diabetic_retinopathy" / "trainLabels.csv"
    lines = path.read_text().splitlines()
    lines[7] = lines[7].split(",")[0] + ",9"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="line 8 has the level 9"):
        retinopathy.read(root, 16)


def test_phantoms_have_the_grades_of_the_real_set(fundus):
    assert fundus.classes == retinopathy.CLASSES  # protocols name classes of either
