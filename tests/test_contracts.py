"""The contract between images, models and scores: each breach has its own clear error."""

import pytest
import torch
from torch import nn

from medrobust_utils.core.contracts import check_images, check_logits, check_model
from medrobust_utils.core.errors import ContractError

GOOD = torch.rand(2, 3, 8, 8)


def test_good_images_and_logits_pass():
    check_images(GOOD)
    check_images(GOOD[:, :1])
    check_images(GOOD[:0])
    check_logits(torch.randn(4, 3), False)
    check_logits(torch.randn(8, 14), True)
    check_model(nn.Linear(2, 2).eval())


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (GOOD[0], r"image\[None\]"),
        (GOOD.expand(2, 3, 8, 8)[:, [0, 0]], "C = 1 or 3"),
        ((GOOD * 255).byte(), "to_float"),
        (GOOD * 255, "Divide 8-bit images by 255"),
        (GOOD - 0.5, r"expected \[0, 1\]"),
        (GOOD.clone().index_fill_(0, torch.tensor(0), float("nan")), "without NaN"),
    ],
    ids=["one image", "two channels", "uint8", "0 to 255", "normalised", "NaN"],
)
def test_bad_images_are_refused_with_a_remedy(images, remedy):
    with pytest.raises(ContractError, match=remedy):
        check_images(images)


@pytest.mark.parametrize(
    ("logits", "multi_label", "message"),
    [
        (torch.randn(4, 3).softmax(1), False, "probabilities"),
        (torch.randn(8, 14).sigmoid(), True, "probabilities"),
        (torch.full((2, 3), float("inf")), False, "infinity"),
        (torch.randn(4), False, "shape"),
    ],
)
def test_bad_outputs_are_refused(logits, multi_label, message):
    with pytest.raises(ContractError, match=message):
        check_logits(logits, multi_label)


def test_a_few_small_logits_are_no_probabilities():
    check_logits(torch.tensor([[0.2, 0.3]]), False)
    check_logits(torch.tensor([[0.2, 0.9]]), True)


def test_training_mode_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(ContractError, match=r"\(1 and 0 more"):
        check_model(model)
