"""The readers give the pixels, labels and splits that every recorded result was computed on."""

import os
from pathlib import Path

import golden_data
import pytest

# Where the real images are at hand; the whole sets are held to their record by `make soak`.
if root := os.environ.get("MEDROBUST_DATA"):

    @pytest.mark.parametrize("name", golden_data.FOLDERS)
    def test_the_real_sets_are_read_and_split_as_they_were(name, tmp_path):
        tree = golden_data.few(Path(root), name, tmp_path)
        assert golden_data.facts(tree, name, "part") == golden_data.recorded("part")[name]
