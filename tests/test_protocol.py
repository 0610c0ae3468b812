"""The protocol files: what they may say, how tables expand, how overrides are read."""

import copy

import pytest

from medrobust_utils.core.errors import ProtocolError
from medrobust_utils.data import catalogue
from medrobust_utils.reporting import protocol

SMALL = """
paper: {title: A study, citation: Someone}
profiles:
  smoke: {epochs: 1, lr: 0.1, name: a, flip: true, noises: [0.1, 0.4], training: {batch: 8}}
tables:
  - id: t1
    where: Table 1
    text: "{row}: {column}"
    select: {role: nih}
    doubts: [from the table]
    columns:
      Acc: {id: acc, metric: top1, tolerance: 0.02, doubts: [from the column]}
      AUC: {id: auc, metric: auc_micro, tolerance: 0.01}
    rows:
      Swin: {id: swin, select: {model: swin}, values: [0.5, 0.9], doubts: [from the row]}
      ResNet: {id: resnet, select: {model: resnet}, values: [0.4, ~]}
claims:
  - each: {role: [nih, isic], noise: [0.1, 0.4]}
    id: falls-{role}-{noise}
    text: "Falls on {ROLE} at {noise}"
    where: Text
    metric: drop
    select: {role: "{role}", noise: "{noise}"}
    expect: {above: 0}
anchors:
  skin: [{metric: auc_macro, split: honest, at_least: 0.93}]
headlines:
  - {id: gain-under-attack, quote: more robust, place: Abstract, kind: contrast, claim: gain,
     estimand: accuracy(new) - accuracy(plain), expectation: above 0, worth: 0.05,
     needs: {seeds: 3, images: 400, anchor: skin}, dated: 2026-11-30,
     primary: {metric: accuracy_gain, role: [nih, isic]}}
"""


def small(old="", new=""):
    assert old in SMALL
    return protocol.from_text("small", SMALL.replace(old, new, 1) if old else SMALL)


def test_a_table_becomes_one_claim_per_cell_without_its_dashes():
    claims = {claim.id: claim for claim in small().claims if claim.where == "Table 1"}
    assert list(claims) == ["t1-swin-acc", "t1-swin-auc", "t1-resnet-acc"]
    cell = claims["t1-swin-acc"]
    assert (cell.text, cell.metric) == ("Swin: Acc", "top1")
    assert cell.select == {"role": "nih", "model": "swin"}
    assert cell.expect == {"value": 0.5, "tolerance": 0.02}
    assert cell.doubts == ("from the table", "from the row", "from the column")


def test_each_gives_one_claim_per_combination_and_keeps_types():
    claims = [claim for claim in small().claims if claim.where == "Text"]
    assert [claim.id for claim in claims] == [
        "falls-nih-0.1",
        "falls-nih-0.4",
        "falls-isic-0.1",
        "falls-isic-0.4",
    ]
    assert claims[3].select == {"role": "isic", "noise": 0.4} and claims[3].value is None
    assert claims[3].text == "Falls on ISIC at 0.4" and type(claims[3].expect["above"]) is int


