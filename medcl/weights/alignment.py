"""Weights of an alignment: all encoders and heads in one file, and beside it what a new process needs to use them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from medcl import __version__
from medcl.config.align import ModalitiesConfig
from medcl.config.text import BertConfig
from medcl.config.words import WordParts
from medcl.encoders.joint import JointEncoders, build_joint
from medcl.encoders.text import Tokenizer
from medcl.errors import WeightsError
from medcl.files import atomic_path
from medcl.preparation.labs import LabEncoding
from medcl.preparation.recipe import Recipe
from medcl.weights.carded import Card, load_whole, read_card, save_carded
from medcl.weights.kinds import ALIGNMENT_CARD
from medcl.weights.read import TENSORS, read_tensors, weights_file

LABS, TOKENIZER = "labs.json", "tokenizer.json"


class AlignmentCard(Card):
    """The facts of an alignment's weights that its tensors do not tell."""

    version: Literal[1] = 1
    sha256: str = Field("", description="of weights.safetensors")
    modalities: ModalitiesConfig
    joint: PositiveInt
    places: tuple[str, ...] = Field((), description="heads for features of places and words")
    words: WordParts = Field(WordParts(), description="parts for terms on words and pairs")
    recipes: dict[str, Recipe] = Field({}, description="how radiographs and volumes are prepared")
    training: dict[str, Any] = Field({}, description="the configuration of the run")
    data_digest: str = Field("", description="digest of the manifest of the training data")
    records: tuple[str, ...] = Field((), description="ids of the records that were seen")
    licence: str = Field("", description="of the weights; empty: not stated")
    citations: tuple[str, ...] = ()
    medcl: str = Field(__version__, description="version that wrote them")


@dataclass(frozen=True)
class AlignmentFile:
    """Weights of an alignment as read."""

    folder: Path
    state: dict[str, Tensor]
    card: AlignmentCard
    labs: LabEncoding | None

    def network(self) -> JointEncoders:
        """The encoders and heads as they were trained, in evaluation mode."""
        return load_whole(self.untrained(), self.state, self.folder / TENSORS, ALIGNMENT_CARD)

    def only(self, names: Collection[str]) -> AlignmentFile:
        """The encoders and heads of the modalities ``names`` alone, without what terms needed beside them."""
        card = self.card.model_copy(
            update={"modalities": self.card.modalities.only(names), "places": (), "words": WordParts()}
        )
        own = tuple(f"{part}.{name}." for part in ("encoders", "heads") for name in names)
        return replace(self, card=card, state={key: value for key, value in self.state.items() if key.startswith(own)})

    def untrained(self) -> JointEncoders:
        """The same encoders and heads as they begin: random, from the global random state, but for pretrained text networks."""
        report = self.card.modalities.report
        tokenizer = None
        if report is not None and isinstance(report.encoder, BertConfig):
            tokenizer = Tokenizer.read(self.folder / TOKENIZER, report.encoder.max_length)
        return build_joint(
            self.card.modalities,
            self.card.joint,
            recipes=self.card.recipes,
            lab_items=len(self.labs.columns) if self.labs else 0,
            tokenizer=tokenizer,
            words=self.card.words,
            places=self.card.places,
        )


def save_alignment(
    folder: Path, network: JointEncoders, card: AlignmentCard, *, labs: LabEncoding | None = None
) -> None:
    """Write ``network`` into ``folder``; the card comes last and names the digest of the tensors."""
    save_beside(folder, network, labs)
    save_carded(network.state_dict(), folder / TENSORS, folder / ALIGNMENT_CARD, card)


def save_beside(folder: Path, network: JointEncoders, labs: LabEncoding | None) -> None:
    """What encoders need beside tensors and card: the encoding of laboratory values and the tokenizer, where there are some."""
    if labs is not None:
        labs.write(folder / LABS)
    if network.tokenizer is not None:
        with atomic_path(folder / TOKENIZER) as part:
            network.tokenizer.save(part)


def read_labs(folder: Path, card: AlignmentCard) -> LabEncoding | None:
    """The encoding of laboratory values in ``folder``; None where ``card`` has none."""
    return LabEncoding.read(folder / LABS) if card.modalities.labs is not None else None


def find_alignment(path: Path | str) -> AlignmentFile:
    """Read the alignment that ``path`` means: a run folder or its weights. Raises WeightsError with one line where there is none."""
    file = weights_file(path)
    sheet = file.parent / ALIGNMENT_CARD
    if not sheet.is_file():
        raise WeightsError(
            f"{path}: is no alignment (no {ALIGNMENT_CARD} beside its weights); name a run of medcl align"
        )
    card = read_card(AlignmentCard, sheet, file)
    return AlignmentFile(file.parent, read_tensors(file), card, read_labs(file.parent, card))
