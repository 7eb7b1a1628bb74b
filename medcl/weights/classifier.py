"""Weights of a classifier: encoders of an alignment that were trained on, and the linear layer on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from medcl.encoders.classifier import Classifier
from medcl.errors import WeightsError
from medcl.preparation.labs import LabEncoding
from medcl.weights.alignment import AlignmentCard, AlignmentFile, read_labs, save_beside
from medcl.weights.carded import Card, load_whole, read_card, save_carded
from medcl.weights.kinds import CLASSIFIER_CARD
from medcl.weights.read import TENSORS, read_tensors, weights_file


class ClassifierCard(Card):
    """What a classifier's tensors do not tell. ``encoders``: as the card of an alignment, of the modalities that are read; its ``training`` is this one's."""

    version: Literal[1] = 1
    encoders: AlignmentCard
    layer: Literal["pooled", "code"]
    classes: tuple[str, ...]
    findings: bool
    init: str = ""
    """SHA-256 of the alignment that it began from."""


@dataclass(frozen=True)
class ClassifierFile:
    """Weights of a classifier as read."""

    folder: Path
    state: dict[str, Tensor]
    card: ClassifierCard
    labs: LabEncoding | None

    def classifier(self) -> Classifier:
        """As it was trained, in evaluation mode."""
        encoders = AlignmentFile(self.folder, {}, self.card.encoders, self.labs).untrained()
        found = Classifier(encoders, len(self.card.classes), self.card.layer)
        return load_whole(found, self.state, self.folder / TENSORS, CLASSIFIER_CARD)


def save_classifier(folder: Path, classifier: Classifier, card: ClassifierCard, labs: LabEncoding | None) -> None:
    """Write ``classifier`` into ``folder``; the card comes last and names the digest of the tensors."""
    save_beside(folder, classifier.network, labs)
    save_carded(classifier.state_dict(), folder / TENSORS, folder / CLASSIFIER_CARD, card)


def find_classifier(path: Path | str) -> ClassifierFile:
    """Read the classifier that ``path`` means: a run folder or its weights. Raises WeightsError with one line where there is none."""
    file = weights_file(path)
    sheet = file.parent / CLASSIFIER_CARD
    if not sheet.is_file():
        raise WeightsError(
            f"{path}: is no classifier (no {CLASSIFIER_CARD} beside its weights); name a run of medcl finetune with task: classification"
        )
    card = read_card(ClassifierCard, sheet, file)
    return ClassifierFile(file.parent, read_tensors(file), card, read_labs(file.parent, card.encoders))
