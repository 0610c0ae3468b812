"""Readers whose labels are folder names: ids, patients, copies, outlines, and damage by name."""

import shutil

import numpy as np
import pytest
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import brain_mri, busi, decoding, iq_othnccd, kermany
from medrobust_utils.data.splits import leaks, split_by_group

# a file of each class and part, as their publishers name them; the same stems recur on purpose
FILES = {
    "brain_mri": [
        "brain_tumor_mri/Training/notumor/Tr-no_0010.jpg",
        "brain_tumor_mri/Training/notumor/Tr-noTr_0001.jpg",
        "brain_tumor_mri/Training/glioma/Tr-gl_0010.jpg",
        "brain_tumor_mri/Training/glioma/Tr-glTr_0000.jpg",
        "brain_tumor_mri/Training/meningioma/Tr-me_0010.jpg",
        "brain_tumor_mri/Training/pituitary/Tr-pi_0010.jpg",
    ],
    "kermany": [
        "chest_xray/train/NORMAL/IM-0115-0001.jpeg",
        "chest_xray/train/NORMAL/IM-0115-0001-0002.jpeg",
        "chest_xray/train/NORMAL/NORMAL2-IM-0927-0001.jpeg",
        "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg",
        "chest_xray/train/PNEUMONIA/person1_virus_7_2.jpeg",
        "chest_xray/train/PNEUMONIA/person115_virus_218.jpeg",
        "chest_xray/test/NORMAL/NORMAL2-IM-0115-0001-0003.jpeg",
        "chest_xray/test/NORMAL/IM-0001-0001.jpeg",
        "chest_xray/test/PNEUMONIA/person115_bacteria_2.jpeg",
        "chest_xray/test/PNEUMONIA/person927_virus_1.jpeg",
    ],
    "iq_othnccd": [
        "The IQ-OTHNCCD lung cancer dataset/Normal cases/Normal case (1).jpg",
        "The IQ-OTHNCCD lung cancer dataset/Normal cases/Normal case (10).jpg",
        "The IQ-OTHNCCD lung cancer dataset/Bengin cases/Bengin case (1).jpg",
        "The IQ-OTHNCCD lung cancer dataset/Malignant cases/Malignant case (1).jpg",
        "The IQ-OTHNCCD lung cancer dataset/Malignant cases/Malignant case (2).jpg",
    ],
    "busi": [
        "Dataset_BUSI_with_GT/normal/normal (1).png",
        "Dataset_BUSI_with_GT/benign/benign (1).png",
        "Dataset_BUSI_with_GT/benign/benign (2).png",
        "Dataset_BUSI_with_GT/malignant/malignant (1).png",
    ],
}
READERS = {"brain_mri": brain_mri, "kermany": kermany, "iq_othnccd": iq_othnccd, "busi": busi}
CLASSES = {
    "brain_mri": ("notumor", "glioma", "meningioma", "pituitary"),
    "kermany": ("NORMAL", "PNEUMONIA"),
    "iq_othnccd": ("normal", "benign", "malignant"),
    "busi": ("normal", "benign", "malignant"),
}
TARGETS = {
    "brain_mri": [0, 0, 1, 1, 2, 3],
    "kermany": [0, 0, 0, 1, 1, 1, 0, 0, 1, 1],
    "iq_othnccd": [0, 0, 1, 2, 2],
    "busi": [0, 1, 1, 2],
}
BUSI = "Dataset_BUSI_with_GT"


def paint(path, number):
    """A picture of its own for each number: no two correlate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30), np.uint8)
    Image.fromarray(pixels).resize((60, 40), Image.Resampling.NEAREST).save(path)


def outline(path, *box):
    """White from row and column to row and column of a 40 x 60 image; nothing without a box."""
    pixels = np.zeros((40, 60), np.uint8)
    if box:
        pixels[box[0] : box[2], box[1] : box[3]] = 255
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """All four sets in their publishers' layouts."""
    for number, name in enumerate(name for files in FILES.values() for name in files):
        paint(tmp_path / name, number)
    outline(tmp_path / BUSI / "normal/normal (1)_mask.png")
    outline(tmp_path / BUSI / "benign/benign (1)_mask.png", 0, 0, 10, 30)
    outline(tmp_path / BUSI / "benign/benign (2)_mask.png", 0, 0, 10, 15)
    outline(tmp_path / BUSI / "benign/benign (2)_mask_1.png", 30, 45, 40, 60)
    outline(tmp_path / BUSI / "benign/benign (2)_mask_10.png", 20, 0, 30, 15)
    outline(tmp_path / BUSI / "malignant/malignant (1)_mask.png", 20, 30, 40, 60)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_folders_become_classes(root, monkeypatch, name):
    monkeypatch.setenv("MEDROBUST_DATA", str(root))
    images = data.load(name, size=16)
    assert images.name == name and not images.synthetic and not images.complete
    assert images.classes == CLASSES[name] and not images.multi_label
    assert images.targets.tolist() == TARGETS[name] and images.targets.dtype == np.int64
    assert images.images.shape == (len(FILES[name]), 16, 16, 1)
    set_folder = FILES[name][0].split("/")[0]
    below = [file.removeprefix(f"{set_folder}/").rsplit(".", 1)[0] for file in FILES[name]]
    assert sorted(images.ids) == sorted(below) and len(set(images.ids)) == len(below)
    for row, image in enumerate(images.ids):
        (file,) = (root / set_folder).glob(f"{image}.*")
        expected = Image.open(file).convert("L").resize((16, 16), Image.Resampling.BICUBIC)
        assert (images.images[row][:, :, 0] == np.asarray(expected)).all()
    assert images.census["images_per_class"] == images.class_counts()
    assert (images.masks is not None) == (name == "busi")
    assert (images.subjects is not None) == (name == "kermany")


