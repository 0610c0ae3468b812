"""Readers hold labels against files, in the publishers' layouts; nothing is skipped silently."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medrobust_utils import data
from medrobust_utils.core import env
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import decoding, ham10000, nih


def change(path: Path, edit):
    table = pd.read_csv(path)
    edit(table).to_csv(path, index=False)


def test_ham10000_is_read_by_lesion(ham_root, skin):
    images = ham10000.read(ham_root, 24)
    assert images.images.shape == (60, 24, 24, 3) and images.images.dtype == np.uint8
    assert not images.synthetic and not images.complete and not images.multi_label
    assert len(np.unique(images.groups)) == 30
    assert (images.groups[::2] == images.groups[1::2]).all()
    expected = skin.targets[np.arange(60) // 2 * 2]
    assert (images.targets == expected).all()
    assert images.census["images_listed"] == 60


def test_pixels_are_those_of_the_file(ham_root):
    images = ham10000.read(ham_root, 24)
    file = ham_root / "ham10000" / "HAM10000_images_part_2" / f"{images.ids[45]}.jpg"
    expected = Image.open(file).convert("RGB").resize((24, 24), Image.Resampling.BICUBIC)
    assert (images.images[45] == np.asarray(expected)).all()


def test_nih_is_multi_label_by_patient(nih_root, chest):
    images = nih.read(nih_root, 32)
    assert images.images.shape == (60, 32, 32, 1)
    assert (images.targets == chest.targets[:60]).all()
    assert (images.images[:30] == chest.images[:30]).all()  # PNG keeps every pixel
    assert len(np.unique(images.groups)) == 20


def test_official_lists_split_nih(nih_root):
    images = nih.read(nih_root, 16)
    split = nih.official_split(images, nih_root)
    assert (len(split.train), len(split.val)) == (45, 15)
    lists = nih_root / "nih_chestxray14" / "test_list.txt"
    lists.write_text(lists.read_text() + f"{images.ids[0]}.png\n")
    with pytest.raises(DataError, match="none or both"):
        nih.official_split(images, nih_root)


def test_exact_duplicates_go_and_contradictions_go_altogether(ham_root):
    part = ham_root / "ham10000" / "HAM10000_images_part_1"
    names = sorted(path.stem for path in part.iterdir())
    table = pd.read_csv(ham_root / "ham10000" / "HAM10000_metadata.csv").set_index("image_id")
    same = next(
        (a, b)
        for a in names
        for b in names
        if a < b and table.dx[a] == table.dx[b] and table.lesion_id[a] != table.lesion_id[b]
    )
    other = next(
        (a, b)
        for a in names
        for b in names
        if table.dx[a] != table.dx[b] and not {a, b} & set(same)
    )
    for first, second in (same, other):
        shutil.copy(part / f"{first}.jpg", part / f"{second}.jpg")
    images = ham10000.read(ham_root, 16)
    assert images.census["exact_duplicates_removed"] == 1
    assert images.census["contradictory_labels_dropped"] == 2
    assert set(names) - set(images.ids) == {same[1], *other}
    assert len(images) == 57 == len(images.images)


def no_label(root):
    change(root / "ham10000/HAM10000_metadata.csv", lambda t: t.iloc[1:])


def no_file(root):
    (root / "ham10000/HAM10000_images_part_1/ISIC_0000003.jpg").unlink()


def truncated(root):
    path = root / "ham10000/HAM10000_images_part_1/ISIC_0000003.jpg"
    path.write_bytes(path.read_bytes()[:300])


def not_an_image(root):
    (root / "ham10000/HAM10000_images_part_1/ISIC_0000003.jpg").write_bytes(b"<html>404</html>")


def foreign_file(root):
    (root / "ham10000/HAM10000_images_part_1/notes.txt").write_text("hello")


def unknown_class(root):
    change(root / "ham10000/HAM10000_metadata.csv", lambda t: t.replace({"dx": {t.dx[0]: "xyz"}}))


def listed_twice(root):
    change(root / "ham10000/HAM10000_metadata.csv", lambda t: pd.concat([t, t.iloc[:1]]))


def empty_cell(root):
    change(root / "ham10000/HAM10000_metadata.csv", lambda t: t.assign(dx=t.dx.where(t.index != 4)))


def no_column(root):
    change(root / "ham10000/HAM10000_metadata.csv", lambda t: t.drop(columns="lesion_id"))


def no_table(root):
    (root / "ham10000/HAM10000_metadata.csv").unlink()


def two_places(root):
    folder = root / "ham10000"
    shutil.copy(
        folder / "HAM10000_images_part_1/ISIC_0000003.jpg",
        folder / "HAM10000_images_part_2/ISIC_0000003.jpg",
    )


def no_folder(root):
    shutil.rmtree(root / "ham10000")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_label, "ISIC_0000000.*no line in the label file"),
        (no_file, "ISIC_0000003"),
        (truncated, "ISIC_0000003.*download it again"),
        (not_an_image, "ISIC_0000003.*cannot be read"),
        (foreign_file, "notes.txt"),
        (unknown_class, "unknown class .*xyz"),
        (listed_twice, "ISIC_0000000 is listed twice"),
        (empty_cell, "line 6 has an empty"),
        (no_column, "lesion_id"),
        (no_table, "HAM10000_metadata"),
        (two_places, "ISIC_0000003.*also lies at"),
        (no_folder, "ham10000 is missing.*data_download"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_is_named_with_a_remedy(ham_root, damage, message):
    damage(ham_root)
    with pytest.raises(DataError, match=message):
        ham10000.read(ham_root, 16)


@pytest.mark.parametrize(
    ("label", "message"),
    [("Cough", "unknown finding 'Cough'"), ("No Finding|Mass", "both 'No Finding' and")],
)
def test_nih_labels_are_checked(nih_root, label, message):
    path = nih_root / "nih_chestxray14/Data_Entry_2017_v2020.csv"
    change(path, lambda t: t.assign(**{"Finding Labels": [label, *t["Finding Labels"][1:]]}))
    with pytest.raises(DataError, match=message):
        nih.read(nih_root, 16)


def test_the_cache_is_used_and_a_changed_file_is_decoded_again(ham_root, monkeypatch):
    first = ham10000.read(ham_root, 16)
    calls = []
    monkeypatch.setattr(decoding, "decode", lambda *a: calls.append(a))
    again = ham10000.read(ham_root, 16)
    assert not calls and again.checksum == first.checksum
    monkeypatch.undo()
    path = ham_root / "ham10000/HAM10000_images_part_1/ISIC_0000005.jpg"
    Image.new("RGB", (40, 30), "red").save(path)
    assert ham10000.read(ham_root, 16).checksum != first.checksum


def test_an_interrupted_cache_is_never_taken_for_whole(ham_root, home, monkeypatch):
    real = decoding.decode

    def fails_late(path, size, channels):
        if "0000050" in path.name:
            raise KeyboardInterrupt
        return real(path, size, channels)

    monkeypatch.setattr(decoding, "decode", fails_late)
    with pytest.raises(KeyboardInterrupt):
        ham10000.read(ham_root, 16)
    monkeypatch.setattr(decoding, "decode", real)
    assert not list((home / "decoded").glob("*"))
    assert len(ham10000.read(ham_root, 16)) == 60


def test_unset_and_wrong_roots_are_explained(monkeypatch, tmp_path):
    monkeypatch.delenv("MEDROBUST_DATA", raising=False)
    with pytest.raises(DataError, match="MEDROBUST_DATA is not set"):
        data.load("nih", size=16)
    monkeypatch.setenv("MEDROBUST_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="not a folder"):
        env.data_root()
    with pytest.raises(DataError, match="Known: .*ham10000"):
        data.load("imagenet", size=16)
