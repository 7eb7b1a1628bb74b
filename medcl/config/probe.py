"""Linear probes of the layers of a network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt

from medcl.config.data import DataConfig
from medcl.config.strict import Strict


class ProbeConfig(Strict):
    """`medcl probe`. Probes are fitted on the training records of ``data`` and scored on its test records."""

    version: Literal[1] = 1
    data: DataConfig
    weights: Path = Field(description="run of pretraining, fine-tuning or alignment, or weights")
    targets: tuple[str, ...] = Field(
        min_length=1,
        description="targets or attributes of the records: more than ten distinct numbers are told by ridge regression, anything "
        "else as classes",
    )
    layers: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="such as [encoder.1, pooled, decoder.0], of an alignment [radiograph.pooled, radiograph.code]; null: every layer",
    )
    baseline: bool = Field(True, description="the same layers of a randomly initialised network as well")
    out: Path | None = Field(None, description="JSON file to write")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    seed: NonNegativeInt = 0
