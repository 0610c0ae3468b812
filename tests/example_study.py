"""A fifth study in forty lines: does weight decay make a network robust? (See CONTRIBUTING.)"""

from dataclasses import dataclass
from functools import cache, partial

from medrobust_utils.core import env
from medrobust_utils.data import load, split_three_ways
from medrobust_utils.models import build
from medrobust_utils.studies import experiment, tables

ARM = ("model", "decay", "start")  # what tells the networks of one task apart


@dataclass(frozen=True)
class Arm(experiment.Arm):
    model: str
    decay: float
    start: str


def arms(settings, *, seed, role="", model=""):
    task = cache(partial(_task, settings, seed=seed))  # arms of one task share it
    for spec, number in experiment.grid(settings, ARM, seed=seed, role=role, model=model):
        yield Arm(task(spec["role"]), number, **{name: spec[name] for name in ARM})


def _task(settings, role, *, seed):
    how = {"size": settings["size"], "phantoms": settings["phantoms"], "seed": seed}
    data = load(settings["datasets"][role], **how)
    tags = {"role": role, "dataset": data.name, "split": "honest"}
    task = experiment.Task(
        f"{role}-{data.name}", tags, data, data, split_three_ways(data, seed=seed)
    )
    return task.of(settings, draw=(0,), seed=seed)


def train(arm, settings, checkpoints):
    env.seed_everything(arm.seed)
    model = build(arm.model, len(arm.task.data.classes), start=arm.start)
    recipe = settings["training"] | {"weight_decay": arm.decay}
    how = {"paper": "5_weight_decay", "identity": (recipe,)}
    return experiment.train(arm, model, recipe, checkpoints, **how)


def gains(scores):
    """What each weight decay gains over none, image by image."""
    return tables.over_seeds(tables.compare(scores, "decay", None, 0.0))
