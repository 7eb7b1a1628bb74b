"""Contrast with the centres of classes in the other modality (multimodal.md 6.17)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import contrast, embeddings
from medcl.objectives.masks import At
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective


def attribution(
    image: Tensor,
    text: Tensor,
    labels: Tensor,
    *,
    per_class: bool = False,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """Image i finds the centre of the texts of its class among the centres of all records' classes, and text i that of the images.

    ``image``, ``text`` (B, D); ``labels`` (B,) integers: classes, or clusters of texts. Centres are means over all processes, not normalised
    again. ``per_class``: every class is one candidate; otherwise it is one for each of its records, and the loss of a perfect model is the
    log of the size of the class.   ``per_anchor`` (2B,): images, then texts.
    Distinct labels: CLIP. All rows equal: log B, ``per_class`` log of the number of classes.
    Source: Pan et al. 2024 (PriorCLIP). Choose it beside CLIP where a batch holds several records of a finding.
    """
    if image.shape != text.shape or labels.shape != image.shape[:1]:
        raise ValueError(
            f"image {tuple(image.shape)}, text {tuple(text.shape)} and labels {tuple(labels.shape)} are not (B, D), (B, D), (B,)"
        )
    every, offset = gather.rows(labels)
    if len(every) < 2:
        raise ConfigError("attribution: a batch of 1 has no negatives; set batch to 2 or more")
    classes, number = torch.unique(every, return_inverse=True)
    size = torch.bincount(number, minlength=len(classes))
    own = torch.arange(len(labels), device=labels.device) + offset
    wanted = At(number[own], len(classes)) if per_class else At(own, len(every))
    with torch.autocast(image.device.type, enabled=False):
        sides = embeddings(image, text, normalize)
        outputs = []
        for query, key in (sides, sides[::-1]):
            summed = key.new_zeros(len(classes), key.shape[1]).index_add(0, number, gather.rows(key)[0])
            centres = summed / size[:, None]
            outputs.append(
                contrast(
                    query,
                    centres if per_class else centres[number],
                    positives=wanted,
                    negatives=~wanted,
                    temperature=temperature,
                    denominator="all",  # one positive: the same number as "own"
                    normalize=False,
                    reduction=reduction,
                    gather=gather,
                )
            )
    return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), reduction)


class Attribution(ObjectiveConfig):
    """A record finds the centre of its class in the other modality, beside CLIP of the same two."""

    function = staticmethod(attribution)
    needs: ClassVar[frozenset[str]] = frozenset({"complete", "labels"})
    compares: ClassVar[int | None] = 2
    name: Literal["attribution"] = "attribution"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    per_class: bool = Field(
        True, description="a class is one candidate; false, as published: one for each of its records"
    )

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return attribution(
            codes.z[0],
            codes.z[1],
            required(codes.labels, self.name, "needs a class for every record"),
            per_class=self.per_class,
            temperature=temperature,
            gather=gather,
        )