@pytest.mark.parametrize("name", FILES)
def test_the_whole_set_is_known_by_its_size(root, monkeypatch, name):
    monkeypatch.setattr(READERS[name], "COMPLETE", len(FILES[name]))
    assert READERS[name].read(root, 16).complete


def test_the_paper_used_the_training_folder_only(root):
    paint(root / "brain_tumor_mri/Testing/notumor/Te-no_0010.jpg", 99)
    assert len(brain_mri.read(root, 16)) == 6


@pytest.mark.parametrize("litter", [".DS_Store", "._IM-0115-0001.jpeg", "Thumbs.db"])
def test_what_archives_carry_along_is_passed_over(root, litter):
    (root / "chest_xray/train/NORMAL" / litter).write_bytes(b"\0\0\0\1Bud1")
    assert len(kermany.read(root, 16)) == 10


def test_the_same_name_in_two_folders_is_two_images(root):
    paint(root / "chest_xray/test/NORMAL/IM-0115-0001.jpeg", 99)
    images = kermany.read(root, 16)
    both = ["train/NORMAL/IM-0115-0001", "test/NORMAL/IM-0115-0001"]
    assert len(images) == 11 and set(both) <= set(images.ids)
    rows = [images.ids.index(name) for name in both]
    assert (images.images[rows[0]] != images.images[rows[1]]).any()


def test_patients_are_told_from_file_names(root):
    images = kermany.read(root, 16)
    groups = {
        name.split("/")[-1]: group for name, group in zip(images.ids, images.groups, strict=True)
    }
    together = [
        {"IM-0115-0001", "IM-0115-0001-0002", "NORMAL2-IM-0115-0001-0003"},
        {"NORMAL2-IM-0927-0001"},  # person927 is another series of numbers
        {"IM-0001-0001"},  # so is person1
        {"person1_bacteria_1", "person1_virus_7_2"},
        {"person115_virus_218", "person115_bacteria_2"},
        {"person927_virus_1"},
    ]
    found = [{name for name in groups if groups[name] == number} for number in set(groups.values())]
    assert sorted(map(sorted, found)) == sorted(map(sorted, together))
    split = split_by_group(images, seed=0, folds=2)
    assert not set(images.subjects[split.train]) & set(images.subjects[split.val])


def test_the_third_part_is_read_where_it_is_there(root):
    paint(root / "chest_xray/val/NORMAL/NORMAL2-IM-1427-0001.jpeg", 98)
    with pytest.raises(DataError, match="no image in val/PNEUMONIA"):
        kermany.read(root, 16)
    paint(root / "chest_xray/val/PNEUMONIA/person1946_bacteria_4874.jpeg", 99)
    images = kermany.read(root, 16)
    assert images.class_counts() == {"NORMAL": 6, "PNEUMONIA": 6}


@pytest.mark.parametrize(
    "name",
    [
        "person_bacteria_1",
        "person1_fungus_1",
        "person1_bacteria",
        "IM-0115",
        "NORMAL-IM-1-1",
        "person1_virus_1_2_3",
        "xIM-0115-0001",
        "IM-0115-0001 copy",
        "1_left",
    ],
)
def test_a_name_without_a_patient_is_refused(root, name):
    paint(root / f"chest_xray/train/NORMAL/{name}.jpeg", 99)
    with pytest.raises(DataError, match=rf"{name}.jpeg: not of the form .*Rename or move"):
        kermany.read(root, 16)


@pytest.fixture
def copied(root):
    """The MRI tree with a copy of the same class and a copy of another class."""
    folder = root / "brain_tumor_mri/Training"
    shutil.copy(folder / "notumor/Tr-no_0010.jpg", folder / "notumor/Tr-no_0999.jpg")
    shutil.copy(folder / "glioma/Tr-gl_0010.jpg", folder / "pituitary/Tr-pi_0999.jpg")
    return root


