"""What terms on words and on pairs add to the network of an alignment."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from medcl.config.strict import Strict


class FusionConfig(Strict):
    """Layers in which the words of a report attend to each other and to the places of images, after the text encoder."""

    layers: PositiveInt = Field(2, description="ALBEF and VELVET have 6")
    heads: PositiveInt = Field(4, description="a divisor of the text encoder's width")
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class WordParts(Strict):
    """Which parts beside encoders and heads a network has: those that a term asks for, and no others.

    ``language``: tells words from states.   ``matching``: tells whether a text belongs to what it attends to.   ``fused``: the modalities that words
    can attend to.
    """

    language: bool = False
    matching: bool = False
    fused: tuple[str, ...] = ()
    fusion: FusionConfig = FusionConfig()
