"""The download script against a repository of files on disk: `curl` is a stand-in."""

import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "data_download.sh"
# Serves files named by the last part of the URL; with --continue-at it appends what is missing.
CURL = f"""#!{sys.executable}
import sys
from pathlib import Path
store = Path(__file__).parent
url = next(word for word in sys.argv if word.startswith("https://"))
(store / "log").open("a").write(url + "\\n")
name = url.split("?")[0].rsplit("/", 1)[1]
data = (store / name).read_bytes()
if "--output" in sys.argv:
    target = Path(sys.argv[sys.argv.index("--output") + 1])
    have = target.stat().st_size if target.exists() else 0
    target.open("ab").write(data[have:])
else:
    sys.stdout.buffer.write(data)
"""


@pytest.fixture
def repository(tmp_path):
    """A folder with the stand-in for curl and what it serves: two archives and a table."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "curl").write_text(CURL)
    (store / "curl").chmod(stat.S_IRWXU)
    entries = []
    for number in (1, 2):
        with zipfile.ZipFile(store / str(number), "w") as archive:
            archive.writestr(f"ISIC_{number}.jpg", b"x" * 1000)
        md5 = hashlib.md5((store / str(number)).read_bytes()).hexdigest()
        name = f"HAM10000_images_part_{number}.zip"
        entries.append({"dataFile": {"id": number, "filename": name, "md5": md5}})
    (store / "3").write_text("lesion_id,image_id,dx\nHAM_1,ISIC_1,nv\n")
    table = {"id": 3, "filename": "HAM10000_metadata.tab", "md5": "of another form"}
    table |= {"originalFileFormat": "text/csv", "originalFileName": "HAM10000_metadata"}
    entries += [{"dataFile": table}, {"dataFile": {"id": 9, "filename": "other.zip", "md5": "0"}}]
    (store / "files").write_text(json.dumps({"data": entries}))
    return store


def download(store, *arguments):
    surroundings = {**os.environ, "PATH": f"{store}{os.pathsep}{os.environ['PATH']}"}
    surroundings.pop("MEDROBUST_DATA", None)
    return subprocess.run(
        [str(SCRIPT), *arguments], env=surroundings, capture_output=True, text=True, timeout=60
    )


def fetched(store):
    return (store / "log").read_text().splitlines() if (store / "log").exists() else []


def test_it_fetches_what_is_missing_in_the_expected_layout_and_nothing_twice(repository, tmp_path):
    home = tmp_path / "data" / "ham10000"
    home.mkdir(parents=True)
    begun = home / "HAM10000_images_part_1.zip.part"
    begun.write_bytes((repository / "1").read_bytes()[:50])
    done = download(repository, "--dest", str(tmp_path / "data"), "ham10000")
    assert done.returncode == 0, done.stderr
    seen = sorted(str(p.relative_to(home)) for p in home.rglob("[!.]*") if p.is_file())
    assert seen == [
        "HAM10000_images_part_1/ISIC_1.jpg",
        "HAM10000_images_part_2/ISIC_2.jpg",
        "HAM10000_metadata.csv",
    ]
    first = len(fetched(repository))
    assert not any(url.endswith("/9") for url in fetched(repository))
    assert download(repository, "--dest", str(tmp_path / "data"), "ham10000").returncode == 0
    assert len(fetched(repository)) == first + 1, "only the list is read again"


def test_a_damaged_archive_is_removed_and_reported(repository, tmp_path):
    (repository / "2").write_bytes(b"no archive")
    done = download(repository, "--dest", str(tmp_path), "ham10000")
    assert done.returncode == 1
    assert "HAM10000_images_part_2.zip came damaged" in done.stderr
    assert not (tmp_path / "ham10000" / "HAM10000_images_part_2.zip.part").exists()
    assert not (tmp_path / "ham10000" / "HAM10000_images_part_2").exists()


def test_a_table_of_another_kind_is_refused(repository, tmp_path):
    (repository / "3").write_text("<html>Sign in</html>")
    done = download(repository, "--dest", str(tmp_path), "ham10000")
    assert done.returncode == 1
    assert "not the table" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--list"], 0, "nih_chestxray14"),
        (["--list"], 0, "trainLabels.csv"),
        ([], 0, "https://doi.org/10.7910/DVN/DBW86T"),
        (["--dry-run", "--dest", "here", "ham10000"], 0, "would fetch"),
        (["ham10000"], 1, "name a folder"),
        (["--dest"], 1, "needs a folder"),
        (["mnist"], 1, "unknown: mnist"),
        (["--dest", "here", "nih_chestxray14"], 1, "by hand"),
        (
            ["--dest", "here", "diabetic_retinopathy"],
            1,
            "diabetic_retinopathy has to be fetched by hand",
        ),
        ([], 0, "brain_tumor_mri/\n               Training/{notumor"),
        (["--list", "chest_xray"], 0, "chest_xray/\n               {train,val,test}"),
        (["iq_othnccd"], 1, "name a folder"),
        (["--list", "iq_othnccd"], 0, "{Normal,Bengin,Malignant} cases"),
        (["--dest", "here", "busi"], 1, "busi has to be fetched by hand"),
        (["--dest", "here", "busi", "--dry-run"], 0, "here/Dataset_BUSI_with_GT/"),
        ([], 0, "pannuke/\n               Fold 1/images/fold1/images.npy"),
        (["--dest", "here", "pannuke"], 1, "pannuke has to be fetched by hand"),
        (["--list", "consep"], 0, "begin at pixels 0, 256, 512 and 744"),
        (["--dest", "here", "consep", "--dry-run"], 0, "here/consep_patches/"),
        (["--dest", "here", "chest_xray busi"], 1, "unknown: chest_xray busi"),
        ([""], 1, "unknown: "),
    ],
)
def test_what_needs_no_download_downloads_nothing(repository, arguments, status, text):
    done = download(repository, *arguments)
    assert done.returncode == status
    assert text in done.stdout + done.stderr
    assert fetched(repository) == []
