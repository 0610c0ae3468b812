"""One look: an image attacked within 32 radii, and what a network says and sees in each.

All is computed when an image is opened; a slider then only picks a place.
"""

from __future__ import annotations

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
from ..core.losses import IGNORED
from ..core.storage import plain
from ..explain import cam_layers, cams, measures
from .scene import Network, Sample, Scene

RADII = tuple(2 ** (k / 4) for k in range(-15, 17))  # gray levels of 255: up to 16
LEVELS = (0.0, *RADII)  # place 0 is the clean image
STEPS = 10  # of an iterative attack at each radius that bisection tries
BATCH = 11  # images that are explained together
SHARED = {"pgd": "PGD", "noise": "random noise"}
ON_CLASSES = SHARED | {"mifgsm": "MI-FGSM", "bim": "BIM", "fgsm": "FGSM"}
ON_LABEL_MAPS = {"background": "PGD to the background", "segpgd": "SegPGD"} | SHARED
NAMES = ON_CLASSES | ON_LABEL_MAPS
ANSWER, LABEL = "answer", "label"  # targets beside the names of classes


@dataclass(frozen=True)
class Choice:
    """What to look at: an attack (see ``attacks_for``), and which map.

    Attributes:
        target: which class to explain: ``answer`` (what the network says of the clean image),
            ``label`` (what the image shows) or the name of a class.
        layer: a module of the network; empty for the usual one.
        method: one of ``cams.METHODS``.
    """

    attack: str = "pgd"
    target: str = ANSWER
    layer: str = ""
    method: str = "grad-cam"

    def __post_init__(self) -> None:
        if self.attack not in NAMES:
            raise ContractError(f"attack {self.attack!r}: choose one of {', '.join(NAMES)}.")


def attacks_for(scene: Scene) -> dict[str, str]:
    """Attacks that fit a scene's networks, the usual one first, and what to call them."""
    return ON_LABEL_MAPS if scene.data.segmentation else ON_CLASSES


def place_of(eps_255: float) -> int:
    """The place among LEVELS nearest to a radius in gray levels."""
    return int(np.abs(np.array(LEVELS) - eps_255).argmin())


@dataclass(frozen=True, eq=False)
class Look:
    """What one network makes of one image at each of the 33 LEVELS.

    Attributes:
        images: float32 (33, C, H, W) in [0, 1].
        scores: (33, K), see ``Scene``.
        label_maps: uint8 (33, H, W), the answers of a segmentation; None for other networks.
        maps: activation maps, all for the class number ``explained``.
        mask: bool (H, H), what a map should hit: the outlined finding, or where the label map has
            the class; empty without one.
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
    mask: np.ndarray
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
        scene, label, maps, now = self.scene, self.sample.label, self.maps.maps, [place]
        names, mask = scene.data.classes, self.mask[None]
        found = {
            "paper": scene.paper,
            "task": scene.key,
            "data": scene.data.name,
            "synthetic": scene.data.synthetic,
            "network": self.network.name,
            "weights": self.network.weights,
            "network_facts": self.network.facts,
            "image": self.sample.name,
            "label": None if label is None else scene.words(scene.of_label(label)),
            "attack": self.choice.attack if place else None,
            "eps_255": LEVELS[place],
            "largest_change_255": np.abs(self.images[place] - self.images[0]).max() * 255,
            "explained": names[self.explained],
            "layer": self.maps.layer,
            "method": self.choice.method,
            "mask_share": mask.mean() if mask.any() else None,
            "correlation": measures.correlation(maps[:1], maps[now])[0],
            "similarity": measures.similarity(maps[:1], maps[now])[0],
            "top_overlap": measures.top_overlap(maps[:1], maps[now])[0],
            "warnings": scene.warnings,
            "notes": self.notes,
        }
        for when, at in (("before", 0), ("after", place)):
            found[f"answer_{when}"] = scene.words(self.scores[at])
            found[f"probabilities_{when}"] = dict(zip(names, self.scores[at], strict=True))
            found[f"no_map_{when}"] = self.maps.reasons[at]
            found[f"inside_{when}"] = measures.energy_inside(maps[[at]], mask)[0]
            found[f"pointing_{when}"] = measures.pointing(maps[[at]], mask)[0]
            if self.label_maps is not None and label is not None:
                given = self.region(at) & (label[0] != IGNORED).numpy()
                both = (mask.sum() + given.sum()) or np.nan
                found[f"dice_{when}"] = 2 * (mask[0] & given).sum() / both
        if self.label_maps is not None:
            found["pixels_changed"] = (self.label_maps[place] != self.label_maps[0]).mean()
        return plain(found)[0]


@lru_cache(maxsize=8)
def look(scene: Scene, network: Network, sample: Sample, choice: Choice) -> Look:
    """Attack an image within all radii, and explain what the network says of it at each.

    All maps explain the same class, and of a segmentation the same pixels: those that the network
    gives to it in the clean image, or where it gives none, those of the label.

    Raises:
        ContractError: for a choice that does not fit the scene.
    """
    model, logits = network.read(), []
    how = {"total": 1 + -(-len(LEVELS) // BATCH), "desc": network.name, "leave": False, "delay": 1}
    with env.progress(**how) as bar:
        images, clean = _attacked(scene, network, sample, choice.attack)
        bar.update()
        kind, notes = _explained(scene, sample, choice.target, scene.scores(clean)[0])
        regions, nowhere = None, np.zeros(images.shape[2:], bool)
        mask = nowhere if sample.mask is None else sample.mask
        if scene.data.segmentation:
            mask = mask if sample.label is None else (sample.label[0] == kind).numpy()
            region = (clean.argmax(1)[0] == kind).cpu().numpy()
            regions = np.stack([region if region.any() else mask] * len(images))
        layer, more = _layer(scene, network, choice.layer)

        def seen(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
            logits.append(output.detach().float().cpu())
            bar.update()

        hook = model.register_forward_hook(seen)  # one pass for answers and maps
        try:
            how = {"method": choice.method, "layer": layer, "regions": regions, "batch": BATCH}
            maps = cams.grad_cam(model, images, [kind] * len(images), **how)
        finally:
            hook.remove()
    answers = torch.cat(logits)
    return Look(
        scene,
        network,
        sample,
        choice,
        images.cpu().numpy(),
        scene.scores(answers),
        answers.argmax(1).to(torch.uint8).numpy() if scene.data.segmentation else None,
        maps,
        kind,
        mask,
        (*sample.notes, *notes, *more),
    )


@lru_cache(maxsize=8)
def layers(scene: Scene, network: Network) -> dict[str, int]:
    """Layers of a network that can be explained, and the sides of their maps."""
    return cam_layers.layers(network.read(), tuple(scene.sample(0).image.shape[1:]))


@lru_cache(maxsize=8)
def _attacked(
    scene: Scene, network: Network, sample: Sample, kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image at every level (33, C, H, W), and the logits of the clean one.

    The attack aims away from the network's own answer. Each radius is filled: between those that
    were tried the perturbation is that of the last one below, scaled.
    """
    if kind not in attacks_for(scene):
        known = ", ".join(attacks_for(scene))
        raise ContractError(f"attack {kind!r} does not fit {scene.key}: choose {known}.")
    model = network.read()
    image = sample.image.to(next(model.parameters()).device)
    clean = ask(model, image)
    check_logits(clean, scene.data.multi_label)
    radii = torch.tensor(RADII, device=image.device) / 255
    change = _tried(scene, kind, model, image, scene.answers(clean)) - image
    size = change.abs().amax((1, 2, 3))
    source = torch.where(size > 0, torch.arange(len(radii), device=image.device), 0)
    source = source.cummax(0).values.clamp(min=int(size.count_nonzero() and size.nonzero()[0]))
    scale = (radii / size[source].clamp(min=1e-12))[:, None, None, None]
    low, high = engine.ball(image.expand(len(radii), -1, -1, -1), radii)
    return torch.cat([image, (image + change[source] * scale).clamp(low, high)]), clean


