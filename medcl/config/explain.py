"""What a similarity of an image and a text rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from medcl.config.strict import Strict


class ExplainConfig(Strict):
    """`medcl explain`."""

    version: Literal[1] = 1
    data: Path = Field(description="folder, glob, CSV/JSONL manifest or any other layout")
    weights: Path = Field(description="run folder or weights of `medcl align`")
    record: str = Field(description="id of the record")
    out: Path = Field(description="run folder; the page is page.html in it")
    text: str | None = Field(None, min_length=1, description="what to compare it with; null: the record's own report")
    modality: Literal["radiograph", "volume", "ecg"] | None = Field(
        None, description="what of the record; null: the first of these that the record and the alignment have"
    )
    rankings: PositiveInt = Field(20, description="random orders that the deletion curve is compared with")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    seed: NonNegativeInt = 0
