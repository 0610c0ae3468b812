"""Single steps beside the bare arithmetic, and what is done once: reading, importing, memory."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from medrobust_utils.attacks import Selective
from medrobust_utils.attacks.engine import ascend
from medrobust_utils.attacks.fold_batchnorm import quick_copy
from medrobust_utils.core import env
from medrobust_utils.data import ImageSet, load, phantom_set, to_float
from medrobust_utils.data.views import label_maps
from medrobust_utils.models import build, build_assimilated, build_unet
from medrobust_utils.training import recipes
from medrobust_utils.training.objectives import Assimilation, CrossEntropy

from .timing import Row, kind, take_turns

SIZE, EPS, STEPS, ROUNDS, SIDE = 224, 1 / 255, 4, 5, 2048
RECIPE = dict(epochs=1, batch=16, lr=1e-4, weight_decay=0.01, warmup_epochs=0, clip=0, flips="none")
MEMORY = """
import sys, numpy as np, torch
from pathlib import Path
from medrobust_utils import attacks, data, models
skin = data.phantom_set("dermatoscopy7", 500, size=32)
net = models.build("resnet10t", 7, start="scratch").eval()
radii = [k / 255 for k in (0.25, 0.5, 1, 2, 4, 8, 16, 32)]
attacks.attack_sweep(net, skin, np.resize(np.arange(500), int(sys.argv[1])), radii, steps=1)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")))
"""


def _ready(data: ImageSet, model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels on the device, the model beside them, both channels last."""
    device, like = env.pick_device(), torch.channels_last
    model.to(device, memory_format=like)
    images = to_float(data.images).to(device, memory_format=like)
    return images, torch.from_numpy(data.targets).to(device)


def attack_step() -> Iterator[Row]:
    """PGD's step beside its bare passes, and these beside the machine's own matrix product."""
    model = build("resnet50", 7, start="scratch").eval()
    images, labels = _ready(phantom_set("dermatoscopy7", 8, size=SIZE), model)
    dtype, ready = env.training_dtype(images.device), quick_copy(model, images[:1])

    def bare() -> float:
        total = torch.zeros((), device=images.device)  # read back once, as the attack does
        for _ in range(STEPS):
            moved = images.detach().clone().requires_grad_()
            with env.full_float32():
                with env.autocast(images.device, dtype):
                    logits = ready(moved)
                loss = cross_entropy(logits.float(), labels, reduction="sum")
                total = total + torch.autograd.grad(loss, moved)[0][0, 0, 0, 0]
        return total.item()

    def step() -> float:
        lengths = [EPS / STEPS] * STEPS
        return ascend(ready, images, labels, EPS, lengths=lengths, dtype=dtype)[0, 0, 0, 0].item()

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        ready(images)
    operations = 2 * STEPS * counter.get_total_flops()  # the way back to the images costs the same
    one = torch.randn(SIDE, SIDE, device=images.device).to(dtype)
    products = round(operations / (2 * SIDE**3))

    def matrices() -> float:
        return sum((one @ one)[0, 0].float().item() for _ in range(products))

    passes, ours, product = take_turns(bare, step, matrices, rounds=ROUNDS)
    how = f"ResNet-50 at {SIZE} px, {str(dtype)[6:]}"
    sides = ("bare passes", passes), ("PGD", ours)
    yield Row(f"{STEPS} steps of PGD, {how}", *sides, 1.05, at_most=True)
    sides = ("matrix products", product), ("bare passes", passes)
    yield Row(f"as many operations as matrix products, {how}", *sides, 0.7)


def _train(model: torch.nn.Module, optimiser: torch.optim.Optimizer, loss: Callable) -> float:
    value = loss()
    optimiser.zero_grad(set_to_none=True)
    value.backward()
    optimiser.step()
    return value.item()


