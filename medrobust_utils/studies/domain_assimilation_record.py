"""Paper 3: what the record says about its networks, and where a run departs from the slides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from ..models import build_assimilated
from ..models.complexity import operations
from ..reporting.results import Run
from .common import parameters
from .domain_assimilation import Arm, Task, epochs, variants

BACKBONES = ("resnet18", "resnet50", "densenet121")  # slides, "Experiments"
COLOURS = ("conv", "deconv")
SIDE = 224  # pixels, likewise


def add_modules(run: Run) -> list[dict]:
    """Rows on "lightweight": parameters and multiply-adds of T and C beside each backbone's.

    Returns:
        One dict a colour module and backbone: ``colour``, ``backbone``, and ``parameters`` and
        ``operations`` of T, C and the backbone with its two-class head.
    """
    table = []
    for colour, name in product(COLOURS, BACKBONES):
        model = build_assimilated(name, 2, colour=colour, start="scratch")
        parts = {
            "T": (model.texture, (1, 1, SIDE, SIDE)),
            "C": (model.colour, (1, 1, SIDE, SIDE)),
            "B+F": (model.backbone, (1, 3, SIDE, SIDE)),
        }
        line: dict = {"colour": colour, "backbone": name}
        for of, count in (
            ("parameters", lambda module, shape: parameters(module)),
            ("operations", lambda module, shape: operations(module, *shape)),
        ):
            counts = {part: count(*known) for part, known in parts.items()}
            line |= {f"{of} of {part}": value for part, value in counts.items()}
            share = (counts["T"] + counts["C"]) / counts["B+F"]
            tags = {"colour": colour, "backbone": name, "of": of, "layers": "ours"}
            run.add("module_share", share, **tags)
            for part in ("T", "C"):
                run.add("module_cost", counts[part], part=part, **tags)
        table.append(line)
    return table


def deviations(settings: Mapping, paper: Mapping, arms: Iterable[Arm]) -> list[str]:
    """Where this run departs from the slides' protocol, in words, from what was really run."""
    arms = list(arms)
    tasks = {arm.task.key: arm.task for arm in arms}
    found = [line for task in tasks.values() for line in _of_task(task, settings, paper)]
    for arm in arms:
        ours, theirs = epochs(arm, settings), paper["training"]["epochs"][arm.task.role]
        if ours != theirs:
            what = f"{arm.task.role}, {arm.backbone} from {arm.start}"
            found.append(f"{what}: at most {ours} epochs (slides: {theirs}).")
        if arm.start == "scratch":
            found.append(f"{arm.backbone}: trained from scratch, where the slides fine-tune.")
        if arm.backbone not in BACKBONES:
            found.append(f"{arm.backbone} is none of the slides' backbones.")
    found += _of_settings(settings, paper)
    found += _not_run(arms, paper)
    found.append(
        "alpha, layers of T and C, gray levels, split, optimiser, steps: not on the slides."
    )
    return list(dict.fromkeys(found))


def _of_settings(settings: Mapping, paper: Mapping) -> list[str]:
    """Every setting that is not the paper profile's; those with words of their own first."""
    found = []
    if settings["size"] != paper["size"]:
        found.append(f"images of {settings['size']} pixels instead of {paper['size']}.")
    if settings["alpha"] != paper["alpha"]:
        found.append(f"alpha {settings['alpha']:g} instead of {paper['alpha']:g}.")
    if settings["attack"]["mode"] == "skip_fooled":
        found.append("attack: images fooled at a smaller eps are not attacked again (but by FGSM).")
    if settings["attack"]["fast"]:
        found.append("attack: gradients in the fastest precision, success scored in float32.")
    worded = ("epochs", "images", "mode", "fast")  # here, in `deviations` or in `_of_task`
    for group in ("training", "glcm", "adversarial", "attack"):
        for key, theirs in paper[group].items():
            ours = settings[group][key]
            if key not in worded and ours != theirs:
                found.append(f"{group}: {key} {_plain(ours)} (profile paper: {_plain(theirs)}).")
    return found


def _plain(value: object) -> str:
    """A setting as it would be written in SET."""
    return str(value).translate(str.maketrans("", "", "{}'"))


def _not_run(arms: Iterable[Arm], paper: Mapping) -> list[str]:
    """The protocol's networks that this run has none of."""
    arms = list(arms)
    done = {(arm.task.role, arm.backbone) for arm in arms}
    exact = {
        (a.task.role, a.backbone, a.task.split_name, a.defence, a.alpha, a.colour, a.rows)
        for a in arms
    }
    places, single = [], []
    for group in paper["arms"]:
        place = (group["role"], group["backbone"])
        for how in variants(group, paper):
            what = (how["defence"], how["alpha"], how["colour"], how["rows"])
            if place not in done:
                places.append(" with ".join(place))
            elif (*place, group["split"], *what) not in exact:
                single.append(
                    f"{place[0]} {place[1]} {group['split']} {how['defence']}"
                    + (
                        f" (alpha {how['alpha']:g}, {how['colour']}, {how['rows']})"
                        if how["defence"] == "glcm"
                        else ""
                    )
                )
    found = [f"not run: {', '.join(sorted(set(places)))}."] if places else []
    if single:
        found.append(f"not run either: {', '.join(dict.fromkeys(single))}.")
    for regime, words in (
        ("quarter", "not attacked with torchattacks' steps"),
        ("pgd", "attacked with PGD by eps / 4 and by bisection alone"),
    ):
        fewer = dict.fromkeys(
            f"{arm.task.role} {arm.task.split_name}" for arm in arms if arm.attacks == regime
        )
        if fewer:
            who = "variants of" if regime == "pgd" else "networks of"
            found.append(f"{who} {', '.join(fewer)}: {words}.")
    return found


def _of_task(task: Task, settings: Mapping, paper: Mapping) -> list[str]:
    data, role = task.data, task.role
    found = []
    if data.synthetic:
        found.append(f"{role}: {len(data)} phantoms of {task.size} pixels, not real images.")
    elif not data.complete:
        listed = data.census["images_listed"]
        found.append(f"{role}: a subset of {listed} images of {data.name}.")
    size = min(data.class_counts().values())
    if size != paper["class_size"][role]:
        found.append(
            f"{role}, split {task.split_name}: {size} images a class (slides: "
            f"{paper['class_size'][role]})."
        )
    if len(task.attacked) < len(task.split.test):
        attacked = f"{len(task.attacked)} of {len(task.split.test)}"
        found.append(f"{role}, split {task.split_name}: {attacked} test images attacked.")
    return found
