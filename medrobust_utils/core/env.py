"""Where things live, which device runs, and what is written down about it."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm as notebook_bar
from tqdm.std import tqdm as text_bar

from .errors import DataError

_SHOWN_BY: ContextVar[type[text_bar] | None] = ContextVar("shown_by", default=None)
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # flags of processors that multiply in it
# Values of ONEDNN_MAX_CPU_ISA that keep these instructions from being used.
WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}
RECORDED = (
    "torch",
    "torchvision",
    "timm",
    "foolbox",
    "grad-cam",
    "numpy",
    "scikit-learn",
    "scikit-image",
    "seaborn",
    "papermill",
    "ipywidgets",
)


def home() -> Path:
    """Folder for caches: ``MEDROBUST_HOME``, else ``~/.cache/medrobust``."""
    return Path(os.environ.get("MEDROBUST_HOME") or Path.home() / ".cache" / "medrobust")


def data_root() -> Path:
    """Root of the data sets: ``MEDROBUST_DATA``.

    Raises:
        DataError: if the variable is unset or names no folder.
    """
    value = os.environ.get("MEDROBUST_DATA")
    if not value:
        raise DataError(
            "MEDROBUST_DATA is not set. Point it at the folder that holds the data "
            "sets (see data_download.sh --list), or use the smoke profile."
        )
    if not Path(value).is_dir():
        raise DataError(
            f"MEDROBUST_DATA={value} is not a folder. Create it or correct the variable."
        )
    return Path(value)


def weights_root() -> Path | None:
    """Folder of pretrained ``*.safetensors``: ``MEDROBUST_WEIGHTS``, or None when unset."""
    value = os.environ.get("MEDROBUST_WEIGHTS")
    if value and not Path(value).is_dir():
        raise DataError(
            f"MEDROBUST_WEIGHTS={value} is not a folder. Create it or unset the variable."
        )
    return Path(value) if value else None


def pick_device() -> torch.device:
    """CUDA if there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def headless() -> bool:
    """True where nobody can click: scripts, CI, and notebooks that a program executes.

    Papermill, nbconvert and all else that is built on nbclient tell the kernel with each request
    that nobody would answer ``input()``; JupyterLab, Jupyter Notebook, VS Code and Colab tell it
    that somebody would. Voila executes with nbclient too, but shows the page to somebody.
    ``MEDROBUST_HEADLESS`` set to anything makes it True everywhere.
    """
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    if os.environ.get("MEDROBUST_HEADLESS") or kernel is None:
        return True
    if "VOILA_KERNEL_ID" in os.environ:  # set before the first cell, in preheated kernels too
        return False
    # What the request in hand said, or the last one; other kernels than ipykernel do not tell.
    return bool(os.environ.get("CI")) or not getattr(kernel, "_allow_stdin", True)


def on_colab() -> bool:
    """True in a Colab session that somebody looks at; not where a program runs its notebook."""
    return "COLAB_RELEASE_TAG" in os.environ and not headless()


def use_drive(notebook: str, profile: str) -> tuple[str, str]:
    """Mount the user's Drive in Colab; the folders for CHECKPOINTS and OUT below ``medrobust``.

    Raises:
        DataError: outside Colab.
    """
    try:
        from google.colab import drive
    except ImportError:
        raise DataError("DRIVE=True asks for Colab; elsewhere set CHECKPOINTS and OUT.") from None
    drive.mount("/content/drive")
    own = Path("/content/drive/MyDrive/medrobust")
    return str(own / "checkpoints"), str(own / "results" / notebook / profile)


def progress(*args: Any, **kwargs: Any) -> text_bar:
    """A progress bar: a widget where somebody looks, plain text in batches and terminals.

    A widget bar freezes at 0 % in a notebook that papermill executed.
    """
    bar = _SHOWN_BY.get() or (text_bar if headless() else notebook_bar)
    return bar(*args, mininterval=2, **kwargs)


@contextmanager
def shown_by(bar: type[text_bar]) -> Iterator[None]:
    """Inside the block, and in this thread, bars are of the class ``bar``."""
    token = _SHOWN_BY.set(bar)
    try:
        yield
    finally:
        _SHOWN_BY.reset(token)


@cache
def training_dtype(device: torch.device) -> torch.dtype:
    """Autocast type for training: bfloat16 where the processor has instructions for it.

    Told by its own flags. Some CPUs emulate bfloat16 twenty times slower, which torch does not
    say, and a stopwatch errs on a busy machine.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capped = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BFLOAT16
        able = device.type == "cpu" and not capped and bool(BFLOAT16 & processor_flags())
    return torch.bfloat16 if able else torch.float32


def processor_flags() -> set[str]:
    """What the first processor can do, as Linux tells of x86; elsewhere nothing."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Mixed precision in ``dtype``; a no-op for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@contextmanager
def full_float32() -> Iterator[None]:
    """Float32 that is float32: GPUs otherwise shorten convolutions to TF32's ten bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that a device's memory is full; MPS and CPU have no type for it."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def git_commit() -> str | None:
    """Commit of the checkout the package lies in, with ``+changes`` if it was edited."""

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parents[1]), *args],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not just inside another project
        head = git("rev-parse", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def provenance() -> dict:
    """What ran where: written beside every number."""
    device = pick_device()
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    return {
        "device": f"{device.type} ({name or platform.machine()}, {threads} threads)",
        "precision": "scoring float32; training as each learning curve says",
        "versions": {package: _version(package) for package in RECORDED},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "git_commit": git_commit(),
        "package_version": _version("medrobust"),
    }