def training() -> Iterator[Row]:
    """A fine-tuning step beside the plain float32 loop; the GLCM loss beside cross-entropy."""
    ours = build("resnet50", 7, start="scratch").train()
    plain = copy.deepcopy(ours).to(env.pick_device())
    images, labels = _ready(phantom_set("dermatoscopy7", 16, size=SIZE), ours)
    dtype, rows, still = env.training_dtype(images.device), np.arange(16), images.contiguous()
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    kit, entropy = recipes.optimiser(ours, recipes.complete(RECIPE)), CrossEntropy(None)
    spent = take_turns(
        partial(_train, plain, theirs, lambda: cross_entropy(plain(still), labels)),
        partial(_train, ours, kit, lambda: entropy(ours, images, labels, rows, dtype)),
        rounds=ROUNDS,
    )
    sides, bound = (
        (("plain float32", spent[0]), ("kit", spent[1])),
        1.4 if kind() == "avx2" else 1.8,
    )
    yield Row(f"fine-tuning step, ResNet-50, 16 images of {SIZE} px", *sides, bound)
    data, steps = phantom_set("ct", 32, size=SIZE), []
    for alpha in (1.0, 0.5):
        model = build_assimilated("resnet18", 3, colour="conv", start="scratch").train()
        asked = (model, *_ready(data, model), np.arange(32), dtype)
        loss = Assimilation.of(data, alpha, levels=8, softness=1.0, rows="areas")
        optimiser = recipes.optimiser(model, recipes.complete(RECIPE))
        steps.append(partial(_train, model, optimiser, partial(loss, *asked)))
    spent = take_turns(*steps, rounds=ROUNDS)
    sides = ("cross-entropy", spent[0]), ("with GLCM", spent[1])
    yield Row(f"training step, ResNet-18, 32 images of {SIZE} px", *sides, 1.3, at_most=True)


def method_two() -> Iterator[Row]:
    """All 729 combinations screened in batches, beside one forward pass for each."""
    data = label_maps(phantom_set("histology", 2, size=64))
    model = build_unet(6, width=16, depth=3, size=64).eval()
    images, labels = _ready(data, model)

    def search(how: str) -> torch.Tensor:
        return Selective(0.01, 0.06, how)(model, images, labels, torch.float32)["loss"]

    def one_by_one() -> None:
        with torch.no_grad():
            for _ in range(729 * len(images)):
                cross_entropy(model(images[:1]), labels[:1].long()).item()

    spent = take_turns(one_by_one, partial(search, "screened"), rounds=3)
    best, found = map(search, ("exhaustive", "screened"))
    facts, sides = {"worse_by": (found - best).max().item()}, (("one by one", spent[0]),)
    sides += (("screened", spent[1]),)
    yield Row("729 combinations of method two, U-Net of width 16", *sides, 3, facts=facts)


def _gray(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("L")


def reading() -> Iterator[Row]:
    """2,000 X-rays as batches from the decoded cache, beside torchvision's ImageFolder."""
    data, workers = load("kermany", size=SIZE), os.cpu_count() or 1
    parts = [v2.Resize((SIZE, SIZE)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    folder = ImageFolder(env.data_root() / "chest_xray" / "train", v2.Compose(parts), loader=_gray)
    some = Subset(folder, np.random.default_rng(0).permutation(len(folder))[:2000].tolist())
    loader = DataLoader(some, 32, num_workers=workers, persistent_workers=True)
    batches = np.array_split(np.random.default_rng(0).permutation(len(data))[:2000], 63)
    spent = take_turns(
        lambda: sum(batch[0, 0, 0, 0].item() for batch, _ in loader),
        lambda: sum(to_float(data.images[rows])[0, 0, 0, 0].item() for rows in batches),
        rounds=3,
    )
    what = f"reading 2,000 chest X-rays at {SIZE} px, {workers} processes that decode"
    yield Row(what, ("ImageFolder", spent[0]), ("decoded cache", spent[1]), 10)


def once() -> Iterator[Row]:
    """What importing costs beyond torch, and the memory of a sweep of 10,000 images."""
    run = partial(subprocess.run, check=True, capture_output=True, text=True)
    lines = ("import torch", "import torch, medrobust_utils")
    alone, both = take_turns(
        *(partial(run, [sys.executable, "-c", line]) for line in lines), rounds=5
    )
    more = [b - a for a, b in zip(alone, both, strict=True)]
    what, sides = "seconds of an import beyond torch's", (("a second", [1.0] * 5), ("kit", more))
    yield Row(what, *sides, 0.3, at_most=True)
    peaks = [
        float(run([sys.executable, "-c", MEMORY, n]).stdout.split()[-1]) for n in ("100", "10000")
    ]
    bound = (
        1.02 + 2 * 10_000 * 9 * 7 * 4 / 2**20 / peaks[0]
    )  # scores of a batch and, at the end, all
    sides = ("100 images", peaks[:1]), ("10,000 images", peaks[1:])
    yield Row("megabytes of a sweep, ResNet-10 at 32 px", *sides, bound, at_most=True)


MEASURED = {one.__name__: one for one in (attack_step, training, method_two, reading, once)}
