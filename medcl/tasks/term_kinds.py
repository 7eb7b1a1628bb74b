"""Which kind of term an objective of an alignment needs (decision 009)."""

from __future__ import annotations

from medcl.config.align import AlignTermConfig
from medcl.encoders.joint import JointEncoders
from medcl.errors import ConfigError
from medcl.objectives.codes import Setting
from medcl.tasks.alignment_terms import AlignTerm


def build_term(config: AlignTermConfig, network: JointEncoders, setting: Setting) -> AlignTerm:
    """The term that ``config`` describes. Raises ConfigError where an alignment cannot serve its objective."""
    match config.objective.reads:
        case "vectors":
            return AlignTerm(config, network, setting)
        case other:
            raise ConfigError(f"{config.objective.name}: reads {other} of one modality; give it in medcl pretrain")
