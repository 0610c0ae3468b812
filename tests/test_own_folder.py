"""One's own data: every layout and kind of file, the rule for 16 bits, DICOM, and refusals."""

import json
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom.uid import JPEG2000Lossless
from small_trees import dicom

from medrobust_utils import data
from medrobust_utils.core.errors import DataError, MedrobustError
from medrobust_utils.data.phantoms import phantom_set
from medrobust_utils.reporting import protocol
from medrobust_utils.studies import attentive_cnn, domain_assimilation, swin_noise, unet_adversarial


@pytest.fixture(scope="module")
def pictures():
    """60 gray phantoms of 32 pixels."""
    return phantom_set("ultrasound", 60, size=32).images[:, :, :, 0]


def load(folder, size=32, **how):
    return data.load(f"folder:{folder}", size=size, **how)


def put(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def classes(root, pictures, count=60, part=""):
    for i in range(count):
        put(root / part / ("well" if i % 3 else "ill") / f"{i:02d}.png", pictures[i])
    return root


def table(root, **columns):
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(root / "labels.csv", index=False)
    return root


def test_a_folder_for_each_class_is_a_set(tmp_path, pictures):
    root = classes(tmp_path / "my clinic", pictures)
    (root / ".DS_Store").write_text("")
    (root / "ill/Thumbs.db").write_text("")
    found = load(root)
    assert found.classes == ("ill", "well") and not found.complete and not found.synthetic
    assert found.class_counts() == {"ill": 20, "well": 40}
    assert found.images.shape == (60, 32, 32, 1) and found.census["channels"] == 1
    assert found.subjects is None and found.parts is None and found.masks is None
    assert found.ids[0] == "ill/00"
    np.testing.assert_array_equal(found.images[0][:, :, 0], pictures[0])
    assert found.name.startswith("folder-my_clinic-") and str(tmp_path) not in found.name
    assert load(root).checksum == found.checksum
    put(root / "ill/00.png", pictures[0] // 2)
    assert load(root).checksum != found.checksum


def test_parts_are_kept_and_one_coloured_picture_makes_the_set_coloured(tmp_path, pictures):
    for part, count in (("train", 30), ("val", 9), ("test", 6)):
        classes(tmp_path, pictures, count, part)
    put(tmp_path / "test/ill/colour.jpg", np.stack([pictures[50]] * 3, -1))
    found = load(tmp_path, duplicates=True)
    assert found.images.shape[3] == 3 and found.parts.count("train") == 30
    assert found.classes == ("ill", "well") and found.census["files_colour"] == 1


def test_outlines_follow_their_images(tmp_path, pictures):
    root = classes(tmp_path, pictures, 12)
    for path in sorted(root.glob("*/*.png")):
        mask = np.zeros((32, 32), np.uint8)
        mask[: int(path.stem) + 1] = 255
        put(root / "masks" / path.parent.name / path.name, mask)
    found = load(root)
    for image, mask in zip(found.ids, found.masks[:], strict=True):
        assert mask.sum() == 32 * (int(image[-2:]) + 1)
    (root / "masks/ill/00.png").unlink()
    with pytest.raises(DataError, match="ill/00.png: its outline .*is missing"):
        load(root)


def test_findings_by_csv_are_multi_label_with_patients(tmp_path, pictures):
    for i in range(12):
        put(tmp_path / f"images/a/{i}.png", pictures[i])
    table(
        tmp_path,
        image=[f"a/{i}.png" if i % 2 else f"a/{i}" for i in range(12)],
        patient=[f"p{i // 2}" if i < 10 else "NA" for i in range(12)],
        mass=[i % 2 for i in range(12)],
        fluid=[int(i > 5) for i in range(12)],
    )
    found = load(tmp_path)
    assert found.multi_label and found.classes == ("mass", "fluid")
    assert found.targets.tolist() == [[i % 2, int(i > 5)] for i in range(12)]
    assert len(np.unique(found.subjects)) == 5 + 2
    assert found.census["images_without_a_patient"] == 2


def test_labels_by_csv_and_a_single_finding_are_single_label(tmp_path, pictures):
    for i in range(6):
        put(tmp_path / f"{i}.png", pictures[i])
    names = [f"{i}.png" for i in range(6)]
    found = load(table(tmp_path, image=names, label=list("abcabc")))
    assert found.classes == ("a", "b", "c") and found.targets.tolist() == [0, 1, 2, 0, 1, 2]
    table(tmp_path, image=names, mass=[0, 1, 1, 0, 0, 1])
    found = load((tmp_path / "labels.csv").rename(tmp_path / "labels.txt").parent)
    assert found.classes == ("no mass", "mass") and found.targets.tolist() == [0, 1, 1, 0, 0, 1]


def label_maps(root, pictures, count=12):
    for i in range(count):
        put(root / f"images/{i}.png", pictures[i])
        maps = np.zeros((32, 32), np.uint8)
        maps[8:20, 4 : 8 + i % 12], maps[0, 0] = 1, 255
        put(root / f"labels/{i}.png", maps)
    for name in ("classes.txt", "labels.txt"):  # the other is no table, and is not taken for one
        (root / name).write_text("background\nlesion\n")
    return root


def test_label_maps_make_a_segmentation_set(tmp_path, pictures):
    found = load(label_maps(tmp_path, pictures))
    assert found.segmentation and found.classes == ("background", "lesion")
    assert (found.targets[0] == 1).sum() == 12 * 4 and found.targets[0, 0, 0] == 255
    put(tmp_path / "labels/3.png", np.full((32, 32), 7, np.uint8))
    with pytest.raises(DataError, match="labels/3.png: holds the label values"):
        load(tmp_path)
    (tmp_path / "classes.txt").write_text("lesion\nlesion\n")
    with pytest.raises(DataError, match="2 to 254 different names"):
        load(tmp_path)


def test_sixteen_bits_are_scaled_alike_in_all_pictures(tmp_path, pictures):
    """A set of 12 bits: 4095 is white, whatever the brightest pixel of each picture is."""
    for i in range(6):
        deep = pictures[i].astype(np.uint16) * (4 if i else 16)
        put(tmp_path / f"{'ab'[i % 2]}/{i}.{'png' if i < 3 else 'tif'}", deep)
    found = load(tmp_path)
    assert (
        found.census["files_sixteen_bits"] == 6 and "0 to 4095" in found.census["sixteen_bit_rule"]
    )
    for image, shown in zip(found.ids, found.images[:], strict=True):
        i = int(image[-1])
        exact = pictures[i].astype(float) * (4 if i else 16) / 4095 * 255
        np.testing.assert_allclose(shown[:, :, 0], exact, atol=0.51)


def test_dicom_is_grouped_by_a_hash_of_the_patient(tmp_path, pictures):
    for i in range(8):
        about = {"PatientName": "Secret^Name", "PatientID": f"P{i // 2}"}
        dicom(tmp_path / f"{'ab'[i % 2]}/{i}.dcm", pictures[i].astype(np.uint16) * 8, **about)
    found = load(tmp_path)
    assert found.images.shape == (8, 32, 32, 1) and len(np.unique(found.subjects)) == 4
    told = json.dumps([found.census, found.ids, found.name])
    assert "Secret" not in told and "P1" not in told


def test_dicom_that_cannot_be_shown_is_refused_without_a_name(tmp_path, pictures):
    classes(tmp_path, pictures, 6)
    path = tmp_path / "ill/x.dcm"
    stored = pictures[0].astype(np.uint16)
    for elements in (
        {"NumberOfFrames": 2},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PixelData": b"\0\0"},
        {"Rows": 60000, "Columns": 60000},
    ):
        dicom(path, stored, PatientName="Secret^Name", **elements)
        with pytest.raises(DataError, match="x.dcm") as caught:
            load(tmp_path)
        assert "Secret" not in str(caught.value)
    dicom(path, stored)
    found = pydicom.dcmread(path)
    found.file_meta.TransferSyntaxUID = JPEG2000Lossless
    found.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51 no codestream"])
    found["PixelData"].is_undefined_length = True
    found.save_as(path)
    with pytest.raises(DataError, match="JPEG 2000.*pylibjpeg"):
        load(tmp_path)


ILL = "ill/00.png"


def spoilt_table(**columns):
    return lambda r: table(r, **({"image": ["well/01", "well/02", "ill/00"]} | columns))


# what is done to a folder of classes, and what the error names
MISFITS = {
    "other file": (lambda r: (r / "ill/notes.txt").write_text(""), "notes.txt: not an image"),
    "beside": (lambda r: (r / "readme.md").write_text(""), "readme.md: lies beside the folders"),
    "empty": (lambda r: (r / "odd").mkdir(), "odd: no image"),
    "same name": (lambda r: put(r / "ill/00.bmp", np.zeros((32, 32), "u1")), "00.png.*same name"),
    "no picture": (lambda r: (r / ILL).write_bytes(b"x"), "00.png: cannot be read as an image"),
    "small": (lambda r: put(r / ILL, np.zeros((4, 4), "u1")), "00.png: 4 x 4 pixels"),
    "large": (lambda r: put(r / ILL, np.zeros((5001, 5000), "u1")), "million pixels"),
    "one class": (lambda r: shutil.rmtree(r / "ill"), "own: shows 1 class .well"),
    "no folder": (shutil.rmtree, "no such folder"),
    "unlisted": (lambda r: table(r, image=["well/01"], label=["a"]), "00.png: its line"),
    "outside": (lambda r: table(r, image=["../x.png"], label=["a"]), "line 2, ../x"),
    "no table": (lambda r: (r / "labels.csv").write_text('image,label\n"'), "labels.csv: cannot"),
    "no column": (lambda r: (r / "labels.csv").write_text("a,b\n1,2\n"), "'a', 'b'.*image"),
    "no label": (spoilt_table(label=["a", "", "b"]), "line 3 has no label"),
    "one label": (spoilt_table(label=["a"] * 3), "labels.csv: shows 1 class .a."),
    "no number": (spoilt_table(mass=["0", "1", "yes"], cyst=[1, 1, 0]), "line 4 has 'yes' for"),
    "constant": (spoilt_table(mass=[0] * 3, cyst=[1] * 3), "mass, cyst: the same in all lines"),
    "both": (spoilt_table(label=["a", "b", "c"], mass=[0, 1, 0]), "a column label and others"),
    "neither": (spoilt_table(patient=["a", "b", "c"]), "labels.csv: says of no image"),
    "twice": (spoilt_table(image=["well/01"] * 2, label=["a", "b"]), "line 3 lists well/01"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_by_name(tmp_path, pictures, misfit):
    spoil, message = MISFITS[misfit]
    root = classes(tmp_path / "own", pictures, 3)
    spoil(root)
    with pytest.raises(DataError, match=message):
        load(root)


BINARY = {
    "2_attentive_cnn": (attentive_cnn, "skin"),
    "3_domain_assimilation": (domain_assimilation, "ct"),
}


def settings(paper, overrides=""):
    return protocol.load(paper).settings("smoke", overrides)


def test_own_images_stand_in_for_the_first_set_of_papers_1_to_3(tmp_path, pictures):
    name = f"folder:{classes(tmp_path, pictures)}"
    for paper, (study, _) in {"1_swin_noise": (swin_noise, ""), **BINARY}.items():
        arms = list(study.arms(settings(paper), seed=0, role=name))
        assert arms and len({arm.task.data.name for arm in arms}) == 1
        assert study is not swin_noise or arms[0].task.data.classes == ("ill", "well")
    # of two classes the second is the positive one
    assert arms[0].task.data.class_counts() == {"negative": 20, "positive": 20}
    other = settings("3_domain_assimilation", "positive.ct=[ill]")
    turned = next(domain_assimilation.arms(other, seed=0, role=name)).task.data
    assert turned.class_counts() == arms[0].task.data.class_counts()
    assert turned.checksum != arms[0].task.data.checksum


def test_paper_3_sees_coloured_images_gray(tmp_path, pictures):
    """JPEG exports of gray images are often kept in three channels."""
    for i in range(60):
        pixels = np.stack([pictures[i], pictures[i] // 2, pictures[i]], -1)
        put(tmp_path / "ab"[i % 2] / f"{i}.png", pixels)
    small = settings("3_domain_assimilation", "size=32")  # as large as the files
    task = next(domain_assimilation.arms(small, seed=0, role=f"folder:{tmp_path}")).task
    assert task.raw.census["made_gray"] == 60
    for image, shown in zip(task.data.ids, task.data.images[:], strict=True):
        exact = np.asarray(Image.open(tmp_path / f"{image}.png").convert("L"))
        np.testing.assert_allclose(shown[:, :, 0].astype(int), exact.astype(int), atol=1)


def test_own_findings_run_as_multi_label_and_papers_2_and_3_ask_which(tmp_path, pictures):
    number = np.arange(60)
    for i in number:
        put(tmp_path / f"images/{i}.png", pictures[i])
    table(tmp_path, image=number, mass=number % 2, cyst=(number % 3 == 0).astype(int))
    name = f"folder:{tmp_path}"
    arms = swin_noise.arms(settings("1_swin_noise"), seed=0, role=name)
    assert {arm.task.tags["protocol"] for arm in arms} == {"multi_label", "single_label"}
    for paper, (study, part) in BINARY.items():
        with pytest.raises(DataError, match=rf"SET='positive.{part}=\[cyst\]'"):
            list(study.arms(settings(paper), seed=0, role=name))
        chosen = settings(paper, f"positive.{part}=[cyst]")
        assert list(study.arms(chosen, seed=0, role=name))


def test_each_paper_takes_its_own_kind_of_labels(tmp_path, pictures):
    maps = f"folder:{label_maps(tmp_path / 'maps', pictures, 40)}"
    images = f"folder:{classes(tmp_path / 'images', pictures)}"
    fourth = settings("4_unet_adversarial_training")
    arms = list(unet_adversarial.arms(fourth, seed=0, role=maps))
    assert arms[0].task.data.classes == ("background", "lesion")
    with pytest.raises(DataError, match="run notebook 01, 02 or 03"):
        list(unet_adversarial.arms(fourth, seed=0, role=images))
    for paper, (study, _) in {"1_swin_noise": (swin_noise, ""), **BINARY}.items():
        with pytest.raises(MedrobustError, match="Notebook 04 takes label maps"):
            list(study.arms(settings(paper), seed=0, role=maps))
