"""The download command and its sources: Dataverse, Kaggle, the ISIC Archive, parts of sets."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from faulty_server import HASTE, entry, serving, tree
from PIL import Image

from medrobust_utils import __main__ as cli
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import catalogue
from medrobust_utils.data.catalogue import RemoteFile
from medrobust_utils.data.download import dataverse, download_set, isic, kaggle, subset, verify

ROOT = Path(__file__).resolve().parents[1]
HAM = catalogue.load()["ham10000"]


def quiet(_):
    pass


@pytest.fixture(autouse=True)
def nobody_signed_in(monkeypatch, tmp_path):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "MEDROBUST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nobody"))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))


def picture(number, kind="PNG"):
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def ham_server(damage=b""):
    """What Dataverse serves: a list, two archives and a table."""
    served, entries, lines = {}, [], ["lesion_id,image_id,dx"]
    for number in (1, 2):
        names = [f"ISIC_{number}{i}" for i in range(6)]
        data = zipped({f"{name}.jpg": picture(int(name[5:]), "JPEG") for name in names})
        lines += [f"HAM_{name},{name},{'nv' if i < 4 else 'mel'}" for i, name in enumerate(names)]
        served[f"/access/datafile/{number}"] = damage or data
        about = {"id": number, "filename": f"HAM10000_images_part_{number}.zip"}
        about |= {"md5": hashlib.md5(data).hexdigest(), "filesize": len(damage or data)}
        entries.append({"dataFile": about})
    served["/access/datafile/3"] = "\n".join(lines).encode() + b"\n"
    table = {"id": 3, "filename": "HAM10000_metadata.tab", "md5": "of another form"}
    table |= {"originalFileFormat": "text/csv", "originalFileName": "HAM10000_metadata"}
    entries += [{"dataFile": table}, {"dataFile": {"id": 9, "filename": "other.zip", "md5": "0"}}]
    listing = json.dumps({"data": entries}).encode()
    return served | {"/datasets/:persistentId/versions/:latest/files": listing}


def get_ham(root, served, monkeypatch, **options):
    asked = []
    with serving(served, asked.append) as (address, _):
        monkeypatch.setattr(dataverse, "SERVER", address)
        download_set(HAM, root, patience=HASTE, say=quiet, **options)
    return asked


def test_ham10000_comes_in_its_layout_with_the_publishers_checksums(tmp_path, monkeypatch):
    asked = get_ham(tmp_path, ham_server(), monkeypatch)
    assert not any(path.endswith("/9") for path in asked)
    seen = tree(tmp_path / "ham10000")
    assert len(seen) == 13 and "HAM10000_images_part_1/ISIC_10.jpg" in seen
    assert seen["HAM10000_metadata.csv"].startswith(b"lesion_id,")
    assert get_ham(tmp_path, {}, monkeypatch) == [], "nothing is asked for twice"
    found = verify.census(HAM, tmp_path)
    assert found.good and found.files == 12
    assert found.classes["nv"] == 8 and found.classes["mel"] == 4
    assert "nv: 8 of 6,705" in found.differs


def test_a_damaged_archive_of_ham10000_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"HAM10000_images_part_1\.zip(.|\n)*came damaged"):
        get_ham(tmp_path, ham_server(b"no archive"), monkeypatch)
    assert not (tmp_path / "ham10000").exists()


def test_a_part_of_a_set_with_a_table_is_balanced_and_read(tmp_path, monkeypatch):
    get_ham(tmp_path, ham_server(), monkeypatch, share=6)
    found = verify.census(HAM, tmp_path)
    assert found.good and found.files == 6
    assert found.classes["nv"] == found.classes["mel"] == 3
    written = json.loads((tmp_path / "medrobust.lock.json").read_text())
    assert written["sets"]["ham10000"]["subset"] == {"images": 6, "seed": 0}
    assert "a stand-in" in verify.report(HAM, found, 6)
    with pytest.raises(DataError, match="holds a part of 6 images already"):
        get_ham(tmp_path, ham_server(), monkeypatch)


def test_a_part_is_the_same_each_time_and_small_classes_give_all_they_have():
    classes = {f"a{i}": "a" for i in range(9)} | {"b0": "b"}
    chosen = subset.shares(classes, 5)
    assert chosen == subset.shares(dict(reversed(classes.items())), 5)
    assert len(chosen) == 5 and "b0" in chosen
    assert subset.shares(classes, 99) == sorted(classes)


class FakeHub:
    """Stands in for kagglehub: writes what a set holds."""

    def __init__(self, content):
        self.content = content

    def dataset_download(self, handle):
        folder = Path(os.environ["KAGGLEHUB_CACHE"]) / handle
        for name, data in self.content.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return str(folder)

    def competition_download(self, handle, *, path):
        place = Path(os.environ["KAGGLEHUB_CACHE"]) / handle / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.content[path])
        return str(place)


def test_a_set_of_kaggle_is_lifted_out_of_its_folder_and_its_second_copy_goes(
    tmp_path, monkeypatch
):
    images = {
        f"{part}/{label}/{i}.jpeg": picture(i, "JPEG")
        for part in ("train", "test")
        for i, label in enumerate(("NORMAL", "PNEUMONIA"))
    }
    content = {f"chest_xray/{name}": data for name, data in images.items()}
    content |= {f"chest_xray/chest_xray/{name}": data for name, data in images.items()}
    monkeypatch.setitem(sys.modules, "kagglehub", FakeHub(content))
    download_set(catalogue.load()["chest_xray"], tmp_path, say=quiet)
    assert tree(tmp_path / "chest_xray") == images


def test_a_part_of_a_set_in_folders_keeps_outlines_with_their_images(tmp_path, monkeypatch):
    content = {}
    for i, label in enumerate(("normal", "benign", "malignant")):
        for n in range(4):
            content[f"{label}/{label} ({n}).png"] = picture(10 * i + n)
            content[f"{label}/{label} ({n})_mask.png"] = picture(100)
            content[f"{label}/{label} ({n})_mask_1.png"] = picture(101)
    monkeypatch.setitem(sys.modules, "kagglehub", FakeHub(content))
    busi = entry(
        name="busi", reader="busi", folder="Dataset_BUSI_with_GT", access="kaggle", kaggle="d/a/b"
    )
    download_set(busi, tmp_path, share=6, say=quiet)
    names = sorted(tree(tmp_path / "Dataset_BUSI_with_GT"))
    assert len(names) == 18 and all(name in content for name in names)
    assert [sum(name.startswith(c) for name in names) for c in "nbm"] == [6, 6, 6]


def test_the_parts_of_eyepacs_are_joined_and_unpacked(tmp_path, monkeypatch):
    names = [f"{patient}_{eye}" for patient in (1, 2) for eye in ("left", "right")]
    images = {f"train/{n}.jpeg": picture(i, "JPEG") for i, n in enumerate(names)}
    whole, fifth = zipped(images), len(zipped(images)) // 5
    content = {f"train.zip.00{i + 1}": whole[i * fifth : (i + 1) * fifth] for i in range(4)}
    content["train.zip.005"] = whole[4 * fifth :]
    table = "image,level\n" + "".join(f"{name},0\n" for name in names)
    content["trainLabels.csv.zip"] = zipped({"trainLabels.csv": table})
    monkeypatch.setitem(sys.modules, "kagglehub", FakeHub(content))
    download_set(catalogue.load()["diabetic_retinopathy"], tmp_path, say=quiet)
    assert tree(tmp_path / "diabetic_retinopathy") == images | {"trainLabels.csv": table.encode()}


def test_the_copy_on_kaggle_is_tried_where_the_publisher_is_down(tmp_path, monkeypatch):
    content = {"Dataset_BUSI_with_GT/normal/normal (1).png": picture(1)}
    monkeypatch.setitem(sys.modules, "kagglehub", FakeHub(content))
    with serving({}) as (address, _):
        files = (RemoteFile("set.zip", (f"{address}/gone",), unpack="."),)
        changes = {"kaggle": "datasets/a/b", "lift": "Dataset_BUSI_with_GT", "files": files}
        monkeypatch.setattr("medrobust_utils.data.download.access.has_credentials", lambda: False)
        with pytest.raises(DataError, match="HTTP 404"):
            download_set(entry(**changes), tmp_path, patience=HASTE, say=quiet)
        monkeypatch.setattr("medrobust_utils.data.download.access.has_credentials", lambda: True)
        download_set(entry(**changes), tmp_path, patience=HASTE, say=quiet)
    assert list(tree(tmp_path / "drawn set")) == ["normal/normal (1).png"]


def test_one_file_of_several_can_be_taken_and_the_next_later(tmp_path):
    packed = {f"/{n}.npz": zipped({"a.npy": picture(n)}) for n in (1, 2)}
    asked = []
    with serving(packed, asked.append) as (address, _):
        files = tuple(RemoteFile(f"{n}.npz", (f"{address}/{n}.npz",)) for n in (1, 2))
        for only in (["1.npz"], ["2.npz"], ["1.npz"], ["1.npz", "2.npz"]):
            download_set(entry(files=files), tmp_path, only=only, patience=HASTE, say=quiet)
    assert asked == ["/1.npz", "/2.npz"]
    assert tree(tmp_path / "drawn set") == {name[1:]: data for name, data in packed.items()}


def test_what_kaggle_says_is_passed_on_with_the_page_and_links_are_refused(tmp_path, monkeypatch):
    dataset = catalogue.load()["brain_tumor_mri"]
    hub = FakeHub({"Training/notumor/1.jpg": b"x"})
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    plain = hub.dataset_download

    def with_link(handle):
        folder = plain(handle)
        (Path(folder) / "link").symlink_to("/etc")
        return folder

    hub.dataset_download = with_link
    with pytest.raises(DataError, match="is a link"):
        kaggle.download(dataset, tmp_path / "whole", quiet)
    hub.dataset_download = None
    with pytest.raises(DataError, match=r"Accept its terms at https://www\.kaggle\.com/datasets/"):
        kaggle.download(dataset, tmp_path / "whole", quiet)
    assert not (tmp_path / "whole").exists()


def isic_server(address, count):
    results = [
        {
            "isic_id": f"ISIC_{i}",
            "copyright_license": "CC-0",
            "files": {"full": {"url": f"{address}/{i}", "size": len(picture(i, "JPEG"))}},
            "metadata": {"clinical": {"patient_id": f"IP_{i}"}},
        }
        for i in range(count)
    ]
    served = {f"/{i}": picture(i, "JPEG") for i in range(count)}
    return served | {"/list": json.dumps({"results": results, "next": None}).encode()}


def test_isic_comes_as_images_and_a_table_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(isic, "QUERIES", {"nevus": "a", "melanoma": "b"})
    whole = tmp_path / "isic" / "whole" / "isic"
    asked = []
    with serving({}, asked.append) as (address, server):
        server.files = isic_server(address, 5)
        broken = server.files.pop("/3")
        with pytest.raises(DataError, match=r"ISIC_3\.jpg"):
            isic.download(whole, None, HASTE, quiet, f"{address}/list")
        server.files["/3"] = broken
        asked.clear()
        isic.download(whole, None, HASTE, quiet, f"{address}/list")
    assert asked == ["/3", "/4"]
    rows = list(csv.DictReader((whole / "metadata.csv").open()))
    assert [row["isic_id"] for row in rows] == [f"ISIC_{i}" for i in range(5)]
    assert {row["diagnosis"] for row in rows} == {"nevus"}
    assert rows[0]["patient_id"] == "IP_0" and rows[0]["copyright_license"] == "CC-0"
    assert (whole / "images" / "ISIC_3.jpg").read_bytes() == broken


def test_an_isic_list_that_leads_elsewhere_is_refused(tmp_path):
    answer = {"results": [], "next": "http://elsewhere.invalid/list"}
    with (
        serving({"/list": json.dumps(answer).encode()}) as (address, _),
        pytest.raises(DataError, match="which is not the archive"),
    ):
        isic.download(tmp_path / "a" / "b" / "isic", None, HASTE, quiet, f"{address}/list")


def test_an_unreadable_image_is_named_and_the_set_is_not_whole(tmp_path):
    folder = tmp_path / "Dataset_BUSI_with_GT" / "normal"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(picture(1)[:60])
    found = verify.census(catalogue.load()["busi"], tmp_path)
    assert not found.good and found.unreadable == ["normal/a.png"]


def run(capsys, *words):
    status = cli.main(["data", *words])
    said = capsys.readouterr()
    return status, said.out + said.err


@pytest.mark.parametrize("name", catalogue.load())
def test_every_set_says_where_it_comes_from_and_plans_without_writing(name, tmp_path, capsys):
    status, said = run(capsys, "--list", name)
    flat = " ".join(said.split())
    dataset = catalogue.load()[name]
    assert status == 0
    for words in (dataset.title, dataset.page, dataset.size, dataset.layout[0], dataset.use):
        assert " ".join(words.split()) in flat
    status, said = run(capsys, name, "--dry-run", "--dest", str(tmp_path / "new"))
    assert status == 0 and f"{tmp_path}/new/{dataset.folder}" in said
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["busi", "mnist", "--dest", "new"], "unknown data set 'mnist'. Known: nih_chestxray14"),
        (["busi"], "name a folder"),
        (["chestmnist/other.npz", "--dest", "new"], "no file 'other.npz'. Known: chestmnist.npz"),
        (["busi", "pannuke", "--subset", "9", "--dest", "new"], "cannot take a part of pannuke"),
        (["busi", "chest_xray", "--dest", "new"], "https://www.kaggle.com/datasets/paultimothy"),
        (["diabetic_retinopathy", "--dest", "new"], "accept the rules"),
        (["iq_othnccd", "--dest", "new"], "3. on Colab"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_starts(
    words, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    status, said = run(capsys, *words)
    assert status == 2 and text in said
    assert not (tmp_path / "new").exists()


def test_credentials_are_found_and_never_written(tmp_path, capsys, monkeypatch):
    content = {f"Training/{c}/1.jpg": picture(1) for c in ("notumor", "glioma")}
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "hush-hush")
    from kagglehub.config import get_kaggle_credentials

    assert get_kaggle_credentials().key == "hush-hush"
    hub = FakeHub(content)
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    hub.__path__ = []
    status, said = run(capsys, "brain_tumor_mri", "--dest", str(tmp_path / "new"))
    assert status == 1 and "classes were not counted" in said, "two classes are missing"
    written = b"".join(tree(tmp_path / "new").values())
    assert b"hush-hush" not in written and "hush-hush" not in said


def test_the_script_works_from_anywhere_and_help_needs_no_torch(tmp_path):
    script = str(ROOT / "data_download.sh")
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [script, "--list", "busi"], capture_output=True, text=True, cwd=tmp_path, env=plain
    )
    assert done.returncode == 0, done.stderr
    assert "busi: Breast Ultrasound" in done.stdout
    code = (
        "import sys; from medrobust_utils.__main__ import main; main(['data', '--list']);"
        "assert 'torch' not in sys.modules and 'kagglehub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