def _tried(
    scene: Scene, kind: str, model: nn.Module, image: torch.Tensor, answer: torch.Tensor
) -> torch.Tensor:
    """The image within each radius (32, C, H, W); as it is at radii that were not tried.

    Random noise and FGSM have one direction for all radii. The others bisect for the smallest
    radius at which the answer changes, of a label map that of half of the pixels.
    """
    radii, maps = [eps / 255 for eps in RADII], answer.ndim == 3
    whole = image.repeat(len(radii), 1, 1, 1)
    if kind == "noise":
        signs = torch.randint(2, image.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        return whole + signs.to(image)
    if kind == "fgsm":
        return whole + (attacks.fgsm(model, image, answer, 1.0) - image).sign()
    if kind == "pgd" and not maps:
        return torch.cat([one.images for one in attacks.at_radii(model, image, answer, radii)])
    low, high = -1, len(radii)
    while high - low > 1:
        place = (low + high) // 2
        eps = radii[place]
        if maps:
            moved = attacks.Attack(kind, eps, STEPS)(model, image, answer, torch.float32)["images"]
        else:
            how = {"steps": STEPS, "step_size": attacks.madry_step(eps, STEPS)}
            moved = getattr(attacks, kind)(model, image, answer, eps, **how)
        whole[place] = moved[0]
        changed = (scene.answers(ask(model, moved)) != answer).float().mean() > 0.5 * maps
        low, high = (low, place) if changed else (place, high)
    return whole


def _explained(
    scene: Scene, sample: Sample, target: str, scores: np.ndarray
) -> tuple[int, tuple[str, ...]]:
    """Which class is to be explained, and a word where it is not the one asked for.

    ``scores`` are those of the clean image, so the question stays when the answer changes.
    """
    classes = scene.data.classes
    if target not in (ANSWER, LABEL, *classes):
        raise ContractError(f"class {target!r}: choose {ANSWER}, {LABEL} or {', '.join(classes)}.")
    if target in classes:
        return classes.index(target), ()
    if target == ANSWER or sample.label is None:
        note = "This image has no label: the map explains the network's own answer."
        return scene.main(scores), (note,) * (target == LABEL)
    label = scene.of_label(sample.label)
    if not label.any():
        note = "The label names no finding: the map explains the likeliest one."
        return scene.main(scores), (note,)
    return scene.main(label * scores if scene.data.multi_label else label), ()


def _layer(scene: Scene, network: Network, wanted: str) -> tuple[str, tuple[str, ...]]:
    """The layer to explain, and a word where the network has no layer of the wanted name."""
    own = layers(scene, network)
    if not wanted or wanted in dict(network.read().named_modules()):
        return wanted or next(iter(own)), ()
    for other in scene.networks:
        if side := layers(scene, other).get(wanted):
            near = min(own, key=lambda name: abs(np.log2(own[name] / side)))
            return near, (f"It has no layer {wanted}: {near} is the one nearest in size.",)
    raise ContractError(f"no network here has a layer {wanted!r}. Choose one of {', '.join(own)}.")
