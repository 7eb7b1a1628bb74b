"""Several modalities, two at a time: CLIP on every pair, of the rows that have both (multimodal.md 4.2, 4.3, 7)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, modalities_of
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import clip
from medcl.objectives.output import LossOutput, mean_of
from medcl.objectives.presence import checked_presence, nothing
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective


def pairwise_clip(
    modalities: Sequence[Tensor] | Tensor,
    *,
    present: Tensor | None = None,
    pairs: Mapping[tuple[int, int], float] | None = None,
    combine: Literal["mean", "sum"] = "mean",
    temperature: float | Tensor = 0.07,
    smoothing: float = 0.0,
    normalize: bool = True,
    subject: Tensor | None = None,
    gather: Gather = LOCAL,
) -> LossOutput:
    """:func:`~medcl.objectives.instance.clip` of every pair of modalities on the rows that have both.

    ``modalities``: M tensors (B, D), row b of every one of record b.   ``present`` (M, B): False where a record lacks the modality;
    what stands in its place is not read, and its gradient is exactly 0.
    ``pairs``: weight of each pair that is compared; by default all of them, with weight 1.
    ``combine``: the weighted mean of the pairs, or their weighted sum. A pair with fewer than two rows has no negatives: it is left out of both.
    ``subject`` (B,): two items of one patient are never negatives.   ``temperature``: number or scalar.
    ``per_anchor`` (pairs, 2, B): 0 where a record lacks one of the two.   All rows equal: log of the rows that have both, combined.
    Source: the baseline of Saporta et al. 2024 (sum of all pairs); with the report first and ``pairs={(0, 1): 1, (0, 2): 1}`` and "sum" the
    objective of MoRE (Thapa et al. 2024), whose X-ray and ECG meet in the report only. Choose it first: it wants no record to be complete.
    """
    present = checked_presence(modalities, present)
    count = len(modalities)
    weights = dict.fromkeys(itertools.combinations(range(count), 2), 1.0) if pairs is None else pairs
    _check_pairs(weights, count)
    outputs, used, terms = [], [], []
    for index, ((one, other), weight) in enumerate(weights.items()):
        both = present[one] & present[other]
        if int(gather.total(both.sum())) < 2:
            continue
        rows = both.nonzero().flatten()
        output = clip(
            modalities[one][rows],
            modalities[other][rows],
            temperature=temperature,
            smoothing=smoothing,
            normalize=normalize,
            subject=None if subject is None else subject[rows],
            gather=gather,
        )
        outputs.append(output)
        used.append(weight)
        terms.append((index, rows, output.per_anchor.view(2, -1)))
    if not outputs:
        return nothing(modalities)
    placed = terms[0][2].new_zeros(len(weights), 2, present.shape[1])
    for index, rows, values in terms:
        placed = placed.index_put((rows.new_tensor(index), rows.new_tensor([[0], [1]]), rows[None]), values)
    weighing = placed.new_tensor(used) / (sum(used) if combine == "mean" else 1.0)
    levels = torch.stack([output.all_equal for output in outputs if output.all_equal is not None])
    return LossOutput(
        loss=(weighing * torch.stack([output.loss for output in outputs])).sum(),
        per_anchor=placed,
        parts={
            **mean_of(outputs, placed, "mean").parts,
            "pairs": weighing.new_tensor(len(outputs)),
        },
        all_equal=(weighing * levels).sum(),
    )


def _check_pairs(pairs: Mapping[tuple[int, int], float], count: int) -> None:
    wrong = [pair for pair in pairs if len(set(pair)) != 2 or not all(0 <= index < count for index in pair)]
    if wrong or not pairs:
        raise ValueError(f"pairs {wrong or list(pairs)} are not pairs of different modalities in [0, {count})")
    if any(weight <= 0 for weight in pairs.values()):
        raise ValueError(f"weights of pairs must be positive, not {list(pairs.values())}; leave out what is not wanted")


class PairwiseClip(ObjectiveConfig):
    """CLIP of every pair of modalities, of the records that have both: the first choice of an alignment."""

    needs: ClassVar[frozenset[str]] = frozenset({"modalities"})

    function = staticmethod(pairwise_clip)
    name: Literal["pairwise_clip"] = "pairwise_clip"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="label smoothing")
    anchor: bool = Field(False, description="only pairs with the first modality (MoRE: the report)")
    combine: Literal["mean", "sum"] = Field("mean", description="of the pairs")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        modalities, present = modalities_of(codes, self.name)
        return pairwise_clip(
            modalities,
            present=present,
            pairs={(0, other): 1.0 for other in range(1, len(modalities))} if self.anchor else None,
            combine=self.combine,
            temperature=temperature,
            smoothing=self.smoothing,
            subject=codes.subject,
            gather=gather,
        )
