"""Contrast by labels: SupCon (objectives.md 4.14)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import Backend, contrast
from medcl.objectives.masks import At, Mask, Same, SamePatient, as_spec
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective


def supcon(
    views: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    base_temperature: float | None = None,
    anchors: Literal["all", "one"] = "all",
    normalize: bool = True,
    subject: Tensor | None = None,
    neg_mask: Mask | None = None,
    count_empty: bool = False,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_a = 1/|P| sum over p in P(a) of [ log sum over k != a of exp(s_ak / t) - s_ap / t ]``, P(a) the other rows of a's class.

    ``views`` (V, B, D), V >= 1; ``labels`` (B,) integers.   ``anchors``: rows of all views, or of the first only.
    ``base_temperature``: the loss is multiplied by ``temperature / base_temperature``; None: it is not.
    ``subject`` (B,): two items of one patient are never negatives.   ``neg_mask`` (anchors, V B): one process only.
    ``count_empty``: anchors without a positive count in the mean as 0, as in the authors' code.
    ``per_anchor`` (V B,) or (B,), view-major.   ``backend``, ``tile``: as in ``contrast``.
    One class, all n rows equal: log(n - 1).
    Source: Khosla et al. 2020, the form L_out. Choose it when labels exist but are coarse or noisy.
    """
    if views.ndim != 3 or labels.shape != views.shape[1:2]:
        raise ValueError(f"views {tuple(views.shape)} and labels {tuple(labels.shape)} are not (V, B, D) and (B,)")
    count, batch = views.shape[:2]
    used = count if anchors == "all" else 1
    rows, offset = gather.rows(views.transpose(0, 1))
    total = len(rows)
    candidates = rows.transpose(0, 1).flatten(0, 1)
    position = torch.arange(count * total, device=views.device)
    itself = At(position.view(count, total)[:used, offset : offset + batch].flatten(), len(candidates))
    every_label = gather.rows(labels)[0].repeat(count)
    same_class = Same(labels.repeat(used), every_label)
    negatives = ~same_class
    if subject is not None:
        negatives = negatives & ~SamePatient(subject.repeat(used), gather.rows(subject)[0].repeat(count))
    if neg_mask is not None:
        negatives = negatives & as_spec(neg_mask)
    output = contrast(
        candidates if gather.world == 1 and used == count else views[:used].flatten(0, 1),
        candidates,
        positives=same_class & ~itself,
        negatives=negatives,
        temperature=temperature,
        denominator="all",
        normalize=normalize,
        count_empty=count_empty,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )
    if base_temperature is None:
        return output
    scale = temperature / base_temperature
    level = None if output.all_equal is None else output.all_equal * scale
    return LossOutput(output.loss * scale, output.per_anchor * scale, output.parts, level)


class SupCon(ObjectiveConfig):
    """Supervised contrast: rows of one class attract, rows of other classes repel."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    function = staticmethod(supcon)
    name: Literal["supcon"] = "supcon"
    temperature: TemperatureConfig = 0.07
    base_temperature: PositiveFloat | None = Field(None, description="scales the loss by temperature over this")
    anchors: Literal["all", "one"] = Field("all", description="rows of all views are anchors, or of the first only")
    count_empty: bool = Field(False, description="anchors without a positive count in the mean as 0")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return supcon(
            codes.z,
            required(codes.labels, self.name, "needs a class for every record"),
            temperature=temperature,
            base_temperature=self.base_temperature,
            anchors=self.anchors,
            subject=excluded_subjects(self, codes),
            count_empty=self.count_empty,
            gather=gather,
        )
