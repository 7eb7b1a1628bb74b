"""Tiny alignments of reports with pictures, for tests of their terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import AlignConfig, ReportConfig
from medcl.config.load import validate
from medcl.encoders.build_text import build_text_encoder
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.joint import JointEncoders
from medcl.encoders.text import Tokenizer, learn_vocabulary
from medcl.tasks.alignment import AlignTask, slots_of
from medcl.tasks.streams import ReportStream, VectorStream
from medcl.views.aligned import AlignedSampler

SIDES, SIZES, FINDINGS = ("left", "right"), ("small", "large", "huge"), ("effusion", "nodule")
TEXTS = [
    f"The heart is normal. A {size} {side} {finding} is seen."
    for size in SIZES
    for side in SIDES
    for finding in FINDINGS
]


class Cells(ModalityEncoder):
    """Pictures ``(B, 1, 4, 4)``: two by two cells."""

    def __init__(self) -> None:
        super().__init__(16, 16)
        self.cells = nn.Conv2d(1, 16, 2, 2)

    def forward(self, x: torch.Tensor) -> Encoded:
        found = self.cells(x)
        return Encoded(found.flatten(2).mean(2), found)


def tokenizer() -> Tokenizer:
    return learn_vocabulary(TEXTS, 200, 24)


def config(terms: list[dict[str, Any]], *, encoder: dict[str, Any] | None = None, **changes: Any) -> AlignConfig:
    """An alignment of radiographs and reports by ``terms``, with the smallest networks."""
    report = {"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 24, "dropout": 0.0, **(encoder or {})}
    values = {
        "out": "run",
        "data": {"path": "nowhere"},
        "modalities": {"radiograph": {}, "report": {"encoder": report}},
        "joint": 8,
        "fusion": {"layers": 1, "heads": 2, "dropout": 0.0},
        "stages": [{"name": "joint", "steps": 40, "batch": 12, "terms": terms, "optimiser": {"lr": 0.01}}],
        **changes,
    }
    return validate(AlignConfig, values)


def picture(number: int) -> np.ndarray:
    """What report ``number`` says, in every cell: a pixel for its size, its side and its finding."""
    size, (side, finding) = number // 4, divmod(number % 4, 2)
    cell = np.array([[size - 1.0, 2.0 * side - 1.0], [2.0 * finding - 1.0, 0.5]])
    return 2 * np.tile(cell, (1, 2, 2))


def network_of(found: AlignConfig) -> JointEncoders:
    torch.manual_seed(0)
    report = found.modalities.report
    assert report is not None
    encoders = {"radiograph": Cells(), "report": build_text_encoder(report.encoder, tokenizer())}
    return JointEncoders(encoders, dict.fromkeys(encoders, report.head), found.joint, found.word_parts)


def task_of(
    found: AlignConfig,
    *,
    texts: dict[str, str] | None = None,
    subjects: list[int] | None = None,
    groups: list[int] | None = None,
    lacking: tuple[str, ...] = (),
) -> AlignTask:
    """A task on records ``0`` to ``11`` with pictures that show what their report says; those in ``lacking`` have no picture."""
    stage = found.stages[0]
    ids = [str(number) for number in range(len(TEXTS))]
    texts = texts if texts is not None else dict(zip(ids, TEXTS, strict=True))
    pictures = {name: picture(int(name)) for name in ids if name not in lacking}
    spoken = ReportStream({name: [text] for name, text in texts.items()}, tokenizer(), ReportConfig(), 0, train=True)
    streams = {place: VectorStream(pictures) if place == "radiograph" else spoken for place in slots_of(stage)}
    sampler = AlignedSampler(
        ids, subjects or range(len(ids)), streams, slots_of(stage), batch=stage.batch, seed=0, texts=groups
    )
    return AlignTask(network_of(found), stage, sampler)
