"""The page of results: whole, escaped, and clear about what is a phantom."""

import html
import html.parser
import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

from medrobust_utils.core import env
from medrobust_utils.core.errors import RunError
from medrobust_utils.reporting import protocol, report, results

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

VOID = {"meta", "br", "img"}


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
    run = results.Run.start(
        "01_swin_noise",
        "1_swin_noise",
        "smoke",
        {"SET": "<script>alert(1)</script>"},
        tmp_path / "smoke",
    )
    run.dataset(images("phantom-chest", True))
    tags = {"role": "nih", "model": "swin", "protocol": "single_label", "reading": "none"}
    run.add(
        "top1_imagenet_minus_scratch",
        0.31,
        0.25,
        0.36,
        noise=0.0,
        dataset="phantom-chest",
        **tags | {"role": "isic", "model": "resnet"},
    )
    run.add(
        "accuracy_attacked",
        0.31,
        0.25,
        0.36,
        thousand=True,
        attack="pgd",
        eps_255=4.0,
        dataset="phantom-chest",
        **tags,
    )
    run.add("attention_exponent_window", 1.0, scope="analytic")
    run.warn("<b>careful</b>")
    run.deviation("one epoch & no more")
    figure = plt.figure(figsize=(2, 1))
    run.figure(figure, "curve", "Accuracy < noise")
    plt.close(figure)
    run.save()
    return tmp_path


class Balance(html.parser.HTMLParser):
    """Collects tags that are closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.faults = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append((tag, self.getpos()))


def html_of(text):
    return html.escape(text, quote=True).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def page(folder):
    return report.write(folder).read_text("utf-8")


def test_the_page_is_well_formed_and_needs_nothing_from_outside(folder):
    text = page(folder)
    balance = Balance()
    balance.feed(text)
    assert balance.faults == [] and balance.open == []
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    assert "url(" not in text and "@import" not in text and "<script" not in text


def test_what_a_run_wrote_is_escaped(folder):
    text = page(folder)
    assert "&lt;b&gt;careful&lt;/b&gt;" in text and "<b>careful" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "one epoch &amp; no more" in text and "Accuracy &lt; noise" in text


def test_every_phantom_number_and_figure_carries_its_label(folder):
    text = page(folder)
    label = '<span class="origin phantom">phantom</span>'
    (row,) = re.findall(r"<tr><td>D .*?</tr>", text, re.S)
    assert label in row and "accuracy_attacked" not in row and "phantoms" in row
    assert label in re.search(r"<figcaption>.*?</figcaption>", text, re.S)[0]
    assert label in re.search(r"<h3>Run of .*?</h3>", text, re.S)[0]
    (line,) = re.findall(r'<tr><th scope="row">phantom-chest.*?</tr>', text, re.S)
    assert label in line and "0.31" in line, "the scorecard"


def test_real_images_are_labelled_real(folder):
    run = results.Run.start("01_swin_noise", "1_swin_noise", "small", {}, folder / "small")
    run.dataset(images("nih", False))
    run.save()
    titles = re.findall(r"<h3>Run of .*?</h3>", page(folder), re.S)
    assert len(titles) == 2 and ">real<" in titles[0] and "phantom" not in titles[0]


def test_the_page_opens_with_an_answer_for_each_paper(folder):
    text = page(folder)
    head, _, rest = text.partition("</header>")
    for name in protocol.list_papers():
        about = protocol.load(name)
        assert html_of(about.title) in head
        for headline in about.headlines:
            place = f"{name}-{headline.id}"
            assert head.count(f'href="#{place}"') == 1 and rest.count(f'id="{place}"') == 1
    assert head.count("<b>No headline is decided yet.</b>") == 4
    assert re.search("\u25cb not run</span>", rest)


def test_figures_are_embedded_and_a_lost_one_is_said(folder):
    assert page(folder).count("data:image/webp;base64,UklGR") == 1
    (folder / "smoke" / "curve.png").unlink()
    text = page(folder)
    assert "data:image" not in text and "curve.png is missing" in text


def test_failures_come_with_their_text_and_are_not_counted(folder):
    path = folder / "smoke" / "result.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "status": "failed"}))
    (folder / "bad").mkdir()
    (folder / "bad" / "failure.txt").write_text("cell 3: ValueError: <boom>")
    text = page(folder)
    assert "Runs that did not finish" in text and "cell 3: ValueError: &lt;boom&gt;" in text
    assert "profile smoke: failed" in text
    assert "= exact" not in text and "<h3>Run of" not in text


def test_a_paper_without_claims_still_shows_its_runs(folder):
    run = results.Run.start("09_x", "an <unknown> paper", "smoke", {}, folder / "x")
    run.save()
    assert "<h2>an &lt;unknown&gt; paper</h2>" in page(folder)


def test_an_empty_folder_gives_a_page_and_a_broken_result_an_error(tmp_path):
    text = report.write(tmp_path, tmp_path / "pages" / "r.html").read_text("utf-8")
    assert "not recorded" in text
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(RunError, match="result.json"):
        report.write(tmp_path)


def test_the_page_on_the_committed_results_is_small():
    reference = Path(__file__).resolve().parents[1] / "results" / "reference"
    text = report.render(results.collect(reference))
    assert len(text.encode()) < 3_000_000
    assert text.count("data:image/webp") > 80
    for defence in ("released", "glcm", "adversarial", "union", "swin"):
        assert re.search(rf'<tr><th scope="row">[^<]*{defence}', text), defence
