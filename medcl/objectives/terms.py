"""What the backends of the kernel hand to its last step: the terms of the anchors and what is counted beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Form = Literal["out", "in"]
Denominator = Literal["own", "all", "none"]


@dataclass(frozen=True)
class Terms:
    """``value`` (A,): the terms; what it holds for an anchor without a term is not used.

    ``positives`` (A,): how many.   ``negatives`` (A,): the sum of their weights.
    ``positive_cosine``, ``negative_cosine``: mean similarities of all such pairs. All but ``value`` is detached.
    """

    value: Tensor
    positives: Tensor
    negatives: Tensor
    positive_cosine: Tensor
    negative_cosine: Tensor
