"""Codes of prepared records by the encoders of an alignment, trained or in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medcl.config.align import ModalitiesConfig
from medcl.encoders.joint import JointEncoders
from medcl.evaluation.joint_codes import JointCodes
from medcl.reporting.progress import progress_bar
from medcl.workflow.alignment_data import AlignmentData, stream_of


@dataclass(frozen=True)
class RecordEncoder:
    """Encodes records with ``network`` on ``device``, ``batch`` at a time; nothing about the inputs is random.

    ``digest``: of the weights, which the codes carry.   ``title``: of the bar that is shown; None: none is.
    """

    network: JointEncoders
    modalities: ModalitiesConfig
    device: torch.device
    batch: int = 64
    digest: str = ""
    title: str | None = "encoding"

    @torch.no_grad()
    def codes(self, data: AlignmentData, ids: Sequence[str], names: Sequence[str]) -> JointCodes:
        """Codes of the modalities ``names`` of the records ``ids``; what a record lacks is not encoded."""
        found = {name: self._encoded(name, data, ids) for name in names}
        return JointCodes(
            tuple(ids),
            tuple(record.subject for record in data.records(ids)),
            {name: codes for name, (codes, _) in found.items()},
            {name: present for name, (_, present) in found.items()},
            self.digest,
            data.manifest.digest,
        )

    def _encoded(self, name: str, data: AlignmentData, ids: Sequence[str]) -> tuple[Tensor, Tensor]:
        present = torch.zeros(len(ids), dtype=torch.bool)
        codes = torch.zeros(len(ids), self.network.joint)
        for rows, inputs in self.inputs(name, data, ids):
            codes[rows] = self.network(name, inputs).float().cpu()
            present[rows] = True
        return codes, present

    def inputs(self, name: str, data: AlignmentData, ids: Sequence[str]) -> Iterator[tuple[list[int], Any]]:
        """Inputs of the encoder ``name`` in batches, each with its rows among ``ids``; records without it are left out."""
        if not any(name in data.present[record_id] for record_id in ids):
            return
        section = getattr(self.modalities, name)
        stream = stream_of(
            name,
            data,
            self.modalities,
            ids,
            tokenizer=self.network.tokenizer,
            spatial_dims=getattr(section.encoder, "dims", 1),
        )
        there = [row for row, record_id in enumerate(ids) if stream.has(record_id)]
        with progress_bar(f"{self.title}: {name}" if self.title else None) as progress:
            for begin in range(0, len(there), self.batch):
                rows = there[begin : begin + self.batch]
                plan = stream.plan([ids[row] for row in rows], [0] * len(rows), 1)
                yield rows, stream.render(plan, self.device)[0]
                progress(begin + len(rows), len(there))