def test_copies_go_and_contradictions_too_and_are_counted(copied):
    images = brain_mri.read(copied, 16)
    assert images.census["images_listed"] == 8 and len(images) == 5
    assert images.census["exact_duplicates_removed"] == 1
    assert images.census["contradictory_labels_dropped"] == 2
    gone = {
        "Training/notumor/Tr-no_0999",
        "Training/glioma/Tr-gl_0010",
        "Training/pituitary/Tr-pi_0999",
    }
    assert not gone & set(images.ids)
    assert images.class_counts() == dict(zip(images.classes, (2, 1, 1, 1), strict=True))


def test_copies_can_stay_as_in_a_paper_that_looked_for_none(copied, monkeypatch):
    honest = brain_mri.read(copied, 16)
    monkeypatch.setenv("MEDROBUST_DATA", str(copied))
    monkeypatch.setattr(decoding, "decode", lambda *a: pytest.fail("decoded the images again"))
    images = data.load("brain_mri", size=16, duplicates=True)
    assert len(images) == 8 and images.checksum != honest.checksum
    assert images.class_counts() == dict(zip(images.classes, (3, 2, 1, 2), strict=True))
    assert images.census["duplicates_kept"] == 3
    assert not {"exact_duplicates_removed", "contradictory_labels_dropped"} & set(images.census)
    group = dict(zip(images.ids, images.groups, strict=True))
    assert group["Training/notumor/Tr-no_0010"] == group["Training/notumor/Tr-no_0999"]
    assert group["Training/glioma/Tr-gl_0010"] == group["Training/pituitary/Tr-pi_0999"]
    assert len(set(images.groups)) == 6
    test = np.array(
        [images.ids.index(f"Training/{name}_0999") for name in ("notumor/Tr-no", "pituitary/Tr-pi")]
    )
    split = data.ThreeWay(np.setdiff1d(np.arange(8), test), np.arange(0), test)
    assert leaks(images, split) == 2


@pytest.mark.parametrize("name", FILES)
def test_every_reader_keeps_copies_where_they_are_wanted(root, name):
    shutil.copy(root / FILES[name][-1], root / FILES[name][-2])
    assert len(READERS[name].read(root, 16)) < len(FILES[name])
    assert len(READERS[name].read(root, 16, duplicates=True)) == len(FILES[name])


@pytest.mark.parametrize("name", ["ham10000", "nih"])
def test_copies_can_stay_in_sets_with_a_table(ham_root, nih_root, monkeypatch, name):
    monkeypatch.setenv("MEDROBUST_DATA", str(ham_root))  # both lie in one folder
    pattern = {"ham10000": "*.jpg", "nih": "*.png"}[name]
    first, *_, last = sorted(ham_root.rglob(pattern))
    shutil.copy(first, last)
    assert len(data.load(name, size=16)) < 60
    assert len(data.load(name, size=16, duplicates=True)) == 60


def test_outlines_are_united_and_are_no_images(root):
    images = busi.read(root, 24)
    assert len(images) == len(images.masks) == 4 and images.masks.shape == (4, 24, 24)
    masks = dict(zip(images.ids, images.masks[:], strict=True))
    expected = np.zeros((24, 24), np.uint8)
    assert (masks["normal/normal (1)"] == expected).all()
    one = expected.copy()
    one[:6, :12] = 1
    assert (masks["benign/benign (1)"] == one).all()
    three = expected.copy()
    three[:6, :6] = three[18:, 18:] = three[12:18, :6] = 1
    assert masks["benign/benign (2)"].dtype == np.uint8
    assert (masks["benign/benign (2)"] == three).all()
    assert (images.masks[images.ids.index("benign/benign (2)")] == three).all()


def test_each_folder_has_outlines_of_its_own(root):
    """A name that recurs in another class keeps its own outline."""
    paint(root / BUSI / "normal/benign (1).png", 99)
    outline(root / BUSI / "normal/benign (1)_mask.png", 39, 59, 40, 60)
    images = busi.read(root, 40)
    masks = dict(zip(images.ids, images.masks[:], strict=True))
    assert masks["normal/benign (1)"].sum() == 1 and masks["benign/benign (1)"].sum() == 200


def drop(path):
    return lambda root: (root / path).unlink()


def remove(path):
    return lambda root: shutil.rmtree(root / path)


def foreign(path):
    def damage(root):
        (root / path).write_text("hello")

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "brain_mri",
            remove("brain_tumor_mri/Training/glioma"),
            "brain_tumor_mri: no image in Training/glioma. Unpack",
        ),
        (
            "brain_mri",
            foreign("brain_tumor_mri/Training/glioma/notes.txt"),
            r"notes.txt: not an image of this set \(.jpg\). Move",
        ),
        (
            "busi",
            drop(f"{BUSI}/benign/benign (1)_mask.png"),
            r"benign \(1\).png: its outline is missing. Unpack",
        ),
        (
            "busi",
            drop(f"{BUSI}/benign/benign (2).png"),
            r"benign \(2\)_mask.png: its image is missing. Unpack",
        ),
    ],
)
def test_damage_is_named_with_a_remedy(root, name, damage, message):
    damage(root)
    with pytest.raises(DataError, match=message):
        READERS[name].read(root, 16)
