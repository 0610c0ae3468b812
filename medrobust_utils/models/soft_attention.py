"""Soft attention of Datta et al. 2021 (arXiv 2105.03358), as written and as released.

The paper weights every place of a feature map t by sixteen softmax maps,
``f = gamma * t * sum_k softmax(W_k * t)``. The released layer has no gamma, and its 3-D kernel of
shape (C, 3, 3) lies over the axes (height, width, channel) instead of (channel, height, width):
with stride C along the channels it sees channels 0, 1 and 2 only, through the whole height. The
two have the same number of parameters, so counting them does not tell them apart.

A third form, ``uniform``, is a control that nobody published: every place gets the mean of the
maps, so that pooling, concatenation, dropout and the wide head stay and only the choice of places
goes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..core.errors import ContractError

FORMS = ("released", "intended")  # with weights, as released and as written
UNIFORM = "uniform"  # the control
HEADS = 16
GAMMA_START = 0.01  # the learnable scale of the paper begins near zero


class SoftAttention(nn.Module):
    """Sixteen attention maps over a feature map, summed and multiplied back onto it.

    Args:
        channels: C of the feature map.
        form: ``released`` (reads channels 0 to 2, as the published code computes), ``intended``
            (reads all channels, as the paper says) or ``uniform`` (reads nothing: each map is
            1 / (H W) everywhere). The last has no weights; they are left out, not frozen.
        gamma: whether the output is scaled by a learnable scalar. The released code has none.

    Input (N, C, H, W); returns the weighted map of the same shape and the 16 maps (N, 16, H, W),
    each of which sums to 1.
    """

    def __init__(self, channels: int, form: str, *, gamma: bool = False) -> None:
        super().__init__()
        if form not in (*FORMS, UNIFORM):
            raise ContractError(
                f"attention form {form!r}: choose one of {', '.join((*FORMS, UNIFORM))}."
            )
        self.form = form
        shape = (HEADS, 3, channels, 3) if form == "released" else (HEADS, channels, 3, 3)
        self.weight: nn.Parameter | None = nn.Parameter(torch.empty(shape))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(HEADS))
        self.gamma = nn.Parameter(torch.tensor(GAMMA_START)) if gamma else None
        limit = math.sqrt(6 / (9 * channels))  # Keras' he_uniform, the same fan-in in both forms
        nn.init.uniform_(self.weight, -limit, limit)
        if form == UNIFORM:  # drawn all the same: what comes after begins alike in every form
            self.weight = self.bias = None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self._uniform(x) if self.form == UNIFORM else self._attend(x)
        weighted = x * maps.sum(1, keepdim=True)
        return (weighted if self.gamma is None else self.gamma * weighted), maps

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        scores = F.relu(self._released(x) if self.form == "released" else self._intended(x))
        return scores.flatten(2).softmax(2).view_as(scores)

    @staticmethod
    def _uniform(x: torch.Tensor) -> torch.Tensor:
        n, _, height, width = x.shape
        return x.new_full((n, HEADS, height, width), 1 / (height * width))

    def _intended(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1)

    def _released(self, x: torch.Tensor) -> torch.Tensor:
        # "same" padding centres the C rows of the kernel on each row of the map; only the
        # 2 H - 1 rows around the centre can ever meet data, the others are dead weights.
        height, centre = x.shape[2], (self.weight.shape[2] - 1) // 2
        if height - 1 > centre:
            raise ContractError(
                f"a map of height {height} is too high for {self.weight.shape[2]} channels."
            )
        live = self.weight[:, :, centre - height + 1 : centre + height]
        return F.conv2d(x[:, :3], live, self.bias, padding=(height - 1, 1))
