"""What a long profile will cost, said before it begins.

Gradients are counted from the settings and timed, for each network, on the machine at hand. The
count is a bound: training may stop early, and an image that is fooled is not attacked again.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Mapping, Sequence
from math import log2
from pathlib import Path

import torch

from ..core import env
from ..data import ImageSet, to_float
from ..models import MedicalModel
from ..training.arms import Arm

LONG = ("colab", "reference", "paper")  # profiles; the others begin at once
FEW = 8  # images at a time without a GPU, where a batch of training may take a minute
QUERY = 1 / 3  # of a gradient: a pass forwards alone
# What an arm's folder holds after its training, its attacks, and AutoAttack or its stand-in; the
# second names are those of label maps.
KEPT = (("card.json",), ("pgd-*", "scored-*"), ("autoattack-*", "ensemble-*"))


def trainings(settings: Mapping, arm: Arm) -> float:
    """Gradients of one image for the training of an arm, and for the images it is trained on.

    Those of paper 4's ``union`` are made for ``layered`` and ``selective``, and counted there.
    """
    task, tags, recipe = arm.task, arm.tags, settings["training"]
    epochs, images, classes = recipe["epochs"], len(task.split.train), len(task.data.classes)
    if "before" in settings:  # paper 1's thousand: random weights learn other images first
        first = task.before if tags["start"] == "scratch" else None
        before = settings["epochs"]["before"] * len(first.split.train) if first else 0
        return before + settings["epochs"]["fit"] * images
    if isinstance(epochs, Mapping):  # paper 3 trains random weights as long as the backbone needs
        backbone = tags.get("backbone") if tags["start"] == "scratch" else None
        epochs = epochs[backbone if backbone in epochs else task.role]
    seen = epochs * images * recipe.get("share", {}).get(task.role, 1.0)
    match tags.get("scheme", tags.get("defence")):
        case "adversarial":
            return seen * (1 + settings["adversarial"]["steps"])
        case "on_the_fly":
            return seen * (1 + classes)
        case "layered":
            return seen + images * classes * settings["method_one"]["steps"]
        case "selective":
            return seen + images * 3**classes * QUERY
    return seen


def attacks(settings: Mapping, arm: Arm) -> tuple[float, float]:
    """Gradients of one image for the attacks on an arm, then for AutoAttack or its stand-in."""
    how, n = settings.get("attack"), len(arm.task.attacked)
    if not how:
        return 0.0, 0.0  # noise alone
    if "ensemble" in how:  # five attacks, then four losses
        return 5 * how["steps"] * n, 4 * how["ensemble"]["steps"] * n
    eps, auto = how.get("eps_255", ()), how["autoattack"]
    tried = min(auto["images"] or n, n) * len(auto.get("eps_255", eps or "1"))
    last = tried * (auto["steps"] * (1 + 2 * auto["targets"]) + auto["queries"] * QUERY)
    if "quarter" in how:  # paper 3: FGSM, three attacks with one or two steps, bisection twice
        kinds = ("quarter", "torchattacks") if arm.attacks == "all" else ("quarter",)
        each = len(eps) * (1 + 3 * sum(how[kind]["steps"] for kind in kinds))
        halved = bisected(len(eps)) + bisected(len(how["fine_255"]))
        return n * (each + halved * how["strong_steps"]), last
    if not eps:  # paper 2: a radius for every reading of its unit, those that agree once
        sizes = (e / width for e in how["eps"] for width in how["scales"].values())
        eps = {round(log2(size), 1) for size in sizes if size >= how["smallest"]}
    radii = len(eps) + how.get("radii", {}).get("count", 0)
    return n * how["steps"] * (bisected(radii) if how["mode"] == "bisection" else radii), last


def bisected(radii: int) -> int:
    """The most attacks that bisection makes on an image."""
    return 2 * radii.bit_length() + 1


def rate(model: MedicalModel, data: ImageSet, batch: int, seconds: float) -> float:
    """Gradients of one image a second, in float32 on this machine; measured for ``seconds``."""
    device = env.pick_device()
    batch = batch if device.type == "cuda" else FEW
    images = to_float(data.images[:batch]).to(device).requires_grad_()
    model = model.to(device).eval()

    def step() -> int:
        torch.autograd.grad(model(images).sum(), images)[0].sum().item()  # waits for the device
        return len(images)

    step()  # chooses kernels
    done, begun = 0, time.monotonic()
    while not done or time.monotonic() - begun < seconds:
        done += step()
    model.cpu()
    return done / (time.monotonic() - begun)


def network(arm: Arm) -> tuple[str, int]:
    """What an arm's time depends on: its network, and the side of its images in pixels."""
    tags = arm.tags
    return tags.get("model") or tags.get("backbone") or "U-Net", arm.task.size


def announce(
    profile: str,
    planned: Sequence[tuple[Mapping, Arm]],
    build: Callable[[Arm, Mapping], MedicalModel],
    checkpoints: str | Path = "",
    seconds: float = 20.0,
) -> None:
    """Print what a long profile takes here, and what of it remains; of another profile nothing.

    Args:
        planned: every arm with the settings that it is run by.
        build: makes the untrained network of an arm, a study's ``build_arm``.
        checkpoints: folder of the trained networks; empty: of the cache. Work counts as done once
            its first files lie there.
        seconds: of all measurements together.
    """
    if profile not in LONG or not planned:
        return
    folder = Path(checkpoints) if checkpoints else env.home() / "checkpoints"
    firsts = {network(arm): (settings, arm) for settings, arm in planned}
    speed = {
        kind: rate(build(arm, how), arm.task.data, how["training"]["batch"], seconds / len(firsts))
        for kind, (how, arm) in firsts.items()
    }
    counted, hours, remaining = 0.0, 0.0, 0.0
    for settings, arm in planned:
        # paper 1's arms are named before it is known what their networks learn first
        kept = [*folder.glob(glob.escape(arm.key).replace("nothing", "*") + "-*")]
        parts = trainings(settings, arm), *attacks(settings, arm)
        for part, names in zip(parts, KEPT, strict=True):
            here = part / speed[network(arm)] / 3600
            done = any(any(one.glob(name)) for one in kept for name in names)
            counted, hours, remaining = counted + part, hours + here, remaining + here * (not done)
    rates = ", ".join(
        f"{name} at {size} pixels {n:,.0f} a second" for (name, size), n in speed.items()
    )
    print(f"{profile}: at most {counted / 1e6:,.1f} million gradients of an image ({rates}).")
    print(
        f"On {env.pick_device()} that is {hours:,.1f} hours; without what {folder.name} holds, "
        f"{remaining:,.1f} hours remain."
    )
