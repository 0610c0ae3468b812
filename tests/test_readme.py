"""The README says what the committed results say, and every link in it leads somewhere."""

import re
from pathlib import Path

from medrobust_utils.reporting import planning, results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_links_and_figures_exist_and_are_small():
    links = re.findall(r"\]\((?!https?://|#)([^)]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link.partition("#")[0]).exists(), link
    figures = list((ROOT / "results" / "reference").rglob("*.png"))
    assert figures and all(figure.stat().st_size < 200_000 for figure in figures)


def test_every_notebook_is_named():
    for path in planning.find_notebooks([], ROOT / "notebooks"):
        assert f"notebooks/{path.name}" in README


def test_reference_results_on_real_images_say_so():
    for run in results.collect(ROOT / "results" / "reference"):
        assert run["profile"] == "small" and run["status"] == "complete"
        # where a run has one set of several, drawn ones explain an idea, and say that they are
        drawn = {name for name, data in run["datasets"].items() if data["synthetic"]}
        assert run["parameters"].get("DATASET") or not drawn
        assert all(row["synthetic"] for row in run["rows"] if row.get("dataset") in drawn)
        assert run["deviations"] and run["provenance"]["git_commit"]
        assert all(curve for curve in run["history"].values())
        for name, data in run["datasets"].items():  # not the copies of the paper-style protocol
            if name == "natural-photographs" or name in drawn:  # which no publisher listed
                continue
            assert data["n"] == data["census"]["images_listed"] - (
                data["census"].get("exact_duplicates_removed", 0)  # none where they were kept
                + data["census"].get("contradictory_labels_dropped", 0)
            )


def the_run(notebook, **parameters):
    """The one reference run of a notebook with these parameters; older runs know fewer."""
    (run,) = (
        r
        for r in results.collect(ROOT / "results" / "reference")
        if r["notebook"] == notebook
        and all(r["parameters"].get(name, "") == value for name, value in parameters.items())
    )
    return run


def table(first):
    """The cells of README's lines that begin so."""
    found = [line for line in README.splitlines() if re.match(first, line)]
    return [line.strip("| \n").split(" | ") for line in found]


def test_the_table_of_attacks_is_that_of_the_reference_run():
    run = the_run("01_swin_noise", PART="attack")
    lines = table(r"\| (Skin|Chest), ")
    assert len(lines) == 6
    for name, start, *cells, constant in lines:
        images, model = name.split(", ")
        wanted = {
            "metric": "accuracy_attacked",
            "role": {"Skin": "isic", "Chest": "nih"}[images],
            "model": model[:6].split("-")[0].lower(),
            "start": "imagenet" if start == "ImageNet" else "scratch",
        }
        kinds = [
            ("none", 0.0),
            ("noise", 4.0),
            ("pgd", 4.0),
            ("autoattack", 1.0),
            ("autoattack", 4.0),
        ]
        for (attack, eps), text in zip(kinds, cells, strict=True):
            tags = wanted | {"attack": attack, "eps_255": eps}
            (row,) = (r for r in run["rows"] if tags.items() <= r.items())
            assert text == f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        always = wanted | {"metric": "accuracy_constant"}
        (row,) = (r for r in run["rows"] if always.items() <= r.items())
        assert constant == f"{row['value']:.3f}"


def test_the_table_of_scores_is_that_of_the_reference_run():
    run = the_run("01_swin_noise", PART="")
    lines = table(r"\| (HAM10000|NIH), ")
    assert len(lines) == 6
    for name, start, top1, majority, auc in lines:
        data, model = name.lower().split(", ")
        wanted = {
            "dataset": data,
            "sound": True,
            "reading": "none",
            "model": model[:6].split("-")[0],
            "start": "imagenet" if start == "ImageNet" else "scratch",
        }
        for metric, text in (("top1", top1), ("auc_macro", auc)):
            (row,) = (
                r for r in run["rows"] if r["metric"] == metric and wanted.items() <= r.items()
            )
            assert text == f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines_of_chance = {
            f"{r['value']:.3f}"
            for r in run["rows"]
            if r["metric"] == "top1" and r["model"] == "majority" and r["dataset"] == data
        }
        assert majority in lines_of_chance


def test_no_executed_notebook_is_kept():
    """An executed copy shows the patients' images that it ran on."""
    assert not list((ROOT / "results" / "reference").rglob("*.ipynb"))


def test_the_table_of_attacked_networks_is_that_of_the_reference_run():
    run = results.read(ROOT / "results" / "reference" / "02_attentive_cnn_pgd")
    lines = [
        line.strip("| \n").split(" | ")
        for line in README.splitlines()
        if re.match(r"\| (skin|retina|chest), ", line)
    ]
    assert len(lines) == len(run["models"])
    roles = {"skin": "skin", "retina": "fundus", "chest": "chest"}
    for name, accuracy, majority, balanced, auc, *attacked in lines:
        place, form = name.split(", ")[0], name.split(", ")[-1]
        wanted = {
            "role": roles[place],
            "split": "datta" if "Datta" in name else "honest",
            "filter": "contrast" if place == "chest" or "filter" in name else "none",
            "attention": {"attention": "released", "plain": "none"}[form],
        }

        def text(metric, wanted=wanted, **tags):
            (row,) = (
                row
                for row in run["rows"]
                if row["metric"] == metric and (wanted | tags).items() <= row.items()
            )
            return row["value"], f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"

        model = {"model": "resnet", "attack": "none"}
        assert accuracy == text("accuracy", **model)[1]
        assert balanced == text("balanced_accuracy", **model)[1]
        assert auc == text("auc_macro", **model)[1]
        line = wanted | {"model": "majority"}
        del line["attention"]
        assert majority == f"{text('accuracy', line)[0]:.3f}"
        for eps, shown in zip((0.08, 0.32), attacked, strict=True):
            cell = {"model": "resnet", "scale": "0-255", "eps": eps}
            assert shown == text("accuracy", **cell)[1], name


def test_the_table_of_assimilated_networks_is_that_of_the_reference_run():
    run = results.read(ROOT / "results" / "reference" / "03_domain_assimilation")
    lines = [
        line.strip("| \n").split(" | ")
        for line in README.splitlines()
        if re.match(r"\| (CT|MRI|X-ray|ultrasound), ", line)
    ]
    shown = {
        (row["role"], row["backbone"], row["defence"])
        for row in run["rows"]
        if row.get("step") == "all"
    }
    assert len(lines) == len(shown)
    roles = {"CT": "ct", "MRI": "mri", "X-ray": "xray", "ultrasound": "ultrasound"}
    names = {
        "vanilla": "none",
        "modules": "modules",
        "assimilated": "glcm",
        "PGD-trained": "adversarial",
    }
    for name, *cells in lines:
        place, backbone, defence = name.split(", ")
        wanted = {
            "role": roles[place],
            "split": "honest",
            "backbone": backbone.split(" ")[0].lower().replace("-", ""),
            "defence": names[defence],
            "start": "scratch" if "scratch" in backbone else "imagenet",
            "alpha": 0.9 if defence == "assimilated" else 1.0,
            "colour": "conv" if defence in ("modules", "assimilated") else "none",
            "rows": "areas" if defence == "assimilated" else "none",
        }
        columns = [
            {"metric": "accuracy", "attack": "none"},
            {"metric": "accuracy_attacked", "attack": "none"},
            *(
                {"metric": "accuracy_attacked", "attack": attack, "step": step, "eps_255": eps}
                for attack, step in (("pgd", "quarter"), ("worst", "all"))
                for eps in (1, 4)
            ),
        ]
        for tags, cell in zip(columns, cells, strict=True):
            (row,) = (r for r in run["rows"] if (wanted | tags).items() <= r.items())
            assert cell == f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", name


def test_the_table_of_unets_is_that_of_the_reference_run():
    run = results.read(ROOT / "results" / "reference" / "04_unet_adversarial_training")
    schemes = {
        "1, clean": "clean",
        "2, layered": "layered",
        "3, selective": "selective",
        "4, union": "union",
        "PGD-trained": "adversarial",
    }
    lines = [
        line.strip("| \n").split(" | ")
        for line in README.splitlines()
        if re.match(r"\| (\d, (clean|layered|selective|union)|PGD-trained) \|", line)
    ]
    assert {line[0] for line in lines} == {
        name
        for name, scheme in schemes.items()
        if any(row.get("scheme") == scheme for row in run["rows"])
    }
    scores = ("pixel_accuracy", "mean_iou", "foreground_accuracy")
    columns = [
        {"metric": score, "attack": attack, "variant": "main"} | how
        for attack, how in (
            ("none", {}),
            ("background", {"reading": "total", "made_for": "own"}),
            ("worst", {}),
        )
        for score in scores[attack == "worst" :]
    ]
    for name, *cells in lines:
        for tags, cell in zip(columns, cells, strict=True):
            wanted = tags | {"scheme": schemes[name]}
            (row,) = (r for r in run["rows"] if wanted.items() <= r.items())
            assert cell == f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", name
