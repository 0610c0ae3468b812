"""Downloads: every byte right and in place, or nothing there and an error that says what to do."""

import csv
import errno
import hashlib
import io
import json
import os
import random
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medrobust_utils import __main__ as cli
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import catalogue, download
from medrobust_utils.data.catalogue import DataSet, RemoteFile
from medrobust_utils.data.download import command, download_set, placing, transfer

ROOT = Path(__file__).resolve().parents[1]
SETS = catalogue.load()


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.plan(path)`` names the fault of a request, or None."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Silence."""

    def do_GET(self):
        path, self.close_connection = self.path.partition("?")[0], True
        body, fault = self.server.files.get(path, b""), self.server.plan(path)
        self.server.asked.append((path, self.headers.get("Range")))
        fault = fault if path in self.server.files else 404
        if isinstance(fault, int):
            return self.answer(fault, b"no")
        if fault == "circle" or fault == "elsewhere":
            to = self.path if fault == "circle" else "/elsewhere"
            return self.answer(302, b"", {"Location": to})
        if fault == "page":
            return self.answer(200, b"<!DOCTYPE html><p>sign in</p>")
        headers, status, start = {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, 200, 0
        wanted = self.headers.get("Range")
        if wanted and fault != "no range" and self.headers.get("If-Range") == headers["ETag"]:
            status, start = 206, int(wanted[6:-1])
            first = start + 1 if fault == "wrong range" else start
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        if fault == "packed":
            headers["Content-Encoding"] = "gzip"
        rest = body[start:]
        sent = rest[: len(rest) // 2] if fault in ("cut", "half", "no range") else rest
        self.answer(status, sent, headers | {"Content-Length": str(len(rest))})
        if fault == "half":
            self.wfile.flush()
            self.server.half.set()
            self.server.go_on.wait(60)
        self.server.sent += len(sent)

    def answer(self, status, body, headers=()):
        self.send_response(status)
        plain = {"Content-Length": str(len(body)), "Connection": "close"}
        for name, value in (plain | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, and downloads that do not wait long for it."""
    monkeypatch.setattr(transfer, "PAUSE", 0)
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads, found.files, found.plan = True, {}, lambda path: None
    found.asked, found.sent, found.half, found.go_on = [], 0, threading.Event(), threading.Event()
    found.at = f"http://127.0.0.1:{found.server_address[1]}"
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    found.go_on.set()
    found.shutdown()
    found.server_close()


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


def zipped(content, mode=0):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def tarred(content, **attributes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


CONTENT = {
    f"class {k}/{i}.png": random.Random(3 * k + i).randbytes(20_000)
    for k in (0, 1)
    for i in (0, 1, 2)
}
ARCHIVE = zipped(CONTENT.items())
MD5 = hashlib.md5(ARCHIVE).hexdigest()


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def entry(*files, **changes):
    """A data set as the catalogue would have it."""
    words = dict.fromkeys(("title", "publisher", "page", "licence", "cite", "size", "terms"), "-")
    words |= dict.fromkeys(("use", "splits", "leaks", "treatment", "by_hand"), "")
    plain = {"name": "drawn", "reader": "drawn", "folder": "drawn set", "access": "open"}
    return DataSet(**words | plain | {"layout": (), "counts": {}, "files": files} | changes)


def get(server, root, *hosts, **changes):
    """Download the archive from ``hosts``; what lies in place then."""
    for host in hosts or "a":
        server.files.setdefault(f"/{host}", ARCHIVE)
    urls = tuple(f"{server.at}/{host}" for host in hosts or "a")
    download_set(entry(RemoteFile("set.zip", urls, unpack=".", **changes)), root)
    return tree(root / "drawn set")


def nothing_in_place(root):
    return {path.name for path in root.iterdir()} <= {".medrobust", "medrobust.lock.json"}


def test_a_download_that_broke_off_goes_on_at_the_byte(server, tmp_path):
    server.plan = lambda path: "cut" if len(server.asked) < 3 else None
    assert get(server, tmp_path) == CONTENT
    starts = [int(wanted[6:-1]) for _, wanted in server.asked[1:]]
    assert len(starts) == 3 and 0 < starts[0] < starts[1] < starts[2]
    assert server.sent < 1.5 * len(ARCHIVE), "it began anew each time"


@pytest.mark.parametrize(
    "faults", [["cut", "wrong range"], ["cut", 416], [503, 429, None], ["elsewhere"], [500]]
)
def test_a_server_that_fails_for_a_while_is_borne_with(server, tmp_path, faults):
    server.files["/elsewhere"] = ARCHIVE
    left = list(faults)
    server.plan = lambda path: left.pop(0) if left else None
    assert get(server, tmp_path) == CONTENT and not left


def test_a_file_that_changed_meanwhile_is_begun_anew(server, tmp_path):
    def plan(path):
        if not server.asked:
            server.files["/a"] = zipped([("other.png", bytes(90_000))])
            return "cut"
        server.files["/a"] = ARCHIVE
        return None

    assert get(server, tmp_path) == CONTENT


WORDS = {
    "no range": "connection failed",
    503: "busy or out of order",
    404: "HTTP 404",
    403: "accepted terms",
    "page": "web page instead",
    "circle": "leads nowhere",
    "packed": "sent packed",
}


@pytest.mark.parametrize("fault", WORDS)
def test_what_a_server_did_is_said_and_a_mirror_is_tried(server, tmp_path, fault):
    server.plan = lambda path: fault if path == "/a" else None
    with pytest.raises(DataError, match=WORDS[fault]) as caught:
        get(server, tmp_path)
    assert f"{server.at}/a" in str(caught.value) and "set.zip" in str(caught.value)
    assert nothing_in_place(tmp_path)
    assert get(server, tmp_path, "a", "b") == CONTENT


@pytest.mark.parametrize(
    "known", [{"md5": "0" * 32}, {"sha256": "0" * 64}, {"bytes": len(ARCHIVE) + 1}]
)
def test_a_file_that_is_not_the_publishers_is_refused(server, tmp_path, known):
    with pytest.raises(DataError, match="not the publisher's"):
        get(server, tmp_path, **known)
    assert nothing_in_place(tmp_path)


def test_a_later_download_is_held_to_the_first_and_what_is_in_place_stays(server, tmp_path):
    assert get(server, tmp_path, md5=MD5) == get(server, tmp_path, md5=MD5) == CONTENT
    assert len(server.asked) == 1, "what is there is not asked for"
    next((tmp_path / "drawn set").rglob("*.png")).unlink()
    assert get(server, tmp_path) == CONTENT, "what was lost comes again"
    (tmp_path / "drawn set").rename(tmp_path / "moved away")
    server.files["/a"] = zipped([("other.png", b"x")])
    with pytest.raises(DataError, match=r"first good download had.*medrobust\.lock\.json"):
        get(server, tmp_path)
    assert not (tmp_path / "drawn set").exists()


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
files = (RemoteFile("set.zip", (sys.argv[1],), unpack="."), RemoteFile("t.csv", (sys.argv[2],)))
download_set(entry(*files), Path(sys.argv[3]))
"""


@pytest.mark.parametrize("where", ["a", "b"])
def test_two_downloads_do_not_meet_and_a_killed_one_is_gone_on_with(server, tmp_path, where):
    server.files = {"/a": ARCHIVE, "/b": bytes(300_000)}
    server.plan = lambda path: "half" if path == f"/{where}" and not server.half.is_set() else None
    words = [sys.executable, "-c", CHILD, f"{server.at}/a", f"{server.at}/b", str(tmp_path)]
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    child = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": paths})
    assert server.half.wait(120)
    with pytest.raises(DataError, match="another download writes there"):
        get(server, tmp_path)
    while child.poll() is None and not any(p.stat().st_size for p in tmp_path.rglob("*.part")):
        time.sleep(0.01)
    child.kill()
    child.wait()
    server.go_on.set()
    assert not (tmp_path / "drawn set").exists()
    files = [
        RemoteFile("set.zip", (f"{server.at}/a",), unpack="."),
        RemoteFile("t.csv", (f"{server.at}/b",)),
    ]
    asked = len(server.asked)
    download_set(entry(*files), tmp_path)
    assert tree(tmp_path / "drawn set") == CONTENT | {"t.csv": bytes(300_000)}
    assert server.asked[asked][0] == f"/{where}" and server.asked[asked][1], "it began anew"
    assert [path.name for path in (tmp_path / ".medrobust").iterdir()] == ["busy"]


def test_a_full_disk_is_said_before_it_is_full(server, tmp_path, monkeypatch):
    monkeypatch.setattr(placing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(DataError, match="10 bytes are free, and set.zip needs .* Make room"):
        get(server, tmp_path)


PLACE = [errno.ENOSPC, errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOTCONN]


@pytest.mark.parametrize("number", PLACE, ids=errno.errorcode.get)
@pytest.mark.parametrize("at", ["HTTPDownloader.__call__", "file_hash", "unpack"])
def test_no_file_is_blamed_for_an_error_of_the_place(server, tmp_path, monkeypatch, at, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "here"))

    target = "zipfile.ZipFile.extractall" if at == "unpack" else f"pooch.{at}"
    with monkeypatch.context() as broken:
        broken.setattr(target, fail)
        with pytest.raises(DataError, match="here: ") as caught:
            get(server, tmp_path)
    words = str(caught.value).lower()
    assert not any(word in words for word in ("delete", "remove", "download it again", "damaged"))
    assert get(server, tmp_path) == CONTENT and len(server.asked) <= 2, "nothing came twice"


def test_a_record_that_cannot_be_read_and_a_place_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "medrobust.lock.json").write_text('{"files": 3')
    with pytest.raises(DataError, match="Restore it, or delete it"):
        download_set(entry(), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file.*another folder with --dest"):
        download_set(entry(), tmp_path / "file" / "below")


GOOD = [("good.png", b"x" * 2000)]
HOSTILE = {
    "outside": [("../out.png", b"y")],
    "absolute": [("/etc/out.png", b"y")],
    "sideways": [("a/../../out.png", b"y")],
    "backslash": [("a\\..\\out.png", b"y")],
    "twice": [("a.png", b"y"), ("a.png", b"z")],
    "file and folder": [("a", b"y"), ("a/1.png", b"y")],
    "too long": [("x" * 300 + ".png", b"y")],
}
BROKEN = {
    "link": {
        "zip": zipped(GOOD, mode=stat.S_IFLNK | 0o777),
        "tar.gz": tarred([("l", b"")], type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    },
    "hard link": {"tar.gz": tarred([("l", b"")], type=tarfile.LNKTYPE, linkname="/etc/passwd")},
    "device": {"tar.gz": tarred([("d", b"")], type=tarfile.CHRTYPE)},
    "shortened": {"zip": zipped(GOOD)[:-9], "tar.gz": tarred(GOOD)[:-9]},
    "flipped": {"zip": zipped(GOOD)[:40] + b"?" + zipped(GOOD)[41:]},
    "no archive": {"zip": b"text", "tar.gz": b"text"},
    "empty": {"zip": zipped([]), "tar.gz": tarred([])},
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", [*HOSTILE, *BROKEN])
def test_an_archive_is_unpacked_whole_and_inside_or_not_at_all(tmp_path, what):
    content = [*GOOD, *HOSTILE.get(what, ())]
    made = BROKEN.get(what) or {"zip": zipped(content), "tar.gz": tarred(content)}
    for suffix, data in made.items():
        archive = tmp_path / f"s.{suffix}"
        archive.write_bytes(data)
        with pytest.raises(DataError, match=r"s\.(zip|tar\.gz): "):
            placing.unpack(archive, tmp_path / "in" / "out")
        assert list((tmp_path / "in").iterdir()) == [], "something of it was left"
        archive.unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_litter_of_systems_stays_out_of_the_set(tmp_path):
    content = [
        *CONTENT.items(),
        ("Thumbs.db", b"x"),
        ("__MACOSX/a/1.png", b"x"),
        ("a/.hidden", b"x"),
    ]
    for archive, data in (("s.zip", zipped(content)), ("s.tgz", tarred(content))):
        (tmp_path / archive).write_bytes(data)
        placing.unpack(tmp_path / archive, tmp_path / "out", "below")
        assert tree(tmp_path / "out" / "below") == CONTENT


def ham_server(server):
    """What Dataverse serves: a list, two archives and a table."""
    entries, lines = [], ["lesion_id,image_id,dx"]
    for number in (1, 2):
        names = [f"ISIC_{number}{i}" for i in range(6)]
        data = zipped((f"{name}.jpg", picture(int(name[5:]), "JPEG")) for name in names)
        lines += [f"HAM_{name},{name},{'nv' if i < 4 else 'mel'}" for i, name in enumerate(names)]
        server.files[f"/access/datafile/{number}"] = data
        about = {"id": number, "filename": f"HAM10000_images_part_{number}.zip"}
        entries.append({"dataFile": about | {"md5": hashlib.md5(data).hexdigest()}})
    server.files["/access/datafile/3"] = "\n".join(lines).encode() + b"\n"
    entries += [{"dataFile": {"id": 3, "filename": "HAM10000_metadata.tab", "md5": "another"}}]
    listing = json.dumps({"data": [*entries, {"dataFile": {"id": 9, "filename": "other.zip"}}]})
    server.files["/datasets/:persistentId/versions/:latest/files"] = listing.encode()


def test_ham10000_comes_as_dataverse_lists_it_whole_or_in_equal_shares(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "DATAVERSE", server.at)
    with pytest.raises(DataError, match="HTTP 404"):
        download_set(SETS["ham10000"], tmp_path)
    ham_server(server)
    for root, share, nv in ((tmp_path / "whole", None, 8), (tmp_path / "part", 6, 3)):
        download_set(SETS["ham10000"], root, share=share)
        names = tree(root / "ham10000")
        assert len(names) == (share or 12) + 1 and "HAM10000_metadata.csv" in names
        census = command.verify(SETS["ham10000"], root)
        assert f"nv: {nv} of 6,705" in census and f"mel: {(share or 12) - nv} of" in census
        assert "a stand-in for the whole set" in census
    assert not any(path.endswith("/9") for path, _ in server.asked)
    server.files["/datasets/:persistentId/versions/:latest/files"] = b'{"data": []}'
    with pytest.raises(DataError, match=r"ham10000: the list .* cannot be read"):
        download_set(SETS["ham10000"], tmp_path / "new")


class FakeHub:
    """Stands in for kagglehub: writes what a set holds."""

    def __init__(self, content):
        self.content = content

    def dataset_download(self, handle):
        folder = Path(os.environ["KAGGLEHUB_CACHE"]) / handle
        for name, data in self.content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return str(folder)

    def competition_download(self, handle, *, path):
        file = Path(os.environ["KAGGLEHUB_CACHE"]) / handle / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(self.content[path])
        return str(file)


def from_hub(monkeypatch, root, name, content, **options):
    monkeypatch.setitem(sys.modules, "kagglehub", FakeHub(content))
    download_set(SETS[name], root, **options)
    return tree(root / SETS[name].folder)


def test_sets_of_kaggle_are_laid_out_as_they_are_read(tmp_path, monkeypatch):
    images = {
        f"{part}/{kind}/1.jpeg": picture(i, "JPEG")
        for i, part in enumerate(("train", "test"))
        for kind in ("NORMAL", "PNEUMONIA")
    }
    doubled = {f"chest_xray/{name}": data for name, data in images.items()}
    doubled |= {f"chest_xray/chest_xray/{name}": data for name, data in images.items()}
    doubled |= {"chest_xray/__MACOSX/._x": b"x", "chest_xray/chest_xray/.DS_Store": b"x"}
    assert from_hub(monkeypatch, tmp_path, "chest_xray", doubled) == images
    images = {
        f"train/{patient}_{eye}.jpeg": picture(patient, "JPEG")
        for patient in (1, 2)
        for eye in ("left", "right")
    }
    whole, table = (
        zipped(images.items()),
        "image,level\n" + "".join(f"{Path(n).stem},0\n" for n in images),
    )
    fifth = len(whole) // 5 + 1
    parts = {f"train.zip.00{i + 1}": whole[i * fifth : (i + 1) * fifth] for i in range(5)}
    parts["trainLabels.csv.zip"] = zipped([("trainLabels.csv", table)])
    found = from_hub(monkeypatch, tmp_path, "diabetic_retinopathy", parts)
    assert found == images | {"trainLabels.csv": table.encode()}


def test_a_part_of_a_set_in_folders_keeps_outlines_with_their_images(tmp_path, monkeypatch):
    names = [
        f"{c}/{c} ({n}){m}.png"
        for c in ("normal", "benign", "malignant")
        for n in range(4)
        for m in ("", "_mask", "_mask_1")
    ]
    content = {name: picture(number) for number, name in enumerate(names)}
    with monkeypatch.context() as signed_in:
        signed_in.setattr(download, "has_credentials", lambda: True)
        signed_in.setattr(transfer, "TRIES", 0)  # the publisher is down: Kaggle's copy is taken
        found = sorted(from_hub(monkeypatch, tmp_path, "busi", content, share=6))
    assert len(found) == 18 and set(found) <= set(names)
    assert [sum(name.startswith(kind) for name in found) for kind in "nbm"] == [6, 6, 6]
    classes = {f"a{i}": "a" for i in range(9)} | {"b": "b"}
    chosen = placing.shares(classes, 5)
    assert chosen == placing.shares(dict(reversed(classes.items())), 5) and "b" in chosen
    assert len(chosen) == 5 and placing.shares(classes, 99) == sorted(classes)


def test_what_kaggle_refuses_is_said_with_the_page_of_the_terms(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", FakeHub(None))
    with pytest.raises(DataError, match=r"Accept its terms at https://www\.kaggle\.com/datasets/"):
        download_set(SETS["brain_tumor_mri"], tmp_path)
    assert nothing_in_place(tmp_path)


def test_isic_comes_as_images_and_a_table_and_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "QUERIES", {"nevus": "a", "melanoma": "b"})
    monkeypatch.setattr(download, "ISIC", f"{server.at}/list")
    images = {f"/{i}": picture(i, "JPEG") for i in range(5)}
    results = [
        {
            "isic_id": f"ISIC_{i}",
            "copyright_license": "CC-0",
            "files": {"full": {"url": f"{server.at}/{i}", "size": len(images[f"/{i}"])}},
            "metadata": {"clinical": {"patient_id": f"IP_{i}"}},
        }
        for i in range(5)
    ]
    server.files = images | {"/list": json.dumps({"results": results, "next": None}).encode()}
    broken = server.files.pop("/3")
    with pytest.raises(DataError, match=r"ISIC_3\.jpg"):
        download_set(SETS["isic"], tmp_path)
    server.files["/3"] = broken
    server.asked.clear()
    download_set(SETS["isic"], tmp_path)
    assert [path for path, _ in server.asked] == ["/3", "/4"]
    rows = list(csv.DictReader((tmp_path / "isic" / "metadata.csv").open()))
    assert [row["isic_id"] for row in rows] == [f"ISIC_{i}" for i in range(5)]
    assert rows[0] == {
        "isic_id": "ISIC_0",
        "diagnosis": "nevus",
        "lesion_id": "",
        "patient_id": "IP_0",
        "copyright_license": "CC-0",
    }
    assert (tmp_path / "isic" / "images" / "ISIC_3.jpg").read_bytes() == broken
    results[0]["isic_id"] = "../out"
    server.files["/list"] = json.dumps({"results": results, "next": None}).encode()
    with pytest.raises(DataError, match="an image is called"):
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
            assert all(file.urls[0] in said for file in dataset.files)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["busi", "mnist", "--dest", "new"], "unknown data set 'mnist'. Known: nih_chestxray14"),
        (["busi"], "name a folder"),
        (["chestmnist/other.npz", "--dest", "new"], "no file 'other.npz'. Known: chestmnist.npz"),
        (["busi", "pannuke", "--subset", "9", "--dest", "new"], "cannot take a part of pannuke"),
        (["busi", "--subset", "0", "--dest", "new"], "at least one image"),
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


def test_the_command_fetches_single_files_and_names_what_is_damaged(
    server, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / SETS["iq_othnccd"].folder
    for number in (1, 2):
        server.files[f"/{number}"] = zipped([("a.npy", picture(number))])
    files = [RemoteFile(f"{n}.npz", (f"{server.at}/{n}",)) for n in (1, 2)]
    monkeypatch.setattr(
        catalogue,
        "load",
        lambda: {"drawn": entry(*files, reader="iq_othnccd", folder=folder.name)},
    )
    for name in ("drawn/1.npz", "drawn/2.npz", "drawn/1.npz"):
        status, said = run(capsys, name, "--dest", str(tmp_path))
        assert status == 1 and "not whole: drawn" in said and "in place" in said
    assert [path for path, _ in server.asked] == ["/1", "/2"]
    for number, kind in enumerate(("Normal", "Bengin", "Malignant")):
        (folder / f"{kind} cases").mkdir()
        whole = picture(number, "JPEG")
        (folder / f"{kind} cases" / "a.jpg").write_bytes(whole if number else whole[:300])
    status, said = run(capsys, "drawn", "--verify", "--dest", str(tmp_path))
    assert status == 1 and "Normal cases/a.jpg: cannot be read" in said


def test_the_script_works_from_anywhere_and_help_needs_no_torch(tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    plain = {"PATH": path, "HOME": str(tmp_path)}
    words = [str(ROOT / "data_download.sh"), "--list", "busi"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=plain)
    assert done.returncode == 0, done.stderr
    assert "busi: Breast Ultrasound" in done.stdout
    code = (
        "import sys; from medrobust_utils.__main__ import main; main(['data', '--list']);"
        "assert 'torch' not in sys.modules and 'kagglehub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
