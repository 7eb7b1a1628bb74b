"""`medcl inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from medcl.config.strict import Strict


class InspectConfig(Strict):
    """What to look at and where to write what was found."""

    version: Literal[1] = 1
    out: Path = Path("runs/inspect")
    data: Path = Field(description="a data set of any layout, as in data.path")
    labels: Path | None = Field(None, description="folder of labels with the images' names, where the layout has none")
    check: bool = Field(False, description="look for problems")
    label_volumes: bool = Field(
        False, description="write the volume of every label in mm3 as targets into the manifest"
    )
    workers: PositiveInt = Field(1, description="processes that read")
