"""Which kind of weights a folder holds, by the card beside them: to know it, none of the networks is imported."""

from __future__ import annotations

from pathlib import Path

from medcl.weights.read import weights_file

ALIGNMENT_CARD, CLASSIFIER_CARD, PROMPTS_CARD = "alignment.yaml", "classifier.yaml", "prompts.yaml"


def is_alignment(path: Path | str) -> bool:
    """Whether the weights that ``path`` means are those of an alignment. Raises WeightsError where there are none."""
    return (weights_file(path).parent / ALIGNMENT_CARD).is_file()


def is_classifier(path: Path | str) -> bool:
    """Whether the weights that ``path`` means are those of a classifier. Raises WeightsError where there are none."""
    return (weights_file(path).parent / CLASSIFIER_CARD).is_file()


def is_prompts(path: Path | str) -> bool:
    """Whether the weights that ``path`` means are those of prompts. Raises WeightsError where there are none."""
    return (weights_file(path).parent / PROMPTS_CARD).is_file()
