"""Fit a classifier, with checkpoints that survive a kill at any moment.

Every checkpoint holds the model, the optimiser, the position in the schedule, the history and
torch's random state; the order of the images and the flips derive from (seed, epoch). A run
that was killed and started again therefore ends with the numbers of an uninterrupted one.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core import env
from ..core.errors import ContractError, RunError
from ..core.gate import once
from ..core.storage import fingerprint, write_atomic
from ..data import ImageSet, Split, ThreeWay, to_float
from ..models import MedicalModel
from . import recipes
from .augment import crop, flip
from .objectives import CrossEntropy, Objective

CHECKPOINT_SECONDS = 60.0
STALE_SECONDS = 3600.0  # no checkpoint takes so long to write


@once()
def fit(
    model: MedicalModel,
    data: ImageSet,
    split: Split | ThreeWay,
    settings: Mapping,
    folder: Path,
    *,
    seed: int,
    validate: Callable[[MedicalModel], dict[str, float]],
    objective: Objective | None = None,
) -> list[dict]:
    """Train ``model`` in place and return its learning curve, one dict an epoch.

    Precision is mixed where the recipe says so or, left to it, the processor has what it takes.

    Args:
        settings: see ``recipes.complete``. With ``patience``, training stops early and ``model``
            ends with the weights of the epoch that was best by the recipe's ``monitor``.
        folder: where ``checkpoint.pt`` lies; a finished one is loaded, not trained again.
        validate: called after each epoch with the model in evaluation mode; its numbers join
            the learning curve.
        objective: what is minimised; without one, cross-entropy for class indices and binary
            cross-entropy for multi-hot targets, with the recipe's class weights.

    Raises:
        ContractError: with ``patience``, if ``validate`` does not return the ``monitor``.
        RunError: if ``folder`` holds a checkpoint of other settings, data or architecture.
    """
    settings = recipes.complete(settings)
    device = env.pick_device()
    identity = fingerprint(
        recipes.essence(settings),
        seed,
        data.checksum,
        split.train.tolist(),
        {k: list(v.shape) for k, v in model.state_dict().items()},
        *([objective.identity] if objective else []),
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.to(device, memory_format=torch.channels_last)
    if objective is None:
        weights = None
        if settings["class_weights"]:
            targets = data.targets[split.train]
            weights = recipes.inverse_frequency(targets, len(data.classes)).to(device)
        objective = CrossEntropy(weights)
    path = folder / "checkpoint.pt"
    job = _Job(model, data, split, settings, objective, path, identity, seed, device)
    job.resume()
    done, total = job.epoch * job.steps + job.step, settings["epochs"] * job.steps
    with env.progress(total=total, initial=done, desc="training", disable=job.finished) as bar:
        while not job.finished:
            job.run_epoch(bar)
            model.eval()
            job.finish_epoch(validate(model))
    if job.best is not None:
        model.load_state_dict(job.best)
    model.eval()
    model.trained_in = job.dtype
    return job.history


class _Job:
    """One training run: everything that a checkpoint must hold, and the loop over it."""

    def __init__(
        self,
        model: MedicalModel,
        data: ImageSet,
        split: Split | ThreeWay,
        settings: dict,
        objective: Objective,
        path: Path,
        identity: str,
        seed: int,
        device: torch.device,
    ) -> None:
        self.model, self.data, self.split, self.settings = model, data, split, settings
        self.objective, self.path, self.identity = objective, path, identity
        self.seed, self.device = seed, device
        fixed = settings["precision"]
        self.dtype = env.training_dtype(device) if fixed == "auto" else getattr(torch, fixed)
        if settings["batch_norm_momentum"] is not None:
            for part in model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.momentum = settings["batch_norm_momentum"]
        if settings["crops"] < 1 and data.segmentation:
            raise ContractError("random crops would not move label maps along. Set crops to 1.")
        self.images = math.ceil(round(settings["share"] * len(split.train), 6))  # of one epoch
        if self.images % settings["batch"] == 1 < self.images:
            self.images -= 1  # another one each epoch: batch norm takes no image by itself
        self.steps = math.ceil(self.images / settings["batch"])
        self.optimiser = recipes.optimiser(model, settings)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.epoch, self.step, self.loss_sum, self.seconds = 0, 0, 0.0, 0.0
        self.history: list[dict] = []
        self.best: dict[str, torch.Tensor] | None = None  # weights of the best epoch
        env.seed_everything(seed)

    def _rate(self, step: int) -> float:
        return recipes.rate(self.settings, step, self.steps)

    def schedule_eps(self) -> None:
        """Before each step: Adam's eps as Keras means it, where the recipe asks for that."""
        if self.settings["epsilon_hat"]:
            for group in self.optimiser.param_groups:
                step, beta = self.schedule.last_epoch + 1, group["betas"][1]
                group["eps"] = recipes.keras_eps(self.settings["adam_eps"], step, beta)

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or the best one lies too far back."""
        if self.epoch >= self.settings["epochs"]:
            return True
        patience = self.settings["patience"]
        return bool(patience and self.history and self.epoch - 1 - self._best() >= patience)

    def _best(self) -> int:
        scores = [row[self.settings["monitor"]] for row in self.history]
        return recipes.best_epoch(scores, self.settings["min_delta"])

    def run_epoch(self, bar: Any) -> None:
        """The rest of the current epoch, with a checkpoint now and then."""
        self.model.train()
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.split.train)[: self.images]
        flipped = random.random((len(order), 2)) < 0.5
        cropped = random.random((len(order), 3)) if self.settings["crops"] < 1 else None
        saved, size = time.monotonic(), self.settings["batch"]
        for step in range(self.step, self.steps):
            started = time.monotonic()
            rows = slice(step * size, (step + 1) * size)
            boxes = None if cropped is None else cropped[rows]
            loss = self._step(order[rows], flipped[rows], boxes)
            self.loss_sum += loss * len(order[rows])
            self.step = step + 1
            self.seconds += time.monotonic() - started
            bar.set_postfix(epoch=self.epoch + 1, loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()

    def _step(self, index: np.ndarray, flipped: np.ndarray, boxes: np.ndarray | None) -> float:
        images = to_float(self.data.images[index])
        images = flip(images, flipped, self.settings["flips"])
        if boxes is not None:
            images = crop(images, boxes, self.settings["crops"])
        images = images.to(self.device, memory_format=torch.channels_last)
        targets = torch.from_numpy(self.data.targets[index])
        if self.data.segmentation:  # every pixel's label moves with it
            targets = flip(targets[:, None], flipped, self.settings["flips"])[:, 0]
        targets = targets.to(self.device)
        loss = self.objective(self.model, images, targets, index, self.dtype)
        if not torch.isfinite(loss):
            raise RunError(
                f"the training loss became {loss.item()} in epoch {self.epoch + 1}. Lower the "
                f"learning rate (now {self.settings['lr']})."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.settings["clip"]:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip"])
        self.schedule_eps()
        self.optimiser.step()
        self.schedule.step()
        return loss.item()

    def finish_epoch(self, scores: dict[str, float]) -> None:
        """Write the epoch's line of the learning curve and checkpoint."""
        if self.settings["patience"] and self.settings["monitor"] not in scores:
            raise ContractError(
                f"early stopping looks at {self.settings['monitor']}, which validate does not "
                "return. Return it, or set patience to 0."
            )
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "train_loss": self.loss_sum / self.images,
                **scores,
                "seconds": round(self.seconds, 1),
                "precision": _name(self.dtype),
            }
        )
        if self.settings["patience"] and self._best() == self.epoch:
            self.best = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
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
            "best": self.best,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.last_epoch,
            "precision": _name(self.dtype),
            "random": torch.get_rng_state(),
            "device": self.device.type,
            "device_random": _device_random(self.device),
        }
        whole = io.BytesIO()  # by itself, torch hides why a disk took no more
        torch.save(state, whole)
        write_atomic(self.path, whole.getbuffer())

    def resume(self) -> None:
        """Continue from the checkpoint, if there is one."""
        for left in self.path.parent.glob(f".{self.path.name}.*"):  # by a kill
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink(missing_ok=True)
        if not self.path.exists():
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, precision = str(state["identity"]), state["precision"]
        except Exception as error:  # torch raises many types for a damaged archive
            words = f"{self.path}: cannot be read ({type(error).__name__})"
            raise RunError(f"{words}. Delete its folder to train again.") from error
        if identity != self.identity:
            raise RunError(
                f"{self.path}: belongs to other settings, data or weights. Choose another folder "
                "for checkpoints, or delete its folder to train again."
            )
        try:
            self._restore(state, precision)
        except Exception as error:  # a part is missing, or of another type or shape
            words = f"{self.path}: is damaged ({type(error).__name__})"
            raise RunError(f"{words}. Delete its folder to train again.") from error

    def _restore(self, state: Mapping, precision: str) -> None:
        self.dtype = getattr(torch, precision)  # a run keeps what it began with
        self.model.load_state_dict(state["model"])
        self.best = state.get("best")  # checkpoints of earlier versions have none
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
