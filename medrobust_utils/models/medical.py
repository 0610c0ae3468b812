"""Models that take images in [0, 1] and return logits; normalisation lives inside."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_STD
from torch import nn

from ..core import env
from ..core.errors import ContractError, DataError


class MedicalModel(nn.Module):
    """A backbone behind its own normalisation.

    ``forward`` takes float32 images in [0, 1], (N, 1 or 3, H, W), and returns logits (N, K);
    gray images are repeated to the three channels that ImageNet backbones know.

    Attributes:
        start: ``imagenet`` or ``scratch``: where the weights began.
        source: which ImageNet weights those were, or ``random weights``.
        warnings: what a reader of the results must know about the weights.
        trained_in: the precision of its training (see ``training.fit``); None before that.
        built: name, ``args`` and ``how`` of the builder of ``models`` that made it; None of others.
        noise_unit: (1, 3, 1, 1); one unit of ImageNet-normalised pixels in this model's own
            normalised units. All ones for a model with ImageNet's standard deviations.
    """

    def __init__(
        self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.start, self.source = "scratch", "random weights"
        self.warnings: list[str] = []
        self.trained_in: torch.dtype | None = None
        self.built: dict[str, Any] | None = None
        self.renormalise(mean, std)

    def renormalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take other means and standard deviations of the three channels."""
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        unit = torch.tensor(IMAGENET_DEFAULT_STD).view(1, -1, 1, 1)
        self.register_buffer("noise_unit", unit / self.std, persistent=False)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] to the backbone's units, (N, 3, H, W)."""
        return (images - self.mean) / self.std  # broadcasting repeats a gray channel

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(self.normalise(images))

    def new_parameters(self) -> list[nn.Parameter]:
        """Those of modules before the backbone, which begin untrained whatever it knows: none."""
        return []


def remembered(builder: Callable[..., MedicalModel]) -> Callable[..., MedicalModel]:
    """``builder``, whose models say in ``built`` how they were built."""

    @wraps(builder)
    def build(*args: Any, **how: Any) -> MedicalModel:
        model = builder(*args, **how)
        model.built = {"builder": builder.__name__, "args": list(args), "how": how}
        return model

    return build


@remembered
def build(name: str, classes: int, *, start: str, options: Mapping | None = None) -> MedicalModel:
    """A timm model with a fresh head of ``classes`` logits.

    Args:
        name: timm architecture, e.g. ``resnet50``, ``swin_tiny_patch4_window7_224``.
        classes: K.
        start: ``imagenet`` takes ``MEDROBUST_WEIGHTS/<name>.safetensors``, else timm's
            download, else random weights with a warning; ``scratch`` is random.
        options: further arguments of the timm architecture, e.g. ``drop_path_rate``.

    Raises:
        ContractError: for an unknown architecture or start, or weights that do not fit.
    """
    return wrap_pretrained(name, start, {"num_classes": classes, **(options or {})})


def wrap_pretrained(name: str, start: str, options: Mapping | None = None) -> MedicalModel:
    """``build`` for callers that bring a head of their own.

    Without ``num_classes`` among the ``options`` the 1000 ImageNet logits stay.
    """
    if start not in ("imagenet", "scratch"):
        raise ContractError(f"start={start!r}: choose imagenet or scratch.")
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise ContractError(f"timm knows no architecture {name!r}. Near: {close or 'none'}.")
    options = dict(options or {})
    root = env.weights_root()
    if start == "imagenet" and root and (path := root / f"{name}.safetensors").is_file():
        return _from_file(path, name, options)
    if start == "imagenet":
        return _from_hub(name, options)
    return _wrap(timm.create_model(name, **options))


def _wrap(backbone: nn.Module) -> MedicalModel:
    config = backbone.pretrained_cfg
    return MedicalModel(backbone, tuple(config["mean"]), tuple(config["std"]))


def _from_hub(name: str, options: dict) -> MedicalModel:
    try:
        model = _wrap(timm.create_model(name, pretrained=True, **options))
    except (
        OSError,
        RuntimeError,
    ) as error:  # no network, no such file: hub errors derive from these
        model = _wrap(timm.create_model(name, **options))
        model.warnings.append(
            f"{name}: no ImageNet weights ({type(error).__name__}); random weights instead. Put "
            f"{name}.safetensors into MEDROBUST_WEIGHTS or connect to a model hub."
        )
        return model
    config = model.backbone.pretrained_cfg
    model.start, model.source = "imagenet", f"timm {config['architecture']}.{config['tag']}"
    return model


def _from_file(path: Path, name: str, options: dict) -> MedicalModel:
    """Weights of a safetensors file; its metadata may state other normalisation and strides."""
    try:
        with safe_open(path, "pt") as file:
            facts = _facts((file.metadata() or {}).get("medrobust", "{}"))
        state = load_file(path)
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read as safetensors ({error}). Fetch or write it again."
        ) from error
    classes = options.pop("num_classes", None)
    backbone = timm.create_model(name, **options)
    try:
        backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else error
        raise ContractError(f"{path}: does not fit timm's {name}: {reason}") from error
    if facts.get("strides") == "v1":
        use_v1_strides(backbone)
    if classes is not None:
        backbone.reset_classifier(classes)
    config = backbone.pretrained_cfg | facts
    model = MedicalModel(backbone, tuple(config["mean"]), tuple(config["std"]))
    model.start, model.source = "imagenet", facts.get("source", f"{path.name}, {_sha256(path)}")
    return model


def _facts(note: str) -> dict:
    """What a weight file says of itself in its metadata.

    Raises:
        ValueError: unless it is a JSON object whose normalisation, if any, has three numbers each.
    """
    facts = json.loads(note)
    if not isinstance(facts, dict):
        raise ValueError(f"its metadata say {note[:40]!r}, which is no JSON object")
    for key in {"mean", "std"} & facts.keys():
        three = facts[key] if isinstance(facts[key], list) else []
        lowest = 0 if key == "std" else -math.inf
        if len(three) != 3 or not all(
            isinstance(one, int | float) and lowest < one < math.inf for one in three
        ):
            raise ValueError(
                f"its metadata say {key} = {facts[key]!r}, which are not three numbers"
            )
    return facts


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def use_v1_strides(resnet: nn.Module) -> None:
    """Put each stage's stride on its first 1x1 convolution, as in He et al. 2015 and in Keras.

    timm follows the later "v1.5", which strides in the 3x3 convolution.
    """
    for layer in (resnet.layer2, resnet.layer3, resnet.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
