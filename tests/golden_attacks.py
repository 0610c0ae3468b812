"""What attacks and measures make of tiny networks, as committed below ``tests/golden/``.

``networks.npz`` holds weights and images that were drawn once and for all, so that no generator
can change them; ``attacks.npz`` what every attack does to those, ``measures.json`` the scores and
measures of fixed inputs. ``python tests/golden_attacks.py --write`` writes the two anew; whatever
changes in them has a reason that the commit names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from medrobust_utils import attacks
from medrobust_utils.attacks.autoattack import attack
from medrobust_utils.core.losses import IGNORED, correct
from medrobust_utils.explain import measures, perturbations, spectrum
from medrobust_utils.explain.cams import METHODS, grad_cam
from medrobust_utils.scoring import metrics
from medrobust_utils.scoring import segmentation as seg
from medrobust_utils.training import glcm

GOLDEN = Path(__file__).parent / "golden"
NETWORKS, ATTACKS, MEASURES = (
    GOLDEN / name for name in ("networks.npz", "attacks.npz", "measures.json")
)
COUNT, SIDE = 12, 12
# head -> (channels, logits)
HEADS = {"softmax": (3, 3), "single": (1, 1), "several": (1, 4), "segmenter": (3, 4)}
EPS = 4 / 255
LEVELS = 100  # a perturbation is kept in hundredths of its bound
RADII = (EPS / 2, EPS)


class Tiny(nn.Module):
    """Two convolutions and a head; a segmenter puts the coarse map beside the fine one."""

    def __init__(self, channels: int, logits: int, segments: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(14, logits, 3, padding=1) if segments else nn.Linear(8, logits)
        self.segments = segments

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K), or (N, K, H, W)."""
        fine = F.relu(self.first(4 * images - 2))
        coarse = F.relu(self.second(fine))
        if self.segments:
            return self.last(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1))
        return self.last(coarse.mean((2, 3)))


def networks() -> dict[str, tuple[Tiny, torch.Tensor, torch.Tensor]]:
    """Head -> network, images (N, C, H, W) and labels, as committed."""
    with np.load(NETWORKS) as kept:
        arrays = {key: torch.from_numpy(kept[key]) for key in kept.files}
    made = {}
    for head, (channels, logits) in HEADS.items():
        net = Tiny(channels, logits, head == "segmenter").eval()
        net.load_state_dict({name: arrays[f"{head}/{name}"] for name in net.state_dict()})
        made[head] = net, arrays["images"][:, :channels].float() / 255, arrays[f"{head}/labels"]
    return made


