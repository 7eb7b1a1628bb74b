"""What stands beside weights that read several modalities: of an alignment, a classifier, or prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medcl.weights import alignment, classifier, prompts
from medcl.weights.carded import read_card
from medcl.weights.kinds import ALIGNMENT_CARD, CLASSIFIER_CARD, PROMPTS_CARD


@dataclass(frozen=True)
class JointCards:
    """``what`` the weights are, the card of their encoders, what they tell as rows of text, and the digest of their tensors."""

    what: str
    alignment: alignment.AlignmentCard
    told: tuple[tuple[str, str], ...]
    sha256: str


def joint_card(file: Path) -> JointCards | None:
    """The cards beside the weights ``file``; None for weights of one network. Raises WeightsError where they are damaged or of another file."""
    folder = file.parent
    if (folder / CLASSIFIER_CARD).is_file():
        own = read_card(classifier.ClassifierCard, folder / CLASSIFIER_CARD, file)
        kind = "findings" if own.findings else "classes"
        return JointCards(
            f"classifier, of {own.layer} features", own.encoders, ((kind, ", ".join(own.classes)),), own.sha256
        )
    if not (folder / ALIGNMENT_CARD).is_file():
        return None
    card = read_card(alignment.AlignmentCard, folder / ALIGNMENT_CARD, file)
    if (folder / PROMPTS_CARD).is_file():
        learnt = read_card(prompts.PromptsCard, folder / PROMPTS_CARD, folder / prompts.TENSORS)
        told = (
            ("modality", learnt.modality),
            ("findings" if learnt.findings else "classes", ", ".join(learnt.classes)),
        )
        return JointCards(f"alignment with {learnt.method.name} prompts", card, told, card.sha256)
    return JointCards("alignment", card, (), card.sha256)


def joint_part_of(name: str) -> str:
    """``encoders.ecg``, ``heads.report``, ``head``: the part that a tensor belongs to."""
    first, second, *_ = name.removeprefix("network.").split(".")
    return f"{first}.{second}" if first in ("encoders", "heads") else first
