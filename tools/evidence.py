"""Train the networks that the headlines of papers 2 and 4 are judged by: profile ``reference``.

    python tools/evidence.py train --paper 2 --seed 0 --arm released --out DIR
    python tools/evidence.py queue [--paper 4] --out DIR

``queue`` trains what DIR lacks, one network at a time in a fixed order, and goes on where it was
stopped; a kill costs at most a minute of training. Each network leaves its weights and, beside
them, ``record.json``: learning curve, settings, hashes of split and headlines, machine. DIR must
lie outside the checkout. Needs MEDROBUST_DATA, and MEDROBUST_WEIGHTS with ``resnet50.safetensors``
(``python tools/keras_weights.py``). On a GPU the same commands use it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import timm
import torch
import yaml

from medrobust_utils.core import env
from medrobust_utils.core.storage import fingerprint, plain, write_atomic
from medrobust_utils.models import digest
from medrobust_utils.reporting import protocol
from medrobust_utils.studies import attentive_cnn, experiment, unet_adversarial

PAPERS = {2: "2_attentive_cnn", 4: "4_unet_adversarial_training"}
STUDIES = {2: attentive_cnn, 4: unet_adversarial}
PROFILE = "reference"
ARMS = {2: ("none", "released", "uniform"), 4: tuple(unet_adversarial.SCHEMES)}
AGAINST_CLEAN = ("layered", "selective", "union", "clean_layered")  # need the clean net first
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")  # tell kinds of processors apart


class Network(NamedTuple):
    """One arm with one training seed."""

    paper: int
    seed: int
    arm: str

    def record(self, out: Path) -> Path:
        return out / "records" / f"{self.paper}-{self.seed}-{self.arm}.json"


def order() -> Iterator[Network]:
    """Every network: first what chooses the length of paper 2's training, then seed by seed."""
    length = _content(2)["profiles"][PROFILE]["epochs_from"]
    yield Network(2, length["seed"], length["attention"])
    for paper, seeds in ((4, range(3)), (2, range(1)), (4, range(3, 10)), (2, range(1, 5))):
        yield from (Network(paper, seed, arm) for seed in seeds for arm in ARMS[paper])


@cache
def _content(paper: int) -> dict:
    path = resources.files("medrobust_utils") / "papers" / f"{PAPERS[paper]}.yaml"
    return yaml.safe_load(path.read_text("utf-8"))


def headline_hashes(paper: int) -> dict[str, str]:
    """A fingerprint of each headline and the anchor it needs, its amendments left out."""
    return protocol.from_text(PAPERS[paper], yaml.safe_dump(_content(paper))).fingerprints()


def split_hashes(task: experiment.Task) -> dict[str, str]:
    """Each side of the split: its number of images and sixteen hex digits of their sorted names."""
    found = {}
    for side, rows in task.split._asdict().items():
        names = "\n".join(sorted(task.data.ids[row] for row in rows))
        found[side] = f"{len(rows)} {hashlib.sha256(names.encode()).hexdigest()[:16]}"
    return found


def machine() -> dict[str, object]:
    """What kind of machine this is: a network is trained on one kind only."""
    if torch.cuda.is_available():
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return {"kind": torch.cuda.get_device_name(), "bfloat16": able}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else ()
    about = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    flags = [flag for flag in FLAGS if flag in about.get("flags", "").split()]
    kind = " ".join([about.get("vendor_id", os.uname().machine), *flags])
    return {"kind": kind, "model": about.get("model name", ""), "bfloat16": "bf16" in kind}


def chosen_epochs(curve: list[dict], settings: Mapping, majority: float) -> int:
    """How many epochs (half passes) paper 2's networks get, by the rule in its YAML."""
    rule, share = settings["epochs_from"], settings["training"]["share"]["skin"]
    needed = {a["metric"]: a["at_least"] for a in _content(2)["anchors"]["skin-imagenet"]}
    best = max(row["val_auc_macro"] for row in curve)
    for passes in rule["passes"]:
        row = curve[round(passes / share) - 1]
        competent = row["val_auc_macro"] >= needed["auc_macro"]
        competent &= row["val_top1"] >= majority + needed["accuracy_above_majority"]
        if competent and row["val_auc_macro"] >= best - rule["within"]:
            return round(passes / share)
    return round(rule["passes"][-1] / share)


def settings_of(network: Network, out: Path) -> protocol.Settings:
    """The profile; paper 2's with the epochs that its validation network chose."""
    settings = protocol.load(PAPERS[network.paper]).settings(PROFILE)
    if network.paper != 2 or network.seed == settings["epochs_from"]["seed"]:
        return settings
    path, first = out / "2-epochs.json", next(order())
    if not path.exists():
        sys.exit(f"Train --paper 2 --seed {first.seed} --arm {first.arm} first: it chooses epochs.")
    epochs = {"epochs": {"skin": json.loads(path.read_text())["epochs"]}}
    return protocol.Settings({**settings, "training": settings["training"] | epochs})


def _for_study(settings: protocol.Settings) -> protocol.Settings:
    """Settings without the rule for the length: studies refuse it while nothing is chosen."""
    return protocol.Settings({k: v for k, v in settings.items() if k != "epochs_from"})


@cache
def _arms(paper: int) -> tuple:
    settings = _for_study(protocol.load(PAPERS[paper]).settings(PROFILE))
    return tuple(STUDIES[paper].arms(settings, seed=0))  # the split's seed is 0 for every network


