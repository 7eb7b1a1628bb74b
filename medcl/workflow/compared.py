"""How the modalities of an alignment are compared: as its terms compared them in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcl.errors import ConfigError
from medcl.evaluation.joint_similarity import Similarity
from medcl.weights.alignment import AlignmentCard

Terms = Sequence[Mapping[str, Any]]
"""Terms of a stage as a card holds them."""


def last_terms(card: AlignmentCard) -> Terms:
    """The terms of the last stage of an alignment."""
    stages = card.training.get("stages", [])
    return list(stages[-1]["terms"]) if stages else []


def trained_similarity(terms: Terms) -> Similarity | None:
    """What ``terms`` compare all modalities by; None where they compare pairs."""
    names = {term["objective"].get("name") for term in terms}
    return "product" if "symile" in names else "volume" if "gram" in names else None


def similarity_for(wanted: Similarity | None, trained: Similarity | None, queries: tuple[str, ...]) -> Similarity:
    """How ``queries`` are compared with a gallery. Raises ConfigError where a cosine of several is asked for."""
    if wanted == "cosine" and len(queries) > 1:
        raise ConfigError(
            f"similarity: a cosine is of one modality; for {'+'.join(queries)} choose product, volume or pairwise"
        )
    if wanted is not None:
        return wanted
    if trained == "product" or (trained == "volume" and len(queries) > 1):
        return trained
    return "cosine" if len(queries) == 1 else "pairwise"


def takes_unit_codes(terms: Terms) -> bool:
    """False where Symile was trained on codes as the heads give them."""
    return not any(
        term["objective"].get("name") == "symile" and term["objective"].get("normalize") is False for term in terms
    )
