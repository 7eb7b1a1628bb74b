"""What stands beside weights: which network they are, what they saw, who may use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt, ValidationError

from medcl import __version__
from medcl.config.encoder import EncoderConfig
from medcl.config.plain_yaml import load_plain
from medcl.config.strict import Strict
from medcl.errors import ConfigError, WeightsError
from medcl.preparation.recipe import Recipe
from medcl.weights.calibration import DiceCalibration

CARD_VERSION = 1


class WeightsCard(Strict):
    """The facts of a weights file that its tensors do not tell."""

    encoder: EncoderConfig
    in_channels: PositiveInt
    classes: PositiveInt | None = Field(
        None, description="of the segmentation head, background included; null: no head"
    )
    task: Literal["segmentation", "regression", "super_resolution"] | None = Field(
        None, description="what a network was fine-tuned for; null: pretrained, or segmentation where it has classes"
    )
    stage: Literal["pretrained", "finetuned"] = Field(description="what the weights come from")
    training: dict[str, Any] = Field({}, description="the configuration of the run: losses, steps, learning rate")
    key_map: dict[str, str] = Field(
        {"encoder": "encoder.", "decoder": "decoder.", "head": "head."},
        description="where each part of the network stands among the keys of the file",
    )
    calibration: DiceCalibration | None = Field(
        None, description="what Dice can be expected of a segmentation network's masks, from its validation records"
    )
    data_digest: str = Field("", description="digest of the manifest of the training data")
    records: tuple[str, ...] = Field((), description="ids of the records that were seen")
    licence: str = Field("", description="of the weights; empty: not stated")
    citations: tuple[str, ...] = ()
    medcl: str = Field(__version__, description="version that wrote them")


class WeightsSheet(Strict):
    """The content of ``recipe.yaml``."""

    version: Literal[1] = CARD_VERSION
    sha256: str = Field(description="of weights.safetensors")
    card: WeightsCard
    recipe: Recipe

    def to_yaml(self) -> str:
        """YAML that :meth:`from_yaml` reads back to an equal sheet."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def from_yaml(cls, text: str, where: Path) -> WeightsSheet:
        """Read :meth:`to_yaml`'s output; ``where`` names its file in messages. Raises WeightsError."""
        try:
            values = load_plain(text, where)
        except ConfigError as error:
            raise WeightsError([f"{problem}; take it anew from the run" for problem in error.problems]) from None
        if not isinstance(values, dict) or "card" not in values:
            raise WeightsError(f"{where}: does not describe weights (no card in it); take it anew from the run")
        version = values.get("version", 1)
        if version != CARD_VERSION:
            raise WeightsError(
                f"{where}: version {version!r} is not known to this medcl (it reads version {CARD_VERSION}); update medcl"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise WeightsError(
                [f"{where}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            ) from None
