"""The card beside a checkpoint: what it says, and what cannot be read is nobody's."""

import json
import os
import pickle

import pytest
import torch

from medrobust_utils.core.errors import RunError
from medrobust_utils.reporting import protocol
from medrobust_utils.training import cards


def card(**changes):
    settings = protocol.load("3_domain_assimilation").settings("smoke", "alpha=0.7")
    how = dict(paper="3_domain_assimilation", task="ct", arm="ct-a", role="ct", seed=3)
    return cards.Card(
        **how | {"settings": settings, "source": "s", "checksum": "c", "split": "d"} | changes
    )


def finished(root, name, state=None, **changes):
    folder = root / name
    folder.mkdir()
    weights = {"w": torch.ones(2)}
    torch.save(state or {"best": None, "model": weights}, folder / "checkpoint.pt")
    cards.leave(folder, card(**changes))
    return folder


def test_a_card_comes_back_as_it_was_left(tmp_path):
    folder = finished(tmp_path, "a")
    ((where, found),) = cards.find(tmp_path)
    assert where == folder and found.arm == "ct-a" and found.seed == 3
    assert found.settings == dict(card().settings) and found.settings["alpha"] == 0.7
    assert protocol.Settings(found.settings).alpha == 0.7


def test_the_newest_is_first_and_a_card_that_says_the_same_stays_old(tmp_path):
    folders = [finished(tmp_path, name) for name in "abc"]
    for age, folder in zip((30, 10, 20), folders, strict=True):
        os.utime(folder / cards.NAME, (1e9 - age, 1e9 - age))
    assert [folder.name for folder, _ in cards.find(tmp_path)] == ["b", "c", "a"]
    before = cards.finished_at(folders[0])
    cards.leave(folders[0], card())
    assert cards.finished_at(folders[0]) == before
    cards.leave(folders[0], card(seed=4))
    assert cards.find(tmp_path)[0][0].name == "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"x"',
        "{}",
        '{"schema": 99}',
        '{"schema": 1}',
        "\udcff",
        "9" * 5000,
        "[" * 100_000,
    ],
)
def test_what_is_no_card_is_passed_over(tmp_path, text):
    good, bad = finished(tmp_path, "good"), finished(tmp_path, "bad")
    (bad / cards.NAME).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert [folder for folder, _ in cards.find(tmp_path)] == [good]


def test_a_card_of_wrong_types_or_without_its_checkpoint_is_passed_over(tmp_path):
    folder = finished(tmp_path, "a")
    content = json.loads((folder / cards.NAME).read_text())
    for key, value in (("seed", "3"), ("settings", []), ("arm", 7), ("more", 1)):
        (folder / cards.NAME).write_text(json.dumps(content | {key: value}))
        assert cards.find(tmp_path) == []
    (folder / cards.NAME).write_text(json.dumps(content))
    assert len(cards.find(tmp_path)) == 1
    (folder / "checkpoint.pt").unlink()
    assert cards.find(tmp_path) == [] == cards.find(tmp_path / "nowhere")


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = finished(tmp_path, "a")
    for content in (pickle.dumps(Trap()), b"", b"PK\x03\x04", b"\x80\x02junk"):
        (folder / "checkpoint.pt").write_bytes(content)
        with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read .* again"):
            cards.weights(folder)
    torch.save({"best": None, "model": Trap()}, folder / "checkpoint.pt")
    with pytest.raises(RunError):
        cards.weights(folder)
    assert not (tmp_path / "sprung").exists()
