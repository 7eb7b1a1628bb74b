"""`medcl prepare`: from scans to a store of prepared volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from medcl.config.data import DataConfig, RecipeConfig
from medcl.config.shard import ShardSetting
from medcl.config.strict import Strict


class PrepareConfig(Strict):
    """`medcl prepare`."""

    version: Literal[1] = 1
    out: Path = Field(description="folder of the store; give it to training as data.store")
    data: DataConfig
    recipe: RecipeConfig = RecipeConfig()
    workers: PositiveInt = Field(1, description="processes that read and prepare")
    shard: ShardSetting | None = Field(None, description="3/8: the third of eight shares of the records alone")
