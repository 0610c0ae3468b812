"""The protocol files: what they may say, how tables expand, how overrides are read."""

import copy

import pytest

from medrobust_utils import data
from medrobust_utils.core.errors import ProtocolError
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
    requires: {complete: true}
    command: run it
    doubts: [from the table]
    columns:
      Acc: {id: acc, metric: top1, tolerance: 0.02, doubts: [from the column]}
      AUC: {id: auc, metric: auc_micro, tolerance: 0.01}
    rows:
      Swin: {id: swin, select: {model: swin}, values: [0.5, 0.9], doubts: [from the row]}
      ResNet: {id: resnet, select: {model: resnet}, requires: {competent: true}, values: [0.4, ~]}
claims:
  - each: {role: [nih, isic], noise: [0.1, 0.4]}
    id: falls-{role}-{noise}
    text: "Falls on {ROLE} at {noise}"
    where: Text
    metric: drop
    select: {role: "{role}", noise: "{noise}"}
    expect: {above: 0}
    command: run {role}
"""


def small(old="", new=""):
    assert old in SMALL
    return protocol.from_text("small", SMALL.replace(old, new, 1) if old else SMALL)


def test_a_table_becomes_one_claim_per_cell_without_its_dashes():
    claims = {claim.id: claim for claim in small().claims}
    assert [name for name in claims if name.startswith("t1")] == [
        "t1-swin-acc",
        "t1-swin-auc",
        "t1-resnet-acc",
    ]
    cell = claims["t1-swin-acc"]
    assert (cell.text, cell.where, cell.metric) == ("Swin: Acc", "Table 1", "top1")
    assert cell.select == {"role": "nih", "model": "swin"}
    assert cell.requires == {"complete": True}
    assert cell.expect == {"value": 0.5, "tolerance": 0.02}
    assert cell.doubts == ("from the table", "from the row", "from the column")
    assert claims["t1-resnet-acc"].requires == {"complete": True, "competent": True}


def test_what_a_data_set_lacks_reaches_its_claims_beside_what_they_say():
    text = "requires: {dataset: isic}\n    expect"
    lacking = SMALL.replace("expect", text) + "lacking: {isic: a reader}\n"
    claims = {c.id: c for c in protocol.from_text("small", lacking).claims}
    assert claims["falls-nih-0.1"].needs == "a reader" and claims["t1-swin-acc"].needs == ""
    more = protocol.from_text("small", lacking.replace(text, f"needs: more\n    {text}"))
    assert {c.needs for c in more.claims if c.where == "Text"} == {"more and a reader"}


def test_each_gives_one_claim_per_combination_and_keeps_types():
    claims = [claim for claim in small().claims if claim.where == "Text"]
    assert [claim.id for claim in claims] == [
        "falls-nih-0.1",
        "falls-nih-0.4",
        "falls-isic-0.1",
        "falls-isic-0.4",
    ]
    assert claims[3].select == {"role": "isic", "noise": 0.4}
    assert claims[3].text == "Falls on ISIC at 0.4"
    assert claims[3].value is None


def test_a_claim_is_about_robustness_only_where_it_says_so():
    assert not any(claim.robust for claim in small().claims)
    marked = small("metric: drop", "metric: drop\n    robust: true").claims
    assert {claim.where for claim in marked if claim.robust} == {"Text"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("paper:", "papr:", "small.yaml: the key 'paper' is missing"),
        ("citation: Someone", "cited: Someone", "citation"),
        ("claims:", "claim:", "unknown key 'claim' - did you mean 'claims'?"),
        ("where: Text", "were: Text", "unknown key 'were'"),
        ("    metric: drop\n", "", "'metric' is missing"),
        ("expect: {above: 0}", "expect: {above: 0, below: 1}", "exactly one of"),
        ("expect: {above: 0}", "expect: {value: 0}", "exactly one of"),
        ("expect: {above: 0}", "expect: {}", "exactly one of"),
        ("expect: {above: 0}", "expect: {above: nought}", "expect.above must be a number"),
        ("expect: {above: 0}", "expect: {value: 1, tolerance: -1}", "must not be negative"),
        ("id: falls-{role}-{noise}", "id: falls-{role}", "'falls-nih' is used twice"),
        ("id: falls-{role}-{noise}", "id: falls-{model}", "cannot fill the braces"),
        (", tolerance: 0.01", "", "columns.AUC: the key 'tolerance' is missing"),
        ("values: [0.4, ~]", "values: [0.4]", "one value for each column"),
        ("values: [0.4, ~]", "values: 0.4", "one value for each column"),
        ("doubts: [from the row]", "doubts: a string", "doubts must be a list"),
        ("lr: 0.1", "lr: 1e-4", "reads 1e-4 as text"),
        ('role: "{role}"', "role: [nih]", "must be a single value"),
        ("smoke: {", "smoke: [", "not valid YAML"),
        ("claims:\n", "lacking: 3\nclaims:\n", "lacking must be a mapping"),
        ("claims:\n", "notes: 3\nclaims:\n", "notes must be a list"),
        ("metric: drop", "metric: drop\n    robust: surely", "robust must be true or false"),
        ("metric: drop", "metric: drop\n    robst: true", "did you mean 'robust'?"),
        ("where: Table 1", "where: Table 1\n    robust: true", "unknown key 'robust'"),
    ],
)
def test_a_fault_in_the_file_is_refused_with_file_and_key(old, new, says):
    with pytest.raises(ProtocolError) as refusal:
        small(old, new)
    assert says in str(refusal.value)
    assert "small.yaml" in str(refusal.value)


def test_settings_are_read_by_attribute_and_by_item_and_cannot_be_set():
    settings = small().settings("smoke")
    assert settings.epochs == settings["epochs"] == 1
    assert dict(settings)["training"] == {"batch": 8}
    assert copy.deepcopy(settings) == settings
    with pytest.raises(AttributeError):
        settings.epochs = 2
    with pytest.raises(AttributeError, match="no setting 'epoch'"):
        _ = settings.epoch


def test_overrides_replace_values_of_the_same_type():
    text = "epochs=3 lr=1 training.batch=16 noises=[0.2,0.3] flip=false name=2"
    settings = small().settings("smoke", text)
    assert dict(settings) == {
        "epochs": 3,
        "lr": 1.0,
        "name": "2",
        "flip": False,
        "noises": [0.2, 0.3],
        "training": {"batch": 16},
    }
    assert small().settings("smoke", "lr=1e-4").lr == 1e-4


def test_overrides_leave_the_profile_as_it_was():
    paper = small()
    paper.settings("smoke", "training.batch=16")
    settings = paper.settings("smoke")
    settings.training["batch"] = 99
    assert paper.settings("smoke").training == {"batch": 8}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("epoch=3", "did you mean 'epochs'?"),
        ("training.bach=3", "did you mean 'batch'?"),
        ("trainin.batch=3", "did you mean 'training'?"),
        ("epochs.batch=3", "no setting"),
        ("epochs=three", "type int"),
        ("epochs=3.5", "type int"),
        ("epochs=true", "type int"),
        ("lr=true", "type float"),
        ("lr=fast", "type float"),
        ("flip=1", "type bool"),
        ("training=3", "type dict"),
        ("epochs", "name=value"),
        ("epochs=[1", "cannot read"),
        ("name='a", "cannot read"),
    ],
)
def test_a_wrong_override_is_refused(overrides, says):
    with pytest.raises(ProtocolError) as refusal:
        small().settings("smoke", overrides)
    assert says in str(refusal.value)


def test_unknown_profiles_and_papers_get_a_suggestion():
    with pytest.raises(ProtocolError, match="did you mean 'smoke'"):
        small().settings("smok")
    with pytest.raises(ProtocolError, match="did you mean '1_swin_noise'"):
        protocol.load("1_swin_nois")


def test_every_paper_of_the_package_loads():
    papers = protocol.list_papers()
    assert "1_swin_noise" in papers
    for name in papers:
        paper = protocol.load(name)
        assert paper.name == name
        assert {"smoke"} <= set(paper.profiles)


ABOUT_GAINS = {
    "accuracy",
    "accuracy_gain",
    "accuracy_lost",
    "excess_over_twenty",
    "gain_beyond",
    "gain_extreme",
    "gain_extreme_relative",
    "gain_typical",
    "gain_typical_relative",
    "kept_difference",
    "later_loss_saved",
    "mean_gain",
}


@pytest.mark.parametrize("paper", ["2_attentive_cnn", "3_domain_assimilation"])
def test_claims_of_robustness_speak_of_attacks_and_no_others_do(paper):
    claims = protocol.load(paper).claims
    for claim in claims:
        clean = 0.0 in (claim.select.get("eps"), claim.select.get("eps_255"))
        if claim.robust:
            assert claim.metric in ABOUT_GAINS, claim.id
            assert not clean and claim.select.get("attack") != "none", claim.id
    under = [c for c in claims if c.select.get("attack", "none") != "none"]
    assert all(c.robust for c in under if c.metric in ("accuracy_gain", "mean_gain"))
    assert any(c.robust for c in claims) and not all(c.robust for c in claims)


def test_paper_1_has_every_cell_of_its_four_tables():
    claims = protocol.load("1_swin_noise").claims
    cells = {
        place: [c for c in claims if c.where == place]
        for place in ("Figure 4", "Figure 5", "Figure 8", "Figure 9")
    }
    # figures 4 and 5: 2 models by 5 columns, three of them dashes; 8 and 9: 4 rows by 4 columns
    assert [len(found) for found in cells.values()] == [7, 7, 16, 16]
    # sums of the printed cells, so that a slip of a digit in the file shows
    assert sum(c.value for c in cells["Figure 4"]) == pytest.approx(7.8287)
    assert sum(c.value for c in cells["Figure 5"]) == pytest.approx(5.5714)
    assert sum(c.value for c in cells["Figure 8"]) == pytest.approx(10.1945)
    assert sum(c.value for c in cells["Figure 9"]) == pytest.approx(13.7596)


def test_paper_1_asks_for_the_real_complete_data_and_names_a_command():
    for claim in protocol.load("1_swin_noise").claims:
        assert claim.command.startswith("python -m medrobust_utils run 01_swin_noise"), claim.id
        if claim.where.startswith("Figure"):
            role = claim.select["role"]
            assert claim.requires["dataset"] == role
            assert claim.requires["complete"] is True and claim.requires["synthetic"] is False
            assert ("competent" in claim.requires) == (claim.select["noise"] > 0), claim.id


def test_paper_1_says_what_is_lacking_for_exactly_the_data_sets_without_a_reader():
    for claim in protocol.load("1_swin_noise").claims:
        needed = set(claim.requires.get("dataset", "nih").split("+"))
        assert bool(claim.needs) >= bool(needed - set(data.READERS)), claim.id
        assert ("reader" in claim.needs) <= bool(needed - set(data.READERS)), claim.id


def test_reported_gives_the_curve_of_the_paper_once_per_point():
    paper = protocol.load("1_swin_noise")
    curve = paper.reported(metric="auc_micro", role="isic", model="swin")
    assert [(c.select["noise"], c.value) for c in curve] == [
        (0.0, 0.9994),
        (0.025, 0.9207),
        (0.1, 0.8906),
        (0.4, 0.8639),
    ]
    assert paper.reported(metric="auc_micro", role="isic", model="vit") == []
    assert {c.where for c in paper.reported(where="Figure 9")} == {"Figure 9"}
