"""Hand-made outcomes of paper 2's networks: who is right under attack is written down."""

import numpy as np
from found import falling

from medrobust_utils.attacks import SweepResult
from medrobust_utils.data import ImageSet, ThreeWay
from medrobust_utils.scoring import metrics
from medrobust_utils.studies import attentive_cnn as study
from medrobust_utils.studies.evaluation import CLEAN, Evaluation

NAMES = {"skin": "ham10000", "fundus": "retinopathy", "chest": "nih", "ct": "iq_othnccd"}
NAMES |= {"mri": "brain_mri", "xray": "kermany", "ultrasound": "busi"}


def task(role, split="honest", filter="none", n=40):
    """A task whose images are never looked at: all are tested on and attacked."""
    count, everything = 7 if role == "skin" else 2, np.arange(n)
    classes = tuple(f"class {k}" for k in range(count))
    ids, pixels = tuple(map(str, everything)), np.zeros((n, 8, 8, 1), np.uint8)
    about = dict(synthetic=False, complete=True, checksum=role, census={"class_size_listed": 23})
    data = ImageSet(NAMES[role], pixels, everything % count, classes, everything, ids, **about)
    tags = {"role": role, "dataset": data.name, "split": split, "filter": filter}
    tags["finding"] = "Pneumothorax" if role == "chest" else ""
    ways = ThreeWay(everything, everything, everything)
    return study.Task(f"{role}-{split}-{filter}", tags, data, data, ways, everything, everything)


def network(task, right, *, model="resnet", attention="none", seed=0, clean=None, radii=None):
    """A network that is right under attack where ``right`` (E, N) says so."""
    labels, n = task.data.targets, len(task.attacked)
    clean = np.ones(n, bool) if clean is None else clean
    hot = metrics.one_hot(labels, len(task.data.classes)).astype(np.float32)
    signs = [np.where(row, 1, -1)[:, None].astype(np.float32) for row in (clean, *right)]
    logits = np.stack([hot * sign for sign in signs])
    radii = np.arange(1, 1 + len(right)) / 255 if radii is None else np.array(radii)
    sweep = SweepResult(radii, logits[1:], logits[0], labels, "independent")
    scores = metrics.score(logits[0], labels, metrics.group_weights(task.data.groups, [0]))
    arm = study.Arm(task, seed, model, attention, "imagenet")
    scores = {name: scores[name] for name in CLEAN}
    return Evaluation(arm, scores, task.attacked, sweep, [0], "independent")


def pair():
    """Plain and attentive on four radii: 30, 20, 1, 1 and 32, 24, 10, 4 of 40 stay right."""
    skin = task("skin")
    plain = network(skin, falling(4, [0] * 10 + [1] * 10 + [2] * 19 + [9]))
    fall = [0] * 8 + [1] * 8 + [2] * 14 + [3] * 6 + [9] * 4
    return plain, network(skin, falling(4, fall), attention="released")