# what is replaced, by what, and how the refusal begins after `small.yaml, line `
MISTAKES = """
paper: > papr: > 2: papr: unknown key - did you mean 'paper'?
, citation: Someone > > 2: paper.citation: the key is missing
where: Text > were: Text > 21: claims[0].were: unknown key - did you mean 'where'?
    metric: drop > > 18: claims[0].metric: the key is missing
{above: 0} > {above: 0, below: 1} > 24: claims[0].expect: must be exactly one of value with
{above: 0} > {value: 0} > 24: claims[0].expect: must be exactly one of value with tolerance, above
{above: 0} > {above: nought} > 24: claims[0].expect.above: must be a number, not 'nought'
{above: 0} > {above: .nan} > 24: claims[0].expect.above: must be a number, not nan
{above: 0} > {value: 1, tolerance: -1} > 24: claims[0].expect.tolerance: must be greater than or
falls-{role}-{noise} > falls-{role} > 18: claims[0]: the claim id 'falls-nih' is used twice
falls-{role}-{noise} > falls-{model} > 18: claims[0]: cannot fill the braces of 'falls-{model}'
{role: [nih, isic] > {role: nih > 18: claims[0].each.role: must be a list, not 'nih'
role: "{role}" > role: [nih] > 23: claims[0].select.role: must be a single value
, tolerance: 0.01 > > 13: tables[0].columns.AUC.tolerance: the key is missing
id: t1 > id: 1 > 6: tables[0].id: must be text, not 1
values: [0.4, ~] > values: [0.4] > 16: tables[0].rows.ResNet.values: must be a list of 2, one
[from the row] > a string > 15: tables[0].rows.Swin.doubts: must be a list, not 'a string'
smoke: { > smoke: 3 # > 4: profiles.smoke: must be a mapping of names to values, not 3
anchors: > notes: 3;anchors: > 25: notes: must be a list, not 3
at_least: 0.93 > least: 0.93 > 26: anchors.skin[0].at_least: the key is missing
id: gain-under-attack > id: Gain > 28: headlines[0].id: must match pattern
claim: gain > claim: loss > 28: headlines[0].claim: must be 'gain', 'no_loss' or 'equality', not
worth: 0.05 > worth: -1 > 29: headlines[0].worth: must be greater than or equal to 0, not -1
worth: 0.05, > > 28: headlines[0].worth: the key is missing, which the kind contrast needs
seeds: 3 > seeds: 1 > 30: headlines[0].needs.seeds: must be at least 3 for contrast, not 1
anchor: skin > anchor: skim > 30: headlines[0].needs.anchor: there is no anchor 'skim' - did you
metric: accuracy_gain, > > 31: headlines[0].primary: must name a metric
n, role: [nih, isic] > n, role: {a: 1} > 31: headlines[0].primary.role: must be a single
2026-11-30 > soon > 30: headlines[0].dated: Invalid isoformat string: 'soon'
dated: > amendments: [{reason: x}], dated: > 30: headlines[0].amendments[0].date: the key is
"""


@pytest.mark.parametrize("mistake", MISTAKES.strip().splitlines())
def test_a_mistake_in_the_file_is_named_with_its_line_and_place(mistake):
    old, new, says = (part.strip() for part in mistake.split(">"))
    with pytest.raises(ProtocolError) as refusal:
        small(old, new.replace(";", "\n"))
    assert str(refusal.value).startswith(f"small.yaml, line {says}")


def test_all_mistakes_are_named_at_once_and_what_is_no_yaml_is_one():
    with pytest.raises(
        ProtocolError, match=r"(?s)tables\[0\].where: must.*claims\[0\].where: must"
    ):
        protocol.from_text("small", SMALL.replace("where: T", "where: 1 #"))
    for text in ("", "paper: [", "paper: 2026-13-01"):
        with pytest.raises(ProtocolError, match="small.yaml"):
            protocol.from_text("small", text)


def test_a_mistake_in_the_catalogue_is_named_with_its_place():
    text = catalogue.PATH.read_text("utf-8")
    for old, new, says in (
        ("access: open", "access: post", "line 21: nih_chestxray14.access: must be 'open' or"),
        ("  reader: nih\n", "", "nih_chestxray14.reader: the key is missing"),
        ("unpack: images_001", "unpck: images_001", "nih_chestxray14.files[0].unpck: unknown key"),
    ):
        assert old in text
        with pytest.raises(ProtocolError) as refusal:
            catalogue.from_text(text.replace(old, new, 1))
        assert says in str(refusal.value)


def test_the_hash_of_a_headline_changes_with_what_it_says_and_with_nothing_else():
    def digest(old="", new=""):
        paper = small(old, new)
        return paper.headlines[0].fingerprint(paper.anchors)

    plain, before = small().headlines[0], digest()
    assert plain.needs.anchor == "skin" and small().anchors["skin"][0].at_least == 0.93
    same = "amendments: [{date: 2026-12-24, reason: a slip}], controls: [], dated:"
    assert digest("dated:", same) == before
    assert digest("lr: 0.1", "lr: 0.2") == before
    for old, new in (
        ("worth: 0.05", "worth: 0.04"),
        ("seeds: 3", "seeds: 4"),
        ("more r", "r"),
        ("0.93", "0.9"),
    ):
        assert digest(old, new) != before
    assert digest("0.93", "0.9") != before  # the competence asked for is part of it
    identity = SMALL.replace("kind: contrast", "kind: identity").replace("worth: 0.05,", "")
    assert protocol.from_text("small", identity).headlines[0].worth is None


