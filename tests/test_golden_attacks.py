"""Attacks and measures do what they did when the recorded results were computed."""

import json

import golden_attacks
import numpy as np
import pytest


def test_every_attack_moves_the_same_pixels_and_fools_on_the_same_images():
    with np.load(golden_attacks.ATTACKS) as kept:
        recorded = {key: kept[key] for key in kept.files}
    names, differing = set(), []
    for name, steps, wrong in golden_attacks.attacked():
        names.add(name)
        apart = np.abs(steps.astype(int) - recorded[f"{name}/steps"])
        pixels = (apart <= 1).mean()  # the last level may be rounding
        answers = (wrong == recorded[f"{name}/wrong"]).mean()
        if pixels < 0.97 or answers < (1 if wrong.ndim == 1 else 0.97):
            differing.append(f"{name}: {pixels:.1%} of the pixels, {answers:.1%} of the answers")
    assert not differing
    assert names == {key.rpartition("/")[0] for key in recorded}


def test_every_score_and_measure_keeps_its_value():
    recorded = json.loads(golden_attacks.MEASURES.read_text())
    found = golden_attacks.measured()
    assert found.keys() == recorded.keys()
    for name, values in found.items():
        expected = pytest.approx(recorded[name], rel=1e-6, abs=1e-6, nan_ok=True)
        assert values == expected, name
