"""Fit a classifier, with checkpoints that survive a kill at any moment.

Every checkpoint holds the model, the optimiser, the position in the schedule, the history and
torch's random state; the order of the images and the flips derive from (seed, epoch). A run
that was killed and started again therefore ends with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import env
from .data import ImageSet, Split, to_float
from .errors import ContractError, RunError
from .losses import per_image
from .models import MedicalModel
from .storage import fingerprint

CHECKPOINT_SECONDS = 60.0
SETTINGS = ("epochs", "batch", "lr", "weight_decay", "warmup_epochs", "clip", "flips")


def fit(
    model: MedicalModel,
    data: ImageSet,
    split: Split,
    settings: Mapping,
    folder: Path,
    *,
    seed: int,
    validate: Callable[[MedicalModel], dict[str, float]],
) -> list[dict]:
    """Train ``model`` in place and return its learning curve, one dict an epoch.

    AdamW with warm-up and cosine schedule, the recipe that Swin-T is fine-tuned with
    (microsoft/Swin-Transformer). Cross-entropy for class indices, binary cross-entropy for
    multi-hot targets. Training uses mixed precision where a timed probe shows that it helps.

    Args:
        settings: ``epochs``, ``batch``, ``lr`` (peak), ``weight_decay``, ``warmup_epochs``,
            ``clip`` (gradient norm, 0: none), ``flips`` (``none``, ``horizontal`` or ``both``).
        folder: where ``checkpoint.pt`` lies; a finished one is loaded, not trained again.
        validate: called after each epoch with the model in evaluation mode; its numbers join
            the learning curve.

    Raises:
        RunError: if ``folder`` holds a checkpoint of other settings, data or architecture.
    """
    settings = {key: settings[key] for key in SETTINGS}
    device = env.pick_device()
    identity = fingerprint(
        settings,
        seed,
        data.checksum,
        split.train.tolist(),
        {k: list(v.shape) for k, v in model.state_dict().items()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device, memory_format=torch.channels_last)
    job = _Job(model, data, split, settings, folder / "checkpoint.pt", identity, seed, device)
    job.resume()
    done, total = job.epoch * job.steps + job.step, settings["epochs"] * job.steps
    with env.progress(total=total, initial=done, desc="training", disable=done == total) as bar:
        while job.epoch < settings["epochs"]:
            job.run_epoch(bar)
            model.eval()
            job.finish_epoch(validate(model))
    model.eval()
    return job.history


class _Job:
    """One training run: everything that a checkpoint must hold, and the loop over it."""

    def __init__(
        self,
        model: MedicalModel,
        data: ImageSet,
        split: Split,
        settings: dict,
        path: Path,
        identity: str,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.data, self.split, self.settings = model, data, split, settings
        self.path, self.identity, self.seed, self.device = path, identity, seed, device
        self.dtype = env.training_dtype(device)
        self.steps = math.ceil(len(split.train) / settings["batch"])
        self.optimiser = torch.optim.AdamW(
            model.parameters(), settings["lr"], weight_decay=settings["weight_decay"]
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.history: list[dict] = []
        env.seed_everything(seed)

    def _rate(self, step: int) -> float:
        """Share of the peak learning rate: linear warm-up, then half a cosine."""
        warmup = self.settings["warmup_epochs"] * self.steps
        total = self.settings["epochs"] * self.steps
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def run_epoch(self, bar: Any) -> None:
        """The rest of the current epoch, with a checkpoint now and then."""
        self.model.train()
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.split.train)
        flipped = random.random((len(order), 2)) < 0.5
        saved, size = time.monotonic(), self.settings["batch"]
        for step in range(self.step, self.steps):
            started = time.monotonic()
            rows = slice(step * size, (step + 1) * size)
            loss = self._step(order[rows], flipped[rows])
            self.loss_sum += loss * len(order[rows])
            self.step = step + 1
            self.seconds += time.monotonic() - started
            bar.set_postfix(epoch=self.epoch + 1, loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()

    def _step(self, index: np.ndarray, flipped: np.ndarray) -> float:
        images = to_float(self.data.images[index])
        images = flip(images, flipped, self.settings["flips"])
        images = images.to(self.device, memory_format=torch.channels_last)
        targets = torch.from_numpy(self.data.targets[index]).to(self.device)
        with env.autocast(self.device, self.dtype):
            logits = self.model(images)
        loss = per_image(logits.float(), targets).mean()
        if not torch.isfinite(loss):
            raise RunError(
                f"the training loss became {loss.item()} in epoch {self.epoch + 1}. Lower the "
                f"learning rate (now {self.settings['lr']})."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings["clip"]:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip"])
        self.optimiser.step()
        self.schedule.step()
        return loss.item()

    def finish_epoch(self, scores: dict[str, float]) -> None:
        """Write the epoch's line of the learning curve and checkpoint."""
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "train_loss": self.loss_sum / len(self.split.train),
                **scores,
                "seconds": round(self.seconds, 1),
                "precision": _name(self.dtype),
            }
        )
        self.epoch, self.step, self.loss_sum, self.seconds = self.epoch + 1, 0, 0.0, 0.0
        self.save()

    def save(self) -> None:
        """Replace the checkpoint in one move: a kill leaves the old one or the new one."""
        state = {
            "identity": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "loss_sum": self.loss_sum,
            "seconds": self.seconds,
            "history": json.dumps(self.history),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.last_epoch,
            "precision": _name(self.dtype),
            "random": torch.get_rng_state(),
            "device": self.device.type,
            "device_random": _device_random(self.device),
        }
        # One name: what a kill leaves behind is overwritten by the next save, not piled up.
        partial = self.path.with_suffix(".partial")
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        if not self.path.exists():
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, precision = state["identity"], state["precision"]
        except Exception as error:  # torch raises many types for a damaged archive
            raise RunError(
                f"{self.path}: cannot be read ({type(error).__name__}). "
                "Delete its folder to train again."
            ) from error
        if identity != self.identity:
            raise RunError(
                f"{self.path}: belongs to other settings, data or weights. Choose another folder "
                "for checkpoints, or delete its folder to train again."
            )
        self.dtype = getattr(torch, precision)  # the probe may choose anew; a run may not
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.last_epoch = state["schedule"]
        for group, rate in zip(self.optimiser.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = rate * self._rate(state["schedule"])
        self.epoch, self.step, self.loss_sum = state["epoch"], state["step"], state["loss_sum"]
        self.seconds, self.history = state["seconds"], json.loads(state["history"])
        torch.set_rng_state(state["random"])
        if state["device_random"] is not None and state["device"] == self.device.type:
            {"cuda": torch.cuda, "mps": torch.mps}[self.device.type].set_rng_state(
                state["device_random"]
            )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _device_random(device: torch.device) -> torch.Tensor | None:
    if device.type == "cuda":
        return torch.cuda.get_rng_state()
    return torch.mps.get_rng_state() if device.type == "mps" else None


def flip(images: torch.Tensor, flipped: np.ndarray, kind: str) -> torch.Tensor:
    """Mirror the images (N, C, H, W) where ``flipped`` (N, 2) says so.

    Args:
        kind: ``none`` (chest X-rays have a left and a right), ``horizontal`` or ``both``.
    """
    if kind not in ("none", "horizontal", "both"):
        raise ContractError(f"flips={kind!r}: choose none, horizontal or both.")
    for column, axis in enumerate({"none": (), "horizontal": (3,), "both": (3, 2)}[kind]):
        chosen = torch.from_numpy(flipped[:, column]).view(-1, 1, 1, 1)
        images = torch.where(chosen, images.flip(axis), images)
    return images
