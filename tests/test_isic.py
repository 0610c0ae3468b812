"""The ISIC Archive's reader: both generations of its exports, groups, and what is left out."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import isic
from medrobust_utils.data.phantoms import phantom_set


@pytest.fixture(scope="module")
def drawn():
    return phantom_set("dermatoscopy10", 40, size=32)


@pytest.fixture
def root(tmp_path, drawn, monkeypatch):
    """The archive's layout: 40 phantoms in two folders, the last two of other diagnoses."""
    for i in range(40):
        part = tmp_path / "isic" / ("images" if i < 20 else "images_2")
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.images[i]).resize((40, 30)).save(part / f"ISIC_{i:07d}.jpg")
    table = pd.DataFrame(
        {
            "isic_id": [f"ISIC_{i:07d}" for i in range(40)],
            "attribution": "Anonymous",
            "diagnosis": [isic.CLASSES[i % 10] for i in range(38)] + ["lichenoid keratosis", ""],
            "lesion_id": ["IL_1", "IL_1"] + [f"IL_{i}" for i in range(2, 30)] + [""] * 10,
            "patient_id": ["IP_1", ""] + ["IP_2"] * 3 + [""] * 35,
        }
    )
    write(tmp_path, table)
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path))
    return tmp_path


def write(root, table):
    table.to_csv(root / "isic/metadata.csv", index=False)


def table_of(root):
    return pd.read_csv(root / "isic/metadata.csv", keep_default_na=False)


def test_ten_diagnoses_are_kept_and_the_others_counted(root):
    found = data.load("isic", size=16)
    assert found.name == "isic" and found.classes == isic.CLASSES and not found.complete
    assert found.images.shape == (38, 16, 16, 3)
    assert found.targets.tolist() == [i % 10 for i in range(38)]
    assert found.census["other_diagnoses"] == 2
    by_name = {"lichenoid keratosis": 1, "without a diagnosis": 1}
    assert found.census["other_diagnoses_by_name"] == by_name


def test_patients_come_before_lesions_before_images(root):
    found = data.load("isic", size=16)
    assert found.subjects[0] == found.subjects[1]  # one lesion, whose patient one line tells
    assert len(set(found.subjects[2:5])) == 1
    assert len(np.unique(found.subjects)) == 38 - 1 - 2
    counts = [found.census[f"grouped_by_{what}"] for what in ("patient", "lesion", "image")]
    assert counts == [4, 26, 8]


def test_later_exports_name_the_same_diagnoses(root):
    before, table = data.load("isic", size=16), table_of(root)
    later = {
        "melanoma": "Melanoma, NOS",
        "actinic keratosis": "Solar or actinic keratosis",
        "squamous cell carcinoma": "Squamous cell carcinoma, Invasive",
        "vascular lesion": "",
    }
    old = table.pop("diagnosis")
    table["diagnosis_2"] = [
        "Benign soft tissue proliferations - Vascular" * (one == "vascular lesion") for one in old
    ]
    table["diagnosis_3"] = [later.get(one, one.capitalize()) for one in old]
    write(root, table)
    after = data.load("isic", size=16)
    assert after.ids == before.ids and after.checksum == before.checksum


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root, t: t.drop(columns="diagnosis"), "neither diagnosis nor diagnosis_3"),
        (lambda root, t: t.assign(diagnosis="scar"), "no image has one of the ten"),
        (lambda root, t: t.drop(index=3), "ISIC_0000003.jpg.*no line"),
        (lambda root, t: pd.concat([t, t.tail(3).head(1)]), "ISIC_0000037 is listed twice"),
        (lambda root, t: t.replace("ISIC_0000000", "ISIC_x"), "ISIC_0000000.jpg: has no line"),
    ],
)
def test_faults_of_the_metadata_are_named(root, spoil, message):
    write(root, spoil(root, table_of(root)))
    with pytest.raises(DataError, match=message):
        data.load("isic", size=16)


def test_a_labelled_image_without_file_and_a_copy_in_two_folders_are_refused(root):
    image = root / "isic/images/ISIC_0000000.jpg"
    copy = image.read_bytes()
    (root / "isic/images_2/ISIC_0000000.jpg").write_bytes(copy)
    with pytest.raises(DataError, match="the same image also lies"):
        data.load("isic", size=16)
    (root / "isic/images_2/ISIC_0000000.jpg").unlink()
    image.unlink()
    with pytest.raises(DataError, match="ISIC_0000000"):
        data.load("isic", size=16)
