"""Archives: what is in them comes out whole, and nothing of a hostile one does."""

import gzip
import io
import random
import stat
import tarfile
import zipfile

import pytest

from medrobust_utils.core.errors import DataError
from medrobust_utils.data.download import unpack as unpacking
from medrobust_utils.data.download.unpack import check, unpack

INNER = {"a/1.png": b"one" * 999, "a/2.png": b"two", "b/1.png": b"three"}


def make_zip(path, content, **attributes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, data)
    return path


def make_tar(path, content, **attributes):
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def tree(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["s.zip", "s.tar", "s.tar.gz"])
def test_all_of_an_archive_comes_out_without_litter_and_leading_folder(tmp_path, name):
    litter = [("set/Thumbs.db", b"x"), ("__MACOSX/a/1.png", b"x"), ("set/a/.hidden", b"x")]
    content = [(f"set/{key}", data) for key, data in INNER.items()] + litter
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, content)
    stale = tmp_path / "out.unpacking" / "half.png"
    stale.parent.mkdir()
    stale.write_bytes(b"what a killed run left")
    assert tree(unpack(archive, tmp_path / "out", lift="set")) == INNER
    assert not stale.parent.exists()


def test_the_parts_of_a_cut_archive_are_read_as_one(tmp_path):
    whole = make_zip(tmp_path / "s.zip", INNER.items()).read_bytes()
    parts = [tmp_path / f"s.zip.00{number}" for number in (1, 2, 3)]
    for part, start, end in zip(parts, (0, 50, 90), (50, 90, None), strict=True):
        part.write_bytes(whole[start:end])
    assert tree(unpack(parts, tmp_path / "out")) == INNER
    with pytest.raises(DataError, match=r"s\.zip\.001: is damaged"):
        unpack(parts[:2], tmp_path / "less")
    assert not (tmp_path / "less").exists()


HOSTILE_NAMES = [
    ("../out.png",),
    ("/etc/out.png",),
    ("a/../../out.png",),
    ("C:/out.png",),
    ("a\\..\\out.png",),
    ("a/1.png", "a/1.png"),
    ("a/1.png", "A/1.png"),
    ("a/1.png", "a/1.PNG"),
    ("a", "a/1.png"),
    ("a\x07.png",),
    ("x" * 300 + ".png",),
    ("caf\u00e9.png", "cafe\u0301.png"),
]


@pytest.mark.parametrize("names", HOSTILE_NAMES, ids=lambda names: "+".join(names)[:24])
@pytest.mark.parametrize("name", ["s.zip", "s.tar.gz"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_leads_outside_or_hides_another_is_refused(tmp_path, name, names):
    maker = make_zip if name.endswith("zip") else make_tar
    archive = maker(tmp_path / name, [("good.png", b"x"), *((each, b"y") for each in names)])
    _refused(archive, tmp_path)


def _refused(archive, tmp_path, match=None):
    target = tmp_path / "place" / "out"
    with pytest.raises(DataError, match=match) as caught:
        unpack(archive, target)
    assert str(archive) in str(caught.value)
    assert list((tmp_path / "place").iterdir()) == [], "something of it was left"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path, kind):
    content = [("good.png", b"")]
    archive = make_tar(tmp_path / "s.tar.gz", content, type=kind, linkname="/etc/passwd")
    _refused(archive, tmp_path, "link or a device")


def test_a_link_in_a_zip_is_refused(tmp_path):
    mode = (stat.S_IFLNK | 0o777) << 16
    archive = make_zip(tmp_path / "s.zip", [("a", b"/etc/passwd")], external_attr=mode)
    _refused(archive, tmp_path, "link or a device")


def test_an_encrypted_entry_is_refused(tmp_path):
    archive = make_zip(tmp_path / "s.zip", [("a.png", b"x")])
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    _refused(archive, tmp_path, "encrypted")


@pytest.mark.parametrize("name", ["s.zip", "s.tar.gz"])
def test_a_bomb_is_refused_by_the_bytes_it_really_has(tmp_path, name, monkeypatch):
    monkeypatch.setattr(unpacking, "ALWAYS", 1000)
    content = [(f"{number}.png", bytes(300_000)) for number in range(20)]
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, content)
    _refused(archive, tmp_path, "swells")
    with pytest.raises(DataError, match="swells"):
        check(archive)


def test_a_bomb_whose_header_lies_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "ALWAYS", 1000)
    archive = make_zip(tmp_path / "s.zip", [("a.png", bytes(3_000_000))])
    data = archive.read_bytes().replace(
        (3_000_000).to_bytes(4, "little"), (9).to_bytes(4, "little")
    )
    archive.write_bytes(data)
    _refused(archive, tmp_path, "damaged|swells")


@pytest.mark.parametrize("name", ["s.zip", "s.tar", "s.tar.gz"])
def test_a_shortened_archive_never_counts_as_whole(tmp_path, name):
    content = [(f"{n}.png", random.Random(n).randbytes(2000)) for n in range(3)]
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, content)
    whole = archive.read_bytes()
    if name == "s.tar":
        whole = whole[: 3 * (512 + 2048) + 1024]  # tar fills up to ten kilobytes with nothing
    for length in range(0, len(whole) - 1, 97):
        archive.write_bytes(whole[:length])
        _refused(archive, tmp_path)


def test_a_flipped_byte_is_noticed_in_what_was_packed(tmp_path):
    content = [("a.png", random.Random(0).randbytes(5000))]
    for maker, name in ((make_zip, "s.zip"), (make_tar, "s.tar.gz")):
        archive = maker(tmp_path / name, content)
        data = bytearray(archive.read_bytes())
        data[2500] ^= 1
        archive.write_bytes(data)
        with pytest.raises(DataError, match="damaged"):
            check(archive)
        _refused(archive, tmp_path, "damaged")


def test_what_is_no_archive_or_empty_is_refused(tmp_path):
    for name in ("s.zip", "s.tar", "s.tar.gz"):
        archive = tmp_path / name
        archive.write_bytes(gzip.compress(b"text") if name.endswith("gz") else b"<html>text")
        _refused(archive, tmp_path)
    _refused(make_zip(tmp_path / "empty.zip", []), tmp_path, "holds no file")
