"""A process killed at a random moment leaves nothing that a later one takes for whole."""

import os

import killed
import pytest


def test_killed_downloads_unpackings_caches_and_trainings_end_the_same(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    counts = killed.kills(4, seed=0)
    assert counts.keys() == set(killed.STAGES)
    assert all(one["kills"] == 1 and one["runs"] == 1 for one in counts.values())


def test_another_result_after_a_kill_is_seen(monkeypatch):
    results = iter([{"a": "1"}, {"a": "2"}])
    monkeypatch.setattr(killed, "outcome", lambda stage, folder: next(results))
    monkeypatch.setattr(killed, "run", lambda *a: (a[3] is None, 1.0))
    monkeypatch.setattr(killed, "STAGES", ("cache",))
    with pytest.raises(AssertionError, match="cache: another result"):
        killed.kills(1)
