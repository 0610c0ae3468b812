"""Single steps beside the bare arithmetic, and what is done once: reading, importing, memory."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from medrobust_utils.attacks import selective_fgsm
from medrobust_utils.attacks.engine import ascend
from medrobust_utils.attacks.fold_batchnorm import quick_copy
from medrobust_utils.core import env
from medrobust_utils.data import load, phantom_set, to_float
from medrobust_utils.data.views import label_maps
from medrobust_utils.models import build, build_assimilated, build_unet
from medrobust_utils.training import recipes
from medrobust_utils.training.objectives import Assimilation, CrossEntropy

from .timing import Row, Work, promised, take_turns

SIZE, EPS, STEPS, ROUNDS = 224, 1 / 255, 4, 5
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


def _prepared(images: int) -> tuple:
    """ResNet-50, a batch of skin phantoms at 224 pixels, and the type of its gradients."""
    env.seed_everything(0)
    device = env.pick_device()
    data = phantom_set("dermatoscopy7", images, size=SIZE)
    batch = to_float(data.images).to(device, memory_format=torch.channels_last)
    model = build("resnet50", 7, start="scratch").to(device).eval()
    return model, batch, torch.from_numpy(data.targets).to(device), env.training_dtype(device)


def attack_step() -> Iterator[Row]:
    """PGD's step beside its bare passes, and these beside the machine's own matrix product."""
    model, images, labels, dtype = _prepared(8)
    ready, side = quick_copy(model, images[:1]), 2048

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
    one = torch.randn(side, side, device=images.device).to(dtype)
    products = max(1, round(operations / (2 * side**3)))

    def matrices() -> float:
        for _ in range(products):
            last = one @ one
        return last[0, 0].float().item()

    passes, ours, product = take_turns(bare, step, matrices, rounds=ROUNDS)
    what = f"{STEPS} steps of PGD, ResNet-50 at {SIZE} px, {str(dtype)[6:]}"
    yield Row(what, ("bare passes", passes), ("PGD", ours), 1.05, at_most=True)
    # as many operations: the share of the product's rate is the ratio of the times
    share = [p * operations / (products * 2 * side**3) for p in product]
    what = f"rate of gradients beside that of matrix products, {str(dtype)[6:]}"
    yield Row(what, ("matrix products", share), ("bare passes", passes), 0.7)


def _training_step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, loss: Work) -> Work:
    def step() -> float:
        value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        return value.item()

    return step


def training() -> Iterator[Row]:
    """A fine-tuning step beside the plain float32 loop; the GLCM loss beside cross-entropy."""
    model, images, labels, dtype = _prepared(16)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format).train()
    ours, rows = model.to(memory_format=torch.channels_last).train(), np.arange(len(images))
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-4)
    kit = recipes.optimiser(ours, recipes.complete(RECIPE))
    objective, still = CrossEntropy(None), images.contiguous()
    spent = take_turns(
        _training_step(plain, theirs, lambda: cross_entropy(plain(still), labels)),
        _training_step(ours, kit, lambda: objective(ours, images, labels, rows, dtype)),
        rounds=ROUNDS,
    )
    what = f"fine-tuning step, ResNet-50, 16 images of {SIZE} px, {str(dtype)[6:]}"
    bound = promised(1.4, 1.8)
    yield Row(what, ("plain float32 loop", spent[0]), ("kit", spent[1]), bound)
    data = phantom_set("ct", 32, size=SIZE)
    scans = to_float(data.images).to(images.device, memory_format=torch.channels_last)
    kinds, rows = torch.from_numpy(data.targets).to(images.device), np.arange(32)
    steps = []
    for alpha in (1.0, 0.5):
        model = build_assimilated("resnet18", 3, colour="conv", start="scratch")
        model.to(images.device, memory_format=torch.channels_last).train()
        loss = Assimilation.of(data, alpha, levels=8, softness=1.0, rows="areas")
        optimiser = recipes.optimiser(model, recipes.complete(RECIPE))
        asked = (model, scans, kinds, rows, dtype)
        work = lambda loss=loss, asked=asked: loss(*asked)  # noqa: E731
        steps.append(_training_step(model, optimiser, work))
    entropy, glcm = take_turns(*steps, rounds=ROUNDS)
    what = f"training step with the GLCM loss, ResNet-18, 32 images of {SIZE} px"
    yield Row(what, ("cross-entropy", entropy), ("with GLCM", glcm), 1.3, at_most=True)


def method_two() -> Iterator[Row]:
    """All 729 combinations screened in batches, beside one forward pass for each."""
    data = label_maps(phantom_set("histology", 2, size=64))
    model = build_unet(6, width=16, depth=3, size=64).eval()
    images, labels = to_float(data.images), torch.from_numpy(data.targets)
    how, found = dict(step_size=0.01, bound=0.06), {}

    def one_by_one() -> None:
        with torch.no_grad():  # as a loop over the combinations has it
            for _ in range(729 * len(images)):
                cross_entropy(model(images[:1]), labels[:1].long())

    def screened() -> None:
        found["kit"] = selective_fgsm(model, images, labels, search="screened", **how).loss

    spent = take_turns(one_by_one, screened, rounds=3)
    best = selective_fgsm(model, images, labels, search="exhaustive", **how).loss
    facts = {"worse_than_exhaustive_by": (found["kit"] - best).max().item()}
    what = "729 combinations of method two, U-Net of width 16"
    yield Row(what, ("one by one", spent[0]), ("screened", spent[1]), 3, facts=facts)


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
    rows = np.random.default_rng(0).permutation(len(data))[:2000]

    def cached() -> float:
        parts = np.array_split(rows, len(rows) // 32)
        return sum(to_float(data.images[part])[0, 0, 0, 0].item() for part in parts)

    spent = take_turns(lambda: sum(x[0, 0, 0, 0].item() for x, _ in loader), cached, rounds=3)
    what = f"reading 2,000 chest X-rays at {SIZE} px, {workers} processes that decode"
    yield Row(what, ("ImageFolder", spent[0]), ("decoded cache", spent[1]), 10)


def once() -> Iterator[Row]:
    """What importing costs beyond torch, and the memory of a sweep of 10,000 images."""
    lines = ("import torch", "import torch, medrobust_utils")
    calls = [lambda line=line: subprocess.run([sys.executable, "-c", line]) for line in lines]
    torch_alone, both = take_turns(*calls, rounds=5)
    more = [b - a for a, b in zip(torch_alone, both, strict=True)]
    what = "importing the kit, seconds more than torch alone"
    yield Row(what, ("one second", [1.0] * 5), ("kit", more), 0.3, at_most=True)
    peaks = []
    for count in ("100", "10000"):
        command = [sys.executable, "-c", MEMORY, count]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append([float(done.stdout.split()[-1])])
    bound = 1.02 + 2 * 10_000 * 9 * 7 * 4 / 2**20 / peaks[0][0]  # a batch's scores, and all
    what = "megabytes of a sweep over 8 radii, ResNet-10 at 32 px"
    yield Row(what, ("100 images", peaks[0]), ("10,000 images", peaks[1]), bound, at_most=True)


MEASURED = {one.__name__: one for one in (attack_step, training, method_two, reading, once)}