def attacked() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each attack's name, its perturbations int8 (N, C, H, W) and what is misclassified then.

    That is bool (N,) of the images, or (N, H, W) of a segmentation's pixels.
    """
    for head, (net, images, labels) in networks().items():
        calls = _on_maps if head == "segmenter" else _on_images
        for name, bound, moved in calls(net, images, labels):
            with torch.no_grad():
                right = correct(net(moved), labels)
            steps = ((moved - images) / bound * LEVELS).round().to(torch.int8)
            yield f"{head} {name}", steps.numpy(), ~right.numpy()
    noise = attacks.gaussian((3, SIDE, SIDE), range(COUNT), 7)
    yield "gaussian noise", (noise * LEVELS / 6).round().to(torch.int8).numpy(), np.zeros(0, bool)


def _on_images(*asked: Any) -> Iterator[tuple[str, float, torch.Tensor]]:
    ask = (*asked, EPS)
    yield "fgsm", EPS, attacks.fgsm(*ask)
    yield "bim", EPS, attacks.bim(*ask, steps=6)
    yield "mifgsm", EPS, attacks.mifgsm(*ask, steps=6)
    drawn = torch.Generator().manual_seed(3)
    yield "pgd", EPS, attacks.pgd(*ask, steps=8, step_size=EPS / 4, generator=drawn)
    for mode in ("bisection", "skip_fooled", "independent"):
        how = dict(mode=mode, steps=4, rel_step=0.25, seed=5)
        for radius, step in zip(
            ("half", "whole"), attacks.at_radii(*asked, RADII, **how), strict=True
        ):
            yield f"{mode}, {radius}", EPS, step.images
    how = dict(steps=10, queries=80)
    for member in attack.MEMBERS:  # each by itself
        with patch.object(attack, "MEMBERS", (member,)):
            yield member, EPS, attacks.autoattack(*ask, **how).images
    yield "autoattack", EPS, attacks.autoattack(*ask, **how).images


def _on_maps(*asked: Any) -> Iterator[tuple[str, float, torch.Tensor]]:
    for kind in ("pgd", "segpgd", "background"):
        yield kind, EPS, attacks.Attack(kind, EPS, 6)(*asked, torch.float32)["images"]
    for name, bound, how in (
        ("layered", 4 * EPS, attacks.Layered(EPS, 5)),
        ("layered in one ball", EPS, attacks.Layered(EPS, 5, "image", True)),
        ("selective exhaustive", EPS, attacks.Selective(EPS / 2, EPS)),
        ("selective greedy", EPS, attacks.Selective(EPS / 2, EPS, "greedy")),
    ):
        yield name, bound, how(*asked, torch.float32)["images"]


def measured() -> dict[str, list[float]]:
    """Name -> values of every score and measure on fixed inputs."""
    draw, found = np.random.default_rng(11), {}

    def keep(name: str, values: Any) -> None:
        found[name] = np.asarray(values, float).ravel().tolist()

    def estimates(name: str, scores: dict[str, metrics.Estimate]) -> None:
        for score, one in scores.items():
            keep(f"{name}: {score}", [one.value, one.low, one.high])

    weights = metrics.group_weights(np.arange(90) // 3, seed=1, draws=200)
    answers = draw.integers(-300, 300, (2, 90, 4)) / np.float32(100)
    targets = {"softmax": draw.integers(0, 4, 90), "single": draw.integers(0, 2, 90)}
    targets["several"] = draw.integers(0, 2, (90, 4)).astype(np.uint8)
    for head, truth in targets.items():
        first, second = answers[..., : 1 if head == "single" else 4]
        one, two = (metrics.score(logits, truth, weights) for logits in (first, second))
        estimates(head, one)
        estimates(f"{head}, difference", {key: one[key] - two[key] for key in one})
    maps = torch.from_numpy(draw.integers(0, 4, (COUNT, 8, 8)).astype(np.uint8))
    maps[:3, :2] = IGNORED
    guesses = torch.from_numpy(draw.integers(-300, 300, (2, COUNT, 4, 8, 8)) / np.float32(100))
    tallies = [seg.tally(guess, maps) for guess in guesses]
    weights = metrics.group_weights(np.arange(COUNT) // 2, seed=2, draws=200)
    for name, score in {
        "segmentation": seg.score(tallies[0], weights, "abcd"),
        "segmentation, worst": seg.score_worst(tallies, weights, "abcd"),
        "segmentation, constant": seg.score(seg.constant(tallies[0]), weights, "abcd"),
    }.items():
        estimates(name, score)
    net, images, labels = networks()["softmax"]
    gray, shifted = glcm.grayscale(images), glcm.grayscale(images.flip(0))
    for softness in (0.0, 1.0):
        ours, theirs = (
            glcm.texture(x, area=6, distance=2, softness=softness) for x in (gray, shifted)
        )
        keep(f"texture, softness {softness}", ours.mean((0, 1)))
        for rows in glcm.ROWS:
            keep(f"texture distance, {rows}, {softness}", glcm.texture_distance(ours, theirs, rows))
    for measure in (spectrum.spectrum, spectrum.density):
        keep(measure.__name__, measure(images, 4).mean(0))
    keep("centroid", spectrum.centroid(images))
    keep("band noise", spectrum.band_noise((1, SIDE, SIDE), [3], 1, 4, 5)[0, 0, 0])
    keep("sensitivity", spectrum.spectrum(spectrum.sensitivity(net, images, labels), 4).mean(0))
    one, two = draw.integers(0, 256, (2, 4, 16, 16)) / 255
    masks = np.zeros((4, 16, 16), bool)
    masks[:, 3:11, 4:12] = True
    for measure in (measures.correlation, measures.similarity, measures.top_overlap):
        keep(f"maps, {measure.__name__}", measure(one, two))
    for measure in (measures.energy_inside, measures.pointing):
        keep(f"maps, {measure.__name__}", measure(one, masks))
    for measure in (measures.entropy, measures.area):
        keep(f"maps, {measure.__name__}", measure(one))
    change = ((one - two) / 20)[:, None]
    for name, values in perturbations.density(change, masks)._asdict().items():
        keep(f"perturbation, {name}", values)
    for method in METHODS:
        for head in ("softmax", "segmenter"):
            net, images, _ = networks()[head]
            maps = grad_cam(net, images[:4], [0, 1, 2, 1], method=method, layer="first").maps
            keep(f"{method}, {head}", maps.mean((1, 2)))
    return found


def write() -> None:
    """What attacks and measures give now becomes the record."""
    kept = {}
    for name, steps, wrong in attacked():
        kept |= {f"{name}/steps": steps, f"{name}/wrong": wrong}
        print(f"{name}: {int(wrong.sum())} of {wrong.size} misclassified")
    np.savez_compressed(ATTACKS, **kept)
    MEASURES.write_text(json.dumps(measured(), indent=0) + "\n")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write()
