"""Telling the words of reports: those that were hidden, and the next one."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.captions import caption_loss
from medcl.objectives.codes import Codes, Setting, StatelessObjective, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.momentum_alignment import masked_tokens
from medcl.objectives.output import LossOutput

NOTHING = -100
"""The token of a place that tells nothing."""
_REMEDY = "tells the words of reports; use it in medcl align"


class MaskedWords(ObjectiveConfig):
    """Hidden words of a report are told from the others (BERT) and, where ``between`` names more, from an image too.

    Whole words are hidden, others in every step: of ten pieces eight become [MASK], one another token, one stays. Special tokens and
    padding are never hidden. A report without a word takes no part.
    """

    function = staticmethod(masked_tokens)
    reads: ClassVar[Literal["words"]] = "words"
    needs: ClassVar[frozenset[str]] = frozenset({"report"})

    name: Literal["masked_words"] = "masked_words"
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.15, description="chance of a word to be hidden; of every report at least one is"
    )
    soft: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="share of the target that is a teacher's belief; the stage has one by a term such as momentum_alignment",
    )

    def needed(self) -> frozenset[str]:
        return self.needs | {"teacher"} if self.soft else self.needs

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        words = required(codes.words, self.name, _REMEDY)
        teacher = None
        if self.soft:
            teacher = required(codes.teacher, self.name, "soft needs a teacher; use it in medcl align").transpose(0, 1)
        return masked_tokens(codes.z.transpose(0, 1), words.T, teacher, share=self.soft, ignore=NOTHING, gather=gather)


class NextWords(ObjectiveConfig):
    """Every word of a report is told from those before it and, where ``between`` names more, from an image: captioning.

    The text encoder has to be causal. With ``pairwise_clip`` beside it, and weight 2 to 1, CoCa.
    """

    function = staticmethod(caption_loss)
    reads: ClassVar[Literal["words"]] = "words"
    needs: ClassVar[frozenset[str]] = frozenset({"report"})

    name: Literal["next_words"] = "next_words"

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        words = required(codes.words, self.name, _REMEDY)
        return caption_loss(codes.z.transpose(0, 1), words.T, padding=NOTHING, gather=gather)
