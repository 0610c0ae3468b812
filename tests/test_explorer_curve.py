"""Many images, many eps: which images count, and what an interval may promise."""

import functools

import numpy as np
import pytest
import scenes

from medrobust_utils.core.errors import ContractError
from medrobust_utils.explain.measures import correlation
from medrobust_utils.explorer import curve, look
from medrobust_utils.explorer.look import Choice, Memory

EPS = (1, 4)
LOOKED = Memory()  # by hand


@functools.cache
def found(make, count=5, choice=None, eps=EPS):
    scene = make()
    return scene, curve.rows(scene, choice or Choice(), eps, count, seed=3, memory=Memory())


def pick(rows, metric, network, eps):
    (row,) = (
        r for r in rows if (r["metric"], r["network"], r["eps_255"]) == (metric, network, eps)
    )
    return row


def by_hand(scene, eps, count=5, **choice):
    """Looks of every network at the images that are drawn."""
    numbers = np.sort(np.random.default_rng(3).permutation(len(scene.rows))[:count])
    asked = Choice(eps_255=eps, **choice)
    return [
        [look.look(scene, n, scene.sample(int(i)), asked, memory=LOOKED) for i in numbers]
        for n in scene.networks
    ]


def test_answers_are_lost_only_where_they_were_right_before():
    scene, rows = found(scenes.single_label)
    for eps in EPS:
        for network, looks in zip(scene.networks, by_hand(scene, eps), strict=True):
            right = [x for x in looks if x.record["answer_before"] == x.record["label"]]
            lost = [x.record["answer_after"] != x.record["label"] for x in right]
            row = pick(rows, "lost", network.name, eps)
            assert row["n"] == len(right) and (not lost or row["value"] == np.mean(lost))


def test_maps_are_compared_over_images_that_have_one_everywhere():
    scene, rows = found(scenes.single_label)
    looks = {eps: by_hand(scene, eps) for eps in EPS}
    values = np.array(
        [[[x.record["correlation"] for x in row] for row in looks[eps]] for eps in EPS], float
    )
    everywhere = np.isfinite(values).all((0, 1))
    for place, eps in enumerate(EPS):
        for number, network in enumerate(scene.networks):
            row = pick(rows, "correlation", network.name, eps)
            assert row["n"] == everywhere.sum()
            assert row["value"] == pytest.approx(
                values[place, number, everywhere].mean(), nan_ok=True
            )
            gone = [x.before.valid[0] and not x.after.valid[0] for x in looks[eps][number]]
            assert pick(rows, "no_map", network.name, eps)["value"] == pytest.approx(np.mean(gone))
    maps = np.concatenate([x.before.maps for x in looks[1][0]])
    chance = np.nanmean(correlation(maps, np.roll(maps, 1, axis=0)))
    row = pick(rows, "correlation_by_chance", scene.networks[0].name, 0)
    assert row["value"] == pytest.approx(chance)


def test_differences_are_paired():
    scene, rows = found(scenes.single_label)
    first, second = (pick(rows, "correlation", n.name, 4)["value"] for n in scene.networks)
    row = pick(rows, "correlation_difference", "second less first", 4)
    assert row["value"] == pytest.approx(second - first, nan_ok=True)


def test_findings_and_pixels_are_counted_in_their_own_way():
    scene, rows = found(scenes.multi_label, count=4, eps=(8,))
    changed = [x.record["changed"] for x in by_hand(scene, 8, 4)[0]]
    assert pick(rows, "lost", scene.networks[0].name, 8)["value"] == np.mean(changed)
    scene, rows = found(scenes.segmentation, 3, Choice(attack="background"), (8,))
    looks = by_hand(scene, 8, 3, attack="background", target="label")
    pixels = [x.record["pixels_changed"] for x in looks[1]]
    assert pick(rows, "lost", scene.networks[1].name, 8)["value"] == pytest.approx(np.mean(pixels))


def test_fewer_images_than_one_are_refused_and_more_than_there_are_is_all():
    for count in (0, -2):
        with pytest.raises(ContractError, match=f"IMAGES={count}: choose 1 or more"):
            found(scenes.single_label, count)
    scene, rows = found(scenes.segmentation, 1000, Choice(attack="background"), (8,))
    assert pick(rows, "lost", scene.networks[0].name, 8)["n"] == len(scene.rows)


@pytest.mark.parametrize("count", [1, 5])
def test_the_figure_has_a_line_for_each_network(count):
    scene, rows = found(scenes.single_label, count)
    figure = curve.draw(rows, "one class")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == [network.name for network in scene.networks]
    assert [axis.get_title() for axis in figure.axes][1] == "right answers lost: share"


def test_a_misspelt_attack_is_refused_before_anything_is_opened():
    with pytest.raises(ContractError, match="'pdg': choose one of pgd"):
        Choice(attack="pdg")