def test_settings_are_read_by_attribute_and_by_item_and_cannot_be_set():
    settings = small().settings("smoke")
    assert settings.epochs == settings["epochs"] == 1
    assert copy.deepcopy(settings) == settings
    with pytest.raises(AttributeError):
        settings.epochs = 2
    with pytest.raises(AttributeError, match="no setting 'epoch'"):
        _ = settings.epoch


def test_overrides_replace_values_of_the_same_type_and_leave_the_profile_as_it_was():
    paper = small("lr: 0.1", "lr: 1e-1")
    settings = paper.settings(
        "smoke", "epochs=3 lr=1 training.batch=16 noises=[0.2,1e-3] flip=false name=2"
    )
    assert dict(settings) == {
        "epochs": 3,
        "lr": 1.0,
        "name": "2",
        "flip": False,
        "noises": [0.2, 0.001],
        "training": {"batch": 16},
    }
    settings.training["batch"] = 99
    assert paper.settings("smoke", "lr=1e-4").lr == 1e-4
    assert paper.settings("smoke").lr == 0.1 and paper.settings("smoke").training == {"batch": 8}


WRONG = {
    "did you mean 'epochs'?": ["epoch=3"],
    "did you mean 'batch'?": ["training.bach=3"],
    "did you mean 'training'?": ["trainin.batch=3"],
    "no setting": ["epochs.batch=3"],
    "type int": ["epochs=three", "epochs=3.5", "epochs=true"],
    "type float": ["lr=true", "lr=fast"],
    "type bool": ["flip=1"],
    "type dict": ["training=3"],
    "name=value": ["epochs"],
    "cannot read": ["epochs=[1", "epochs=2026-13-01", "name='a"],
}


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_override_is_refused(says):
    for override in WRONG[says]:
        with pytest.raises(ProtocolError) as refusal:
            small().settings("smoke", override)
        assert says in str(refusal.value)


def test_unknown_profiles_and_papers_get_a_suggestion():
    with pytest.raises(ProtocolError, match="did you mean 'smoke'"):
        small().settings("smok")
    with pytest.raises(ProtocolError, match="did you mean '1_swin_noise'"):
        protocol.load("1_swin_nois")


# the papers of the package


def test_every_paper_has_its_claims_and_a_smoke_profile():
    papers = {name: protocol.load(name) for name in protocol.list_papers()}
    four = [papers[name] for name in papers if name[0] in "1234"]
    assert sum(len(paper.claims) for paper in four) == 566, "a reported number got lost"
    assert all(name == paper.name and "smoke" in paper.profiles for name, paper in papers.items())


def test_paper_1_has_every_cell_of_its_four_tables():
    claims = protocol.load("1_swin_noise").claims
    # cells without the dashes, and their sum, so that a slip of a digit in the file shows
    wanted = {"4": (7, 7.8287), "5": (7, 5.5714), "8": (16, 10.1945), "9": (16, 13.7596)}
    for figure, (count, total) in wanted.items():
        values = [claim.value for claim in claims if claim.where == f"Figure {figure}"]
        assert len(values) == count and sum(values) == pytest.approx(total)


def test_reported_gives_the_curve_of_the_paper_once_per_point():
    paper = protocol.load("1_swin_noise")
    curve = paper.reported(metric="auc_micro", role="isic", model="swin")
    points = {claim.select["noise"]: claim.value for claim in curve}
    assert points == {0.0: 0.9994, 0.025: 0.9207, 0.1: 0.8906, 0.4: 0.8639}
    assert len(curve) == 4 and list(points) == sorted(points)
    assert paper.reported(metric="auc_micro", role="isic", model="vit") == []
    assert {c.where for c in paper.reported(where="Figure 9")} == {"Figure 9"}
