"""The page of results: whole, escaped, and clear about what is a phantom."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

from medrobust_utils.core import env
from medrobust_utils.reporting import protocol, report, results

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def images(name, synthetic):
    return SimpleNamespace(
        name=name,
        synthetic=synthetic,
        complete=False,
        checksum="00ff" * 16,
        images=np.zeros((3, 2, 2, 1), np.uint8),
        census={},
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(env, "provenance", lambda: {"device": "cpu", "versions": {"torch": "9.9"}})
    given = {"SET": "<script>alert(1)</script>"}
    run = results.Run.start("01_swin_noise", "1_swin_noise", "smoke", given, tmp_path / "smoke")
    run.dataset(images("phantom-chest", True))
    tags = {"dataset": "phantom-chest", "protocol": "single_label", "reading": "none"}
    first, attacked = {"role": "isic", "model": "resnet"}, {"attack": "pgd", "eps_255": 4.0}
    run.add("top1_imagenet_minus_scratch", 0.31, 0.25, 0.36, noise=0.0, **tags, **first)
    tags |= {"role": "nih", "model": "swin", "thousand": True}
    run.add("accuracy_attacked", 0.31, 0.25, 0.36, **tags, **attacked)
    run.warn("<b>careful</b>")
    run.deviation("one epoch & no more")
    figure = plt.figure(figsize=(2, 1))
    run.figure(figure, "curve", "Accuracy < noise")
    plt.close(figure)
    run.save()
    real = results.Run.start("01_swin_noise", "1_swin_noise", "small", {}, tmp_path / "small")
    real.dataset(images("nih", False))
    real.save()
    return tmp_path


def page(folder):
    return report.write(folder).read_text("utf-8")


def test_the_page_is_well_formed_and_needs_nothing_from_outside(folder):
    text = page(folder)
    unclosed = []
    for closing, tag in re.findall(r"<(/?)([a-z]\w*)", text):
        if closing:
            assert unclosed.pop() == tag
        elif tag not in ("meta", "br", "img"):
            unclosed.append(tag)
    assert unclosed == []
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    assert "url(" not in text and "@import" not in text and "<script" not in text


def test_what_a_run_wrote_is_escaped_and_shown_though_its_paper_is_unknown(folder):
    results.Run.start("09_x", "an <unknown> paper", "smoke", {}, folder / "x").save()
    text = page(folder)
    assert "<h2>an &lt;unknown&gt; paper</h2>" in text
    assert "&lt;b&gt;careful&lt;/b&gt;" in text and "<b>careful" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "one epoch &amp; no more" in text and "Accuracy &lt; noise" in text


def test_numbers_and_figures_are_labelled_phantom_or_real(folder):
    text = page(folder)
    label = '<span class="origin phantom">phantom</span>'
    (row,) = re.findall(r"<tr><td>D .*?</tr>", text, re.S)
    assert label in row and "accuracy_attacked" not in row and "phantoms" in row
    assert label in re.search(r"<figcaption>.*?</figcaption>", text, re.S)[0]
    titles = re.findall(r"<h3>Run of .*?</h3>", text, re.S)
    assert sorted((label in title, ">real<" in title) for title in titles) == [(0, 1), (1, 0)]
    (line,) = re.findall(r'<tr><th scope="row">phantom-chest.*?</tr>', text, re.S)
    assert label in line and "0.31" in line, "the scorecard"


def test_the_page_opens_with_an_answer_for_each_paper(folder):
    text = page(folder)
    head, _, rest = text.partition("</header>")
    for name in protocol.list_papers():
        for headline in protocol.load(name).headlines:
            place = f"{name}-{headline.id}"
            assert head.count(f'href="#{place}"') == 1 and rest.count(f'id="{place}"') == 1
    assert head.count("<b>No headline is decided yet.</b>") == 4
    assert "\u25cb not run</span>" in rest


def test_figures_are_embedded_and_a_lost_one_is_said(folder):
    assert page(folder).count("data:image/webp;base64,UklGR") == 1
    (folder / "smoke" / "curve.png").unlink()
    text = page(folder)
    assert "data:image" not in text and "curve.png is missing" in text


def test_failures_come_with_their_text_and_are_not_counted(folder):
    for path in folder.glob("*/result.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "status": "failed"}))
    (folder / "bad").mkdir()
    (folder / "bad" / "failure.txt").write_text("cell 3: ValueError: <boom>")
    text = page(folder)
    assert "Runs that did not finish" in text and "cell 3: ValueError: &lt;boom&gt;" in text
    assert "profile smoke: failed" in text
    assert "= exact" not in text and "<h3>Run of" not in text


def test_an_empty_folder_gives_a_page(tmp_path):
    text = report.write(tmp_path, tmp_path / "pages" / "r.html").read_text("utf-8")
    assert "not recorded" in text


def test_the_page_on_the_committed_results_is_small():
    reference = Path(__file__).resolve().parents[1] / "results" / "reference"
    text = report.render(results.collect(reference))
    assert len(text.encode()) < 3_000_000
    assert text.count("data:image/webp") > 80
    for defence in ("released", "glcm", "adversarial", "union", "swin"):
        assert re.search(rf'<tr><th scope="row">[^<]*{defence}', text), defence
