"""One look: an image attacked within 32 radii, and what a network says and sees in each.

All is computed when an image is opened; a slider then only picks a place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from .. import attacks
from ..attacks import engine
from ..core import env
from ..core.contracts import ask, check_logits
from ..core.errors import ContractError
from ..core.losses import BACKGROUND, IGNORED, as_classes
from ..core.storage import plain
from ..explain import cam_layers, cams, measures
from .scene import Network, Sample, Scene

RADII = tuple(2 ** (k / 4) for k in range(-15, 17))  # gray levels of 255: up to 16
LEVELS = (0.0, *RADII)  # place 0 is the clean image
STEPS = 10  # of an iterative attack at each radius that bisection tries
BATCH = 11  # images that are explained together
NAMES = {
    "pgd": "PGD",
    "mifgsm": "MI-FGSM",
    "bim": "BIM",
    "fgsm": "FGSM",
    "noise": "random noise",
    "background": "PGD to the background",
    "segpgd": "SegPGD",
}
ON_CLASSES = ("pgd", "mifgsm", "bim", "fgsm", "noise")
ON_LABEL_MAPS = ("background", "pgd", "segpgd", "noise")
ANSWER, LABEL = "answer", "label"  # targets beside the names of classes


@dataclass(frozen=True)
class Choice:
    """What to look at.

    Attributes:
        attack: one of NAMES; which of them a scene takes, ``attacks_for`` tells.
        target: which class to explain: ``answer`` (what the network says of the clean image),
            ``label`` (what the image shows) or the name of a class.
        layer: a module of the network; empty for the usual one (``cam_layers.target_layer``).
        method: one of ``cams.METHODS``.
    """

    attack: str = "pgd"
    target: str = ANSWER
    layer: str = ""
    method: str = "grad-cam"

    def __post_init__(self) -> None:
        if self.attack not in NAMES:
            raise ContractError(f"attack {self.attack!r}: choose one of {', '.join(NAMES)}.")


def attacks_for(scene: Scene) -> tuple[str, ...]:
    """Attacks that fit a scene's networks, the usual one first."""
    return ON_LABEL_MAPS if scene.data.segmentation else ON_CLASSES


def place_of(eps_255: float) -> int:
    """The place among LEVELS nearest to a radius in gray levels."""
    return int(np.abs(np.array(LEVELS) - eps_255).argmin())


@dataclass(frozen=True, eq=False)
class Look:
    """What one network makes of one image at each of the 33 LEVELS.

    Attributes:
        images: float32 (33, C, H, W) in [0, 1].
        scores: (33, K): softmax, or a sigmoid for each finding; of a segmentation the shares of
            the pixels.
        label_maps: uint8 (33, H, W), the answers of a segmentation; None for other networks.
        maps: activation maps, all for the class number ``explained``.
        mask: bool (H, H), what a map should hit: the outlined finding, or where the label map has
            the class; None without one.
    """

    scene: Scene
    network: Network
    sample: Sample
    choice: Choice
    images: np.ndarray
    scores: np.ndarray
    label_maps: np.ndarray | None
    maps: cams.Maps
    explained: int
    mask: np.ndarray | None
    notes: tuple[str, ...]

    def region(self, place: int) -> np.ndarray | None:
        """The pixels that a segmentation gives to the explained class, bool (H, W)."""
        return None if self.label_maps is None else self.label_maps[place] == self.explained

    def record(self, place: int) -> dict:
        """All choices and numbers at a place in types of strict JSON; None for what has no value.

        ``correlation``, ``similarity`` (SSIM) and ``top_overlap`` compare the map with that of the
        clean image; ``inside`` is the share of a map in the mask, to be held against
        ``mask_share``, and ``pointing`` whether its brightest place lies there. ``dice`` is that of
        the explained class against the label map, ``pixels_changed`` the share of pixels with
        another class than before.
        """
        scene, data, sample = self.scene, self.scene.data, self.sample
        label = None if sample.label is None else _words(scene, _ranks(scene, sample.label))
        names, maps = data.classes, self.maps.maps
        found = {
            "paper": scene.paper,
            "task": scene.key,
            "data": data.name,
            "synthetic": data.synthetic,
            "head": scene.head,
            "network": self.network.name,
            "weights": self.network.weights,
            "network_facts": self.network.facts,
            "image": sample.name,
            "label": label,
            "attack": self.choice.attack if place else None,
            "eps_255": LEVELS[place],
            "largest_change_255": np.abs(self.images[place] - self.images[0]).max() * 255,
            "explained": names[self.explained],
            "layer": self.maps.layer,
            "method": self.choice.method,
            "mask_share": None if self.mask is None else self.mask.mean(),
            "warnings": scene.warnings,
            "notes": self.notes,
        }
        for name in ("correlation", "similarity", "top_overlap"):
            found[name] = getattr(measures, name)(maps[:1], maps[place : place + 1])[0]
        for when, at in (("before", 0), ("after", place)):
            found[f"answer_{when}"] = _words(scene, self.scores[at])
            found[f"probabilities_{when}"] = dict(zip(names, self.scores[at], strict=True))
            found[f"no_map_{when}"] = self.maps.reasons[at]
            for name, measure in (("inside", "energy_inside"), ("pointing", "pointing")):
                hit = self.mask is not None and getattr(measures, measure)
                found[f"{name}_{when}"] = (
                    hit(maps[at : at + 1], self.mask[None])[0] if hit else None
                )
            if self.label_maps is not None and label:
                found[f"dice_{when}"] = self._dice(at)
        if self.label_maps is not None:
            found["pixels_changed"] = (self.label_maps[place] != self.label_maps[0]).mean()
        return plain(found)[0]

    def _dice(self, place: int) -> float:
        known = (self.sample.label[0] != IGNORED).numpy()
        truth = np.zeros_like(known) if self.mask is None else self.mask
        given = self.region(place) & known
        both = truth.sum() + given.sum()
        return 2 * (truth & given).sum() / both if both else float("nan")


