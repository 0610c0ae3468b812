"""Each breach of the contract on images has its own clear error, and harmless ones have none."""

import pytest
import torch

from medrobust_utils.core.contracts import check_images, check_logits
from medrobust_utils.core.errors import ContractError

GOOD = torch.rand(2, 3, 8, 8)


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


def test_an_empty_batch_and_gray_images_are_none_of_these():
    check_images(GOOD[:0])
    check_images(GOOD[:, :1])


def test_infinite_logits_are_refused_and_a_few_small_ones_are_no_probabilities():
    with pytest.raises(ContractError, match="infinity"):
        check_logits(torch.full((2, 3), float("inf")), False)
    check_logits(torch.tensor([[0.2, 0.3]]), False)
    check_logits(torch.tensor([[0.2, 0.9]]), True)