def arm_of(network: Network) -> experiment.Arm:
    """The study's own arm, with the training seed of the network."""
    part = "attention" if network.paper == 2 else "scheme"
    first = next(arm for arm in _arms(network.paper) if getattr(arm, part) == network.arm)
    return replace(first, seed=network.seed)


def train(network: Network, out: Path) -> Path:
    """Train one network unless that is done; returns its record."""
    if (done := network.record(out)).exists():
        return done
    if network.paper == 4 and network.arm in AGAINST_CLEAN:
        train(network._replace(arm="clean"), out)
    settings, arm, here = settings_of(network, out), arm_of(network), machine()
    if settings["training"]["precision"] == "bfloat16" and not here["bfloat16"]:
        sys.exit(f"{here['kind']} has no instructions for bfloat16.")
    weights = (env.weights_root() or out) / "resnet50.safetensors"
    if network.paper == 2 and not weights.is_file():
        sys.exit(f"{weights}: no ImageNet weights. Set MEDROBUST_WEIGHTS to where they lie.")
    checkpoints, note = out / f"paper{network.paper}", out / "started" / done.name
    about = {"kind": here["kind"], "settings": fingerprint(dict(_for_study(settings)))}
    shared = _perturbed(arm, settings, checkpoints) if network.paper == 4 else ()
    begun = _begin(
        note,
        about,
        headline_hashes(network.paper),
        list(checkpoints.glob(f"{arm.key}-??????????")),
        shared,
    )
    study = STUDIES[network.paper]
    arm, model, curve, folder = study.train(arm, _for_study(settings), checkpoints)
    data = arm.task.data
    record = {
        **network._asdict(),
        "profile": PROFILE,
        "tags": arm.tags,
        "settings": dict(settings),
        "curve": curve,
        "data": {"name": data.name, "images": len(data), "checksum": data.checksum},
        "split": split_hashes(arm.task),
        "headlines": begun["headlines"],
        "weights": {"folder": folder.name, "digest": digest(model), "source": model.source},
        "machine": here | {"threads": torch.get_num_threads(), "cores": os.cpu_count()},
        "precision": sorted({row["precision"] for row in curve}),
        "training_hours": round(sum(row["seconds"] for row in curve) / 3600, 4),
        "begun": begun["when"],
        "finished": _when() | {"torch": torch.__version__, "timm": timm.__version__},
    }
    state = {name: part.detach().cpu().contiguous() for name, part in model.state_dict().items()}
    write_atomic(folder / "weights.safetensors", safetensors.torch.save(state))
    text = (json.dumps(plain(record)[0], indent=1) + "\n").encode()
    write_atomic(folder / "record.json", text)
    if network == next(order()):
        kinds = np.bincount(data.targets[arm.task.chosen])
        chosen = {"epochs": chosen_epochs(curve, settings, kinds.max() / kinds.sum())}
        write_atomic(out / "2-epochs.json", json.dumps(chosen).encode())
    done.parent.mkdir(exist_ok=True)
    write_atomic(done, text)
    return done


def _perturbed(arm: unet_adversarial.Arm, settings: Mapping, checkpoints: Path) -> list[Path]:
    """What is made, whole or half, of the images of paper 4's arm, beside the clean network."""
    names, clean = unet_adversarial.methods(arm, settings), f"{arm.clean.key}-??????????"
    return [path for name in names for path in checkpoints.glob(f"{clean}/{name}-??????????")]


def _begin(
    path: Path,
    about: Mapping[str, str],
    headlines: Mapping,
    own: Iterable[Path],
    shared: Iterable[Path] = (),
) -> dict:
    """What was noted when the network was begun, or a new note.

    A network that was begun on another kind of machine or with other settings (``about``) is begun
    again, so that nothing is mixed: its ``own`` folders go, and on another kind of machine the
    perturbed images that it has in common with others of its seed (``shared``).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        note = json.loads(path.read_text())
        if about.items() <= note.items():
            return note
        for folder in (*own, *(shared if note["kind"] != about["kind"] else ())):
            shutil.rmtree(folder)
    note = {**about, "headlines": headlines, "when": _when()}
    write_atomic(path, json.dumps(note).encode())
    return note


def _when() -> dict[str, str | None]:
    return {"time": time.strftime("%FT%TZ", time.gmtime()), "commit": env.git_commit()}


def queue(out: Path, paper: int | None = None) -> int:
    """Train what ``out`` lacks, in order. A second queue there takes other seeds."""
    failed = 0
    (out / "locks").mkdir(parents=True, exist_ok=True)
    for network in order():
        if network.record(out).exists() or paper not in (None, network.paper):
            continue
        with (out / "locks" / f"{network.paper}-{network.seed}").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                print(_when(), network, flush=True)
                train(network, out)
            except BlockingIOError:
                continue  # another queue has this seed
            except (Exception, SystemExit) as error:
                failed += 1
                print(f"{network}: {error!r}", file=sys.stderr, flush=True)
                traceback.print_exc()
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "queue"))
    for name, kind in (("--paper", int), ("--seed", int), ("--arm", str)):
        parser.add_argument(name, type=kind)
    parser.add_argument("--out", type=Path, required=True, help="outside the checkout")
    options = parser.parse_args()
    out = options.out.resolve()
    if out.is_relative_to(Path(__file__).resolve().parents[1]):
        parser.error(f"--out {out} lies inside the checkout.")
    if options.what == "queue":
        return queue(out, options.paper)
    if options.seed is None or options.arm not in ARMS.get(options.paper, ()):
        parser.error(f"train wants --paper, --seed and --arm, of {ARMS}.")
    print(train(Network(options.paper, options.seed, options.arm), out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
