"""Rows of a study's record, looked up, and hand-made outcomes of an attack."""

import numpy as np


def find(run, metric, **tags):
    """The rows of ``metric`` that carry all ``tags``."""
    return [
        row for row in run.record["rows"] if row["metric"] == metric and tags.items() <= row.items()
    ]


def only(run, metric, **tags):
    """The one such row."""
    (row,) = find(run, metric, **tags)
    return row


def falling(positions, fall, n=40):
    """``right`` (E, n) of images that fall at the given positions; beyond the end: never."""
    return np.arange(positions)[:, None] < np.asarray(fall)[None, :n]
