"""Downloads through a server that fails: the right bytes in place, or a clear error and nothing."""

import hashlib
import json

import pytest
from faulty_server import HASTE, entry, packed, random, serving, soak, tree

from medrobust_utils.core.errors import DataError
from medrobust_utils.data.catalogue import RemoteFile
from medrobust_utils.data.download import download_set
from medrobust_utils.data.download.lock import Lock, exclusive

ARCHIVE, CONTENT = packed(random.Random(7))
MD5 = hashlib.md5(ARCHIVE).hexdigest()


def quiet(_):
    pass


def remote(address, *hosts, **changes):
    urls = tuple(f"{address}/{host}" for host in hosts)
    return (RemoteFile("set.zip", urls, unpack=".", **changes),)


def get(root, files, **options):
    download_set(entry(files=files), root, patience=HASTE, say=quiet, **options)
    return tree(root / "drawn set")


def test_seeded_ways_to_fail_end_with_the_right_bytes_or_a_clear_error():
    """A few of those that ``make soak`` tries."""
    ended = soak(range(12))
    assert ended["whole"] + ended["refused"] == 12
    assert min(ended.values()) >= 1, "both ends have to come up, or the faults test nothing"


def test_a_download_that_broke_off_goes_on_where_it_was(tmp_path):
    asked = []

    def plan(path):
        asked.append(path)
        return "cut" if len(asked) < 4 else None

    with serving({"/a": ARCHIVE}, plan) as (address, server):
        sent = server.sent = []
        assert get(tmp_path, remote(address, "a", md5=MD5)) == CONTENT
    assert len(asked) == 4
    assert sum(sent) < 2 * len(ARCHIVE), "it began anew each time"


@pytest.mark.parametrize(
    "fault", ["reset", "busy", "gone", "forbidden", "page", "circle", "packed"]
)
def test_a_mirror_is_tried_where_a_host_fails(tmp_path, fault):
    served = {"/a": ARCHIVE, "/b": ARCHIVE}
    with serving(served, lambda path: fault if path == "/a" else None) as (address, _):
        assert get(tmp_path, remote(address, "a", "b")) == CONTENT
    written = json.loads((tmp_path / "medrobust.lock.json").read_text())
    assert written["files"]["drawn/set.zip"]["url"].endswith("/b")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("forbidden", "accepted terms"),
        ("page", "web page instead"),
        ("page untold", "web page instead"),
        ("gone", "HTTP 404"),
        ("busy", "busy or out of order"),
        ("circle", "leads nowhere"),
        ("reset", "connection failed"),
        ("packed", "sent packed"),
        ("no length", "how long the file is"),
    ],
)
def test_what_a_server_did_is_said_in_words(tmp_path, fault, words):
    with serving({"/a": ARCHIVE}, lambda path: fault) as (address, _):
        with pytest.raises(DataError, match=words) as caught:
            get(tmp_path, remote(address, "a"))
        assert f"{address}/a" in str(caught.value)
    assert not (tmp_path / "drawn set").exists()


def test_a_wrong_checksum_is_an_error_and_nothing_is_in_place(tmp_path):
    with serving({"/a": ARCHIVE}) as (address, _):
        with pytest.raises(DataError, match="checksum is not the publisher's"):
            get(tmp_path, remote(address, "a", md5="0" * 32))
        with pytest.raises(DataError, match="announces"):
            get(tmp_path, remote(address, "a", bytes=len(ARCHIVE) + 1))
    assert not (tmp_path / "drawn set").exists()


def test_a_later_download_is_held_to_the_first(tmp_path):
    other, _ = packed(random.Random(8))
    with serving({"/a": ARCHIVE}) as (address, server):
        get(tmp_path, remote(address, "a"))
        (tmp_path / "drawn set").rename(tmp_path / "moved away")
        server.files["/a"] = other
        with pytest.raises(DataError, match=r"first good download had.*medrobust\.lock\.json"):
            get(tmp_path, remote(address, "a"))
        assert not (tmp_path / "drawn set").exists()
        server.files["/a"] = ARCHIVE
        assert get(tmp_path, remote(address, "a")) == CONTENT


def test_what_is_in_place_is_not_asked_for_again(tmp_path):
    asked = []
    with serving({"/a": ARCHIVE}, asked.append) as (address, _):
        files = remote(address, "a")
        get(tmp_path, files)
        get(tmp_path, files)
        assert len(asked) == 1
        next((tmp_path / "drawn set").rglob("*.png")).unlink()
        assert get(tmp_path, files) == CONTENT


def test_a_file_of_the_user_is_never_overwritten(tmp_path):
    own = tmp_path / "drawn set" / next(iter(CONTENT))
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    with serving({"/a": ARCHIVE}) as (address, _):
        with pytest.raises(DataError, match="Move them away"):
            get(tmp_path, remote(address, "a"))
        assert tree(tmp_path / "drawn set") == {next(iter(CONTENT)): b"mine"}
        own.unlink()
        assert get(tmp_path, remote(address, "a")) == CONTENT


def test_of_two_archives_one_alone_is_not_put_in_place(tmp_path):
    with serving({"/a": ARCHIVE}) as (address, _):
        missing = RemoteFile("second.zip", (f"{address}/missing",), unpack=".")
        with pytest.raises(DataError, match=r"second\.zip"):
            get(tmp_path, (*remote(address, "a"), missing))
    assert not (tmp_path / "drawn set").exists()


def test_two_downloads_into_one_folder_do_not_meet(tmp_path):
    with exclusive(tmp_path), pytest.raises(DataError, match="another download writes there"):
        get(tmp_path, ())


def test_a_full_disk_is_said_before_it_is_full(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(
        "medrobust_utils.data.download.resuming.shutil.disk_usage", lambda path: usage
    )
    with (
        serving({"/a": ARCHIVE}) as (address, _),
        pytest.raises(DataError, match="10 bytes are free"),
    ):
        get(tmp_path, remote(address, "a"))


def test_a_broken_lock_file_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "medrobust.lock.json").write_text('{"files": 3')
    with pytest.raises(DataError, match="Restore it, or delete it"):
        Lock(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match="file/below: cannot be written"),
        exclusive(tmp_path / "file" / "below"),
    ):
        pass


def test_an_error_of_the_work_is_not_taken_for_one_of_the_place(tmp_path):
    with pytest.raises(FileExistsError, match="of the work"), exclusive(tmp_path):
        raise FileExistsError("of the work")
    with exclusive(tmp_path):
        pass
