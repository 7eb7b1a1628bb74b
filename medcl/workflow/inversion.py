"""Modality inversion of the codes that `medcl retrieve` scores."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from torch import Tensor

from medcl.config.alignment_use import InversionConfig
from medcl.encoders.ecg import EcgViT
from medcl.encoders.image import ViT
from medcl.encoders.inversion import Search, inverted_to_image, inverted_to_text
from medcl.errors import ConfigError
from medcl.evaluation.inversion import InversionScores, score_inversion
from medcl.evaluation.joint_codes import JointCodes
from medcl.types import Array
from medcl.workflow.joint_space import JointSpace

log = logging.getLogger(__name__)


def inversion_scores(
    config: InversionConfig, space: JointSpace, codes: JointCodes, groups: Array, *, seed: int = 0
) -> list[InversionScores]:
    """Of every other modality its inversion into a text, and of reports theirs into it where its encoder is a transformer.

    Raises ConfigError where the alignment has no reports, or no two records belong together.
    """
    if "report" not in space.modalities:
        raise ConfigError(f"inversion: needs reports, and these weights align {', '.join(space.modalities)}")
    space.network.requires_grad_(False)
    found = []
    for modality, through in _ways(space):
        rows = _rows(codes, modality, config.most, seed)
        if len(np.unique(groups[rows], axis=0)) == len(rows):
            log.warning("inversion: no two records with a %s belong together: left out", modality)
            continue
        own = codes.codes[modality][rows].to(space.device)
        inverted = _inverted(config, space, own, through, seed)
        subjects = [codes.subjects[row] for row in rows.tolist()]
        found.append(
            score_inversion(own, inverted, groups[rows], subjects, modality=modality, through=through, seed=seed)
        )
    if not found:
        raise ConfigError("inversion: no two records belong together; choose another relevance, or targets")
    return found


def _ways(space: JointSpace) -> Iterator[tuple[str, str]]:
    for name in space.modalities:
        if name == "report":
            continue
        yield name, "report"
        if isinstance(space.network.encoders[name], ViT | EcgViT):
            yield "report", name


def _rows(codes: JointCodes, modality: str, most: int, seed: int) -> Array:
    there = np.flatnonzero(codes.present[modality].numpy())
    if len(there) > most:
        there = np.sort(np.random.default_rng(seed).choice(there, most, replace=False))
    return there


def _inverted(config: InversionConfig, space: JointSpace, codes: Tensor, through: str, seed: int) -> Tensor:
    steps = config.steps if through == "report" else config.patch_steps
    search = Search(steps, config.lr, config.weight_decay, space.batch, seed)
    if through == "report":
        return inverted_to_text(space.network, codes, config.template, tokens=config.tokens, search=search)
    return inverted_to_image(space.network, through, codes, patches=config.patches, search=search)
