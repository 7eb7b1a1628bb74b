"""Which classes got which temperature, where every record has its own (iSogCLR; objectives.md 4.4 and 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class ClassTemperatures:
    """One class: how many records it has, and the QUANTILES of their temperatures."""

    label: int
    records: int
    quantiles: tuple[float, ...]


def temperature_report(temperature: Tensor, labels: Tensor) -> tuple[ClassTemperatures, ...]:
    """The temperatures ``(N,)`` of the records by their class ``labels (N,)``, the most frequent class first.

    Rare classes with few look-alikes are expected to end with lower temperatures than frequent ones.
    """
    if temperature.shape != labels.shape:
        raise ValueError(
            f"temperatures {tuple(temperature.shape)} and labels {tuple(labels.shape)} are not one a record"
        )
    at = torch.tensor(QUANTILES, dtype=torch.float64, device=temperature.device)
    classes, counts = labels.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    return tuple(
        ClassTemperatures(label, count, tuple(temperature[labels == label].double().quantile(at).tolist()))
        for label, count in zip(classes[order].tolist(), counts[order].tolist(), strict=True)
    )