@lru_cache(maxsize=8)
def look(scene: Scene, network: Network, sample: Sample, choice: Choice) -> Look:
    """Attack an image within all radii, and explain what the network says of it at each.

    All maps explain the same class, and of a segmentation the same pixels: those that the network
    gives to it in the clean image.

    Raises:
        ContractError: for a choice that does not fit the scene.
    """
    with env.progress(total=1 + -(-len(LEVELS) // BATCH), desc=network.name) as bar:
        images, clean = _attacked(scene, network, sample, choice.attack)
        bar.update()
        kind, notes = _explained(scene, sample, choice.target, _scores(scene, clean)[0])
        region, mask = None, sample.mask
        if scene.data.segmentation:
            region = (clean.argmax(1) == kind).cpu()
            mask = None if sample.label is None else (sample.label[0] == kind).numpy()
            mask = mask if mask is not None and mask.any() else None
            if not region.any() and mask is not None:
                region = torch.from_numpy(mask)[None]
                notes += ("It gives the class to no pixel: maps explain it where the label does.",)
        layer, more = _layer(scene, network, choice.layer)
        logits: list[torch.Tensor] = []

        def seen(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            logits.append(output.detach().float().cpu())
            bar.update()

        hook = network.model.register_forward_hook(seen)  # one pass for answers and maps
        try:
            maps = cams.grad_cam(
                network.model,
                images,
                [kind] * len(images),
                method=choice.method,
                layer=layer,
                regions=None if region is None else region.expand(len(images), -1, -1),
                batch=BATCH,
            )
        finally:
            hook.remove()
    answers = torch.cat(logits)
    label_maps = answers.argmax(1).to(torch.uint8).numpy() if scene.data.segmentation else None
    scores, pixels = _scores(scene, answers), images.cpu().numpy()
    notes = (*sample.notes, *notes, *more)
    return Look(scene, network, sample, choice, pixels, scores, label_maps, maps, kind, mask, notes)


@lru_cache(maxsize=8)
def layers(scene: Scene, network: Network) -> dict[str, int]:
    """Layers of a network that can be explained, and the sides of their maps."""
    return cam_layers.layers(network.model, tuple(scene.sample(0).image.shape[1:]))


@lru_cache(maxsize=8)
def _attacked(
    scene: Scene, network: Network, sample: Sample, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image at every level (33, C, H, W), and the logits of the clean one.

    The attack aims away from the network's own answer. Each radius is filled: between those that
    were tried the perturbation is that of the last one below, scaled.
    """
    if kind not in attacks_for(scene):
        raise ContractError(
            f"attack {kind!r} does not fit {scene.key}: choose {', '.join(attacks_for(scene))}."
        )
    model = network.model
    image = sample.image.to(next(model.parameters()).device)
    clean = ask(model, image)
    check_logits(clean, scene.data.multi_label)
    radii = torch.tensor(RADII, device=image.device) / 255
    change = _tried(scene, kind, model, image, clean) - image
    tried = change.abs().amax((1, 2, 3))
    places = torch.arange(len(RADII), device=image.device)
    if tried.any():
        first = int(tried.nonzero()[0])
        source = torch.where(tried > 0, places, 0).cummax(0).values.clamp(min=first)
        change, tried = change[source], tried[source]
    size = radii / tried.clamp(min=1e-12)
    low, high = engine.ball(image.expand(len(RADII), -1, -1, -1), radii)
    moved = (image + change * size[:, None, None, None]).clamp(low, high)
    return torch.cat([image, moved]), clean


def _tried(
    scene: Scene, kind: str, model: nn.Module, image: torch.Tensor, clean: torch.Tensor
) -> torch.Tensor:
    """The image within each radius (32, C, H, W); as it is at radii that were not tried.

    Random noise and FGSM have one direction for all radii. The others bisect for the smallest
    radius at which the answer changes, of a label map that of half of the pixels.
    """
    answer, radii = _given(scene, clean), [eps / 255 for eps in RADII]
    whole = image.repeat(len(radii), 1, 1, 1)
    if kind == "noise":
        signs = torch.randint(2, image.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return whole + signs.to(image)
    if kind == "fgsm":
        return whole + (attacks.fgsm(model, image, answer, 1.0) - image).sign()
    if kind == "pgd" and answer.ndim < 3:
        return torch.cat([one.images for one in attacks.at_radii(model, image, answer, radii)])
    low, high, enough = -1, len(radii), 0.5 if answer.ndim == 3 else 0.0
    while high - low > 1:
        place = (low + high) // 2
        whole[place] = _iterated(kind, model, image, answer, radii[place])[0]
        logits = ask(model, whole[place : place + 1])
        changed = (_given(scene, logits) != answer).float().mean() > enough
        low, high = (low, place) if changed else (place, high)
    return whole


def _iterated(
    kind: str, model: nn.Module, image: torch.Tensor, answer: torch.Tensor, eps: float
) -> torch.Tensor:
    if answer.ndim == 3:
        attack = attacks.Attack(kind, eps, STEPS)
        return attack(model, image, answer, torch.float32)["images"]
    how = {"steps": STEPS, "step_size": attacks.madry_step(eps, STEPS)}
    attack: Callable[..., torch.Tensor] = {"bim": attacks.bim, "mifgsm": attacks.mifgsm}[kind]
    return attack(model, image, answer, eps, **how)


def _explained(
    scene: Scene, sample: Sample, target: str, scores: np.ndarray
) -> tuple[int, tuple[str, ...]]:
    """Which class is to be explained, and a word where it is not the one asked for.

    ``scores`` (K,) are those of the clean image, so the question stays when the answer changes.
    """
    classes, answer = scene.data.classes, _main(scene, scores)
    if target not in (ANSWER, LABEL, *classes):
        raise ContractError(f"class {target!r}: choose {ANSWER}, {LABEL} or {', '.join(classes)}.")
    if target in classes:
        return classes.index(target), ()
    if target == LABEL and sample.label is None:
        return answer, ("This image has no label: the map explains the network's own answer.",)
    if target == ANSWER:
        return answer, ()
    label = _ranks(scene, sample.label)
    if scene.data.multi_label:
        if not label.any():
            return answer, ("The label names no finding: the map explains the likeliest one.",)
        label = label * scores
    return _main(scene, label), ()


def _layer(scene: Scene, network: Network, wanted: str) -> tuple[str, tuple[str, ...]]:
    """The layer to explain, and a word where the network has no layer of the wanted name."""
    own = layers(scene, network)
    if not wanted:
        return next(iter(own)), ()
    if wanted in dict(network.model.named_modules()):
        return wanted, ()
    for other in scene.networks:
        if side := layers(scene, other).get(wanted):
            near = min(own, key=lambda name: abs(np.log2(own[name] / side)))
            return near, (f"It has no layer {wanted}: {near} is the one nearest in size.",)
    raise ContractError(f"no network here has a layer {wanted!r}. Choose one of {', '.join(own)}.")


def _given(scene: Scene, logits: torch.Tensor) -> torch.Tensor:
    """The answers as labels: indices (N,), zeros and ones (N, K), or label maps (N, H, W)."""
    if scene.data.multi_label:
        return (logits > 0).to(torch.uint8)
    return as_classes(logits).argmax(1)


def _scores(scene: Scene, logits: torch.Tensor) -> np.ndarray:
    """See ``Look.scores``."""
    if scene.data.segmentation:
        return np.stack([_shares(scene, one) for one in logits.argmax(1)])
    logits = as_classes(logits.double())
    return (logits.sigmoid() if scene.data.multi_label else logits.softmax(1)).cpu().numpy()


def _shares(scene: Scene, label_map: torch.Tensor) -> np.ndarray:
    """Share of the labelled pixels of each class (K,)."""
    known = label_map[label_map != IGNORED].long().cpu()
    return np.bincount(known, minlength=len(scene.data.classes)) / max(1, len(known))


def _ranks(scene: Scene, label: torch.Tensor) -> np.ndarray:
    """A label as scores (K,)."""
    if scene.data.segmentation:
        return _shares(scene, label[0])
    if scene.data.multi_label:
        return label[0].double().numpy()
    return np.eye(len(scene.data.classes))[int(label[0])]


def _main(scene: Scene, scores: np.ndarray) -> int:
    """The one class that stands for an answer; of a segmentation none but the background's last."""
    if scene.data.segmentation:
        scores = np.where(np.arange(len(scores)) == BACKGROUND, 0, scores)
    return int(scores.argmax())


def _words(scene: Scene, scores: np.ndarray) -> str:
    """An answer for a reader; several findings by their rank."""
    classes = scene.data.classes
    if scene.data.multi_label:
        found = [classes[n] for n in np.argsort(-scores, kind="stable") if scores[n] > 0.5]
        return ", ".join(found) or "nothing"
    return classes[_main(scene, scores)]
