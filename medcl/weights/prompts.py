"""What a few labelled records taught an alignment, beside the alignment itself, so that a new process can classify with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from medcl.config.prompt_tuning import ClassText, LoraTuning, Tuning
from medcl.config.text import PretrainedTextConfig
from medcl.encoders.prompts import merge_lora
from medcl.encoders.tuned import Tuned, build_tuned
from medcl.errors import WeightsError
from medcl.weights.alignment import AlignmentFile, find_alignment, save_alignment
from medcl.weights.carded import Card, read_card, save_carded
from medcl.weights.kinds import PROMPTS_CARD
from medcl.weights.read import read_tensors, weights_file

TENSORS = "prompts.safetensors"


class PromptsCard(Card):
    """What the prompts are for. Their classes stand in the order of the scores."""

    version: Literal[1] = 1
    sha256: str = ""
    method: Tuning
    modality: str
    classes: dict[str, ClassText]
    findings: bool
    novel: tuple[str, ...] = ()
    template: str
    absent: str
    temperature: float = 0.05
    records: tuple[str, ...] = ()

    def texts(self, names: tuple[str, ...] | None = None) -> list[str]:
        """The prompts of ``names`` (default: of all classes); of findings first those that they are present, then that they are absent."""
        names = tuple(self.classes) if names is None else names
        templates = (self.template, self.absent) if self.findings else (self.template,)
        return [template.replace("{name}", self.classes[name].name) for template in templates for name in names]

    def leads(self) -> list[str]:
        """What the templates say before the name."""
        templates = (self.template, self.absent) if self.findings else (self.template,)
        return [template.partition("{name}")[0].strip() for template in templates]


@dataclass(frozen=True)
class PromptsFile:
    """Prompts as read, with their alignment."""

    alignment: AlignmentFile
    state: dict[str, Tensor]
    card: PromptsCard

    def tuned(self) -> Tuned:
        """The classifier as it was trained, in evaluation mode. Adapters (LoRA) are merged into the alignment already."""
        network = self.alignment.network()
        if isinstance(self.card.method, LoraTuning):
            return Tuned(network, self.card.modality).eval()
        found = build_tuned(network, self.card.modality, self.card.method, self.card.leads())
        missing, surplus = found.load_state_dict(self.state, strict=False)
        if surplus or any(not name.startswith("network.") for name in missing):
            raise WeightsError(f"{self.alignment.folder / TENSORS}: is not what {PROMPTS_CARD} beside it describes")
        return found.eval()


def save_prompts(folder: Path, tuned: Tuned, card: PromptsCard, alignment: AlignmentFile) -> None:
    """Write the alignment (with adapters merged, which changes ``tuned``) and what was learnt beside it into ``folder``.

    Commands that know alignments read the folder as one: after LoRA the adapted one, else the frozen one without its prompts.
    """
    merge_lora(tuned.network)
    modalities = alignment.card.modalities
    report = modalities.report
    if report is not None and isinstance(report.encoder, PretrainedTextConfig):
        plain = report.model_copy(update={"encoder": report.encoder.model_copy(update={"lora": None})})
        modalities = modalities.model_copy(update={"report": plain})
    records = tuple(sorted({*alignment.card.records, *card.records}))
    described = alignment.card.model_copy(update={"modalities": modalities, "records": records})
    save_carded(tuned.own_state(), folder / TENSORS, folder / PROMPTS_CARD, card)
    save_alignment(folder, tuned.network, described, labs=alignment.labs)


def find_prompts(path: Path | str) -> PromptsFile:
    """Read what ``path``, a run folder of ``task: prompts`` or its weights, holds. WeightsError with one line where it is none."""
    folder = weights_file(path).parent
    sheet = folder / PROMPTS_CARD
    if not sheet.is_file():
        raise WeightsError(
            f"{path}: holds no prompts (no {PROMPTS_CARD}); name a run of medcl finetune with task: prompts"
        )
    tensors = folder / TENSORS
    card = read_card(PromptsCard, sheet, tensors)
    return PromptsFile(find_alignment(folder), read_tensors(tensors), card)
