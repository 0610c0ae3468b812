"""Paper 2: what the record says about its networks, and where a run departs from the paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from ..attacks import Plan
from ..attacks.gradient import PGD_STEPS
from ..models import MedicalModel, build_attentive
from ..reporting.results import Run
from ..training import recipes
from .attentive_cnn import Arm, Task
from .common import parameters


def add_parameters(run: Run) -> list[dict]:
    """Rows on the "less than 1.3 %" of section 1: what attention adds to ResNet-50 at 224 pixels.

    Keras counts the running statistics of batch norms and the biases of convolutions too, which
    makes the base a little larger than torch's; the shares agree to a few hundredths of a percent.

    Returns:
        One dict a network and form: ``classes``, ``attention``, ``plain``, ``attentive``, ``block``
        (numbers in the attention block) and ``share`` (what the network grows by).
    """
    table = []
    for classes, form in product((2, 7), ("released", "intended")):
        plain, attentive = (
            build_attentive("resnet50", classes, attention=name, start="scratch", size=224)
            for name in ("none", form)
        )
        base, grown = parameters(plain), parameters(attentive)
        block = sum(p.numel() for p in attentive.backbone.attention.parameters())
        table.append(
            {
                "classes": classes,
                "attention": form,
                "plain": base,
                "attentive": grown,
                "block": block,
                "share": grown / base - 1,
            }
        )
        if form == "released":  # the two forms have equally many, see SoftAttention
            tags = {"model": "resnet", "classes": classes, "scope": "analytic"}
            run.add("parameter_share", grown / base - 1, part="network", **tags)
    trunk = sum(p.numel() for p in plain.backbone.trunk.parameters())
    run.add("parameter_share", block / trunk, part="block", model="resnet", scope="analytic")
    return table


def describe(
    arm: Arm, model: MedicalModel, history: Sequence[Mapping], settings: Mapping
) -> dict[str, object]:
    """What the record says about a network; it may have been trained in an earlier run."""
    delta = settings["training"]["min_delta"]
    best = recipes.best_epoch([row["val_top1"] for row in history], delta)
    return {
        "backbone": settings["models"][arm.model]["backbone"],
        "attention": arm.attention,
        "start": model.start,
        "source": model.source,
        "parameters": parameters(model),
        "epochs": len(history),
        "best_epoch": history[best]["epoch"],
        "training_seconds": round(sum(row["seconds"] for row in history)),
        "precision": sorted({row["precision"] for row in history}),
        "warnings": model.warnings,
    }


def deviations(
    settings: Mapping, paper: Mapping, arms: Iterable[Arm], attack_run: str = ""
) -> list[str]:
    """Where this run departs from the paper's protocol, in words, from what was really run.

    Args:
        attack_run: the attack that was chosen in place of the profile's own, if any.
    """
    arms = list(arms)
    tasks = {arm.task.key: arm.task for arm in arms}
    found = [line for task in tasks.values() for line in _of_task(task, settings, paper)]
    for model in dict.fromkeys(arm.model for arm in arms):
        ours, theirs = (one["models"][model]["backbone"] for one in (settings, paper))
        if ours != theirs:
            found.append(f"{model}: {ours} in place of {theirs}.")
        ours, theirs = (one["models"][model]["size"] for one in (settings, paper))
        if ours != theirs:
            found.append(f"{model}: images of {ours} pixels instead of {theirs}.")
    ours, theirs = settings["training"], paper["training"]
    for key in ("lr", "adam_eps", "batch"):
        if ours[key] != theirs[key]:
            found.append(f"training: {key} {ours[key]:g} instead of {theirs[key]:g}.")
    if paper["training"].get("epsilon_hat") and not ours.get("epsilon_hat"):
        found.append(
            "training: Adam's epsilon added where torch adds it; Keras corrects the bias later."
        )
    attack = settings["attack"]
    mode = attack_run or attack["mode"]
    if mode == "nested":
        steps = attack["steps"] if mode == attack["mode"] else Plan().steps
        found.append(
            f"attack: nested PGD, {steps} shrinking steps from the last radius on; the "
            "paper attacked every radius afresh with 40 steps. Nested accuracies are a worst case."
        )
    elif mode == attack["mode"] == "independent" and attack["steps"] != PGD_STEPS:
        found.append(f"attack: {attack['steps']} steps instead of {PGD_STEPS}.")
    if attack["fast"] and mode != "foolbox":
        found.append("attack: gradients in the fastest precision, success scored in float32.")
    ours, theirs = (_in_words(one["attack"]["autoattack"]) for one in (settings, paper))
    if ours != theirs:
        found.append(f"AutoAttack: {ours} (profile paper: {theirs}).")
    run = {(arm.task.role, arm.model) for arm in arms}
    planned = {(arm["role"], arm["model"]) for arm in paper["arms"]}
    missing = sorted(f"{role} with {model}" for role, model in planned - run)
    if missing:
        found.append(f"not run: {', '.join(missing)}.")
    if settings["validation_images"]:
        found.append(f"the epoch is chosen on at most {settings['validation_images']} images.")
    found.append(
        "the images an epoch's tenth is drawn from are not augmented to 51,699 as Datta's."
    )
    found.append("split, batch size, flips and the layer of Grad-CAM: not stated in the paper.")
    return list(dict.fromkeys(found))


def _in_words(autoattack: Mapping) -> str:
    return ", ".join(f"{value} {name}" for name, value in autoattack.items())


def _of_task(task: Task, settings: Mapping, paper: Mapping) -> list[str]:
    data, role = task.data, task.role
    found = []
    if data.synthetic:
        found.append(f"{role}: {len(data)} phantoms of {task.size} pixels, not real images.")
    elif not data.complete:
        listed = data.census["images_listed"]
        found.append(f"{role}: a subset of {listed} images of {data.name}.")
    if task.finding != " or ".join(paper["positive"][role]):
        found.append(f"{role}: {task.finding} in place of {' or '.join(paper['positive'][role])}.")
    for key in ("epochs", "share"):
        ours, theirs = settings["training"][key][role], paper["training"][key][role]
        if ours != theirs:
            found.append(f"{role}: {key} {ours:g} (paper: {theirs:g}).")
    if len(task.attacked) < len(task.split.test):
        attacked = f"{len(task.attacked)} of {len(task.split.test)}"
        found.append(f"{role}, {task.split_name} split: {attacked} test images attacked.")
    return found
