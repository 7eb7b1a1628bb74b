"""Which kind of term serves which objective of an alignment."""

from __future__ import annotations

from medcl.config.align_stage import AlignTermConfig
from medcl.encoders.joint import JointEncoders
from medcl.errors import ConfigError
from medcl.objectives.codes import Setting
from medcl.objectives.words import NextWords
from medcl.tasks.alignment_terms import AlignTerm
from medcl.tasks.pair_terms import MatchingTerm
from medcl.tasks.place_terms import MosaicTerm, PlaceTerm
from medcl.tasks.word_terms import MaskedWordsTerm, NextWordsTerm


def build_term(config: AlignTermConfig, network: JointEncoders, setting: Setting) -> AlignTerm:
    """The term that ``config`` describes. Raises ConfigError where an alignment cannot serve its objective."""
    match config.objective.reads:
        case "vectors" if config.mosaic:
            return MosaicTerm(config, network, setting)
        case "vectors":
            return AlignTerm(config, network, setting)
        case "local":
            return PlaceTerm(config, network, setting)
        case "words" if isinstance(config.objective, NextWords):
            return NextWordsTerm(config, network, setting)
        case "words":
            return MaskedWordsTerm(config, network, setting)
        case "pairs":
            return MatchingTerm(config, network, setting)
        case other:
            raise ConfigError(f"{config.objective.name}: reads {other} of one modality; give it in medcl pretrain")
