"""What pages show of records: pictures and texts, and for some queries what they found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medcl.evaluation.directions import EVERY, RetrievalReport
from medcl.evaluation.joint_codes import JointCodes
from medcl.evaluation.joint_similarity import joint_similarity
from medcl.modalities.ecg import LEADS
from medcl.modalities.report import read_report
from medcl.records.record import Record
from medcl.reporting.alignment_page import Example, Exhibit
from medcl.reporting.thumbnails import image_thumbnail, signal_thumbnail
from medcl.types import Array
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.joint_space import JointSpace

_QUERIES, _HITS, _DIRECTIONS = 3, 5, 8
_LETTERS = 240


def exhibit(
    record: Record, data: AlignmentData, *, only: Sequence[str] | None = None, remarks: Sequence[str] = ()
) -> Exhibit:
    """``record`` with its pictures and the beginning of its report; ``only`` of these modalities."""
    pictures = [
        image_thumbnail(store.open(record.id).data, f"{name} of {record.id}")
        for name, store in data.images.items()
        if record.id in store and (only is None or name in only)
    ]
    if data.signals is not None and record.id in data.signals and (only is None or "ecg" in only):
        pictures.append(signal_thumbnail(data.signals.open(record.id)[LEADS.index("II")], f"lead II of {record.id}"))
    texts = []
    if record.report and (only is None or "report" in only):
        texts.append(" ".join(read_report(record.report).split()))
    if record.labs and (only is None or "labs" in only):
        texts.append(", ".join(f"{name} {value:g}" for name, value in record.labs.items()))
    text = " \N{BULLET} ".join(texts)
    return Exhibit(
        record.id, pictures, text if len(text) <= _LETTERS else text[:_LETTERS] + "\N{HORIZONTAL ELLIPSIS}", remarks
    )


def examples_of(
    report: RetrievalReport,
    codes: JointCodes,
    groups: Array,
    seen: Sequence[bool],
    space: JointSpace,
    data: AlignmentData,
    *,
    normalize: bool,
) -> list[Example]:
    """The first hits of the first queries of every direction: the first by id, not chosen by how well they did."""
    found = []
    for direction in [each for each in report.directions if each.pattern == EVERY][:_DIRECTIONS]:
        there = torch.stack([codes.present[name] for name in direction.queries])
        asking = there.any(0).nonzero().flatten()[:_QUERIES]
        held = codes.present[direction.gallery].nonzero().flatten()
        similarity = joint_similarity(
            torch.stack([codes.codes[name][asking] for name in direction.queries]),
            there[:, asking],
            codes.codes[direction.gallery][held],
            direction.similarity,
            normalize=normalize,
        )
        order = similarity.sort(dim=1, descending=True, stable=True).indices[:, :_HITS]
        for place, row in enumerate(asking.tolist()):
            hits = []
            for rank, column in enumerate(order[place].tolist(), 1):
                item = int(held[column])
                remarks = [f"{rank}. similarity {float(similarity[place, column]):.3f}"]
                remarks += ["belongs to the query"] if np.array_equal(groups[item], groups[row]) else []
                remarks += ["seen in pretraining"] if seen[item] else []
                hits.append(exhibit(data.manifest.by_id(codes.ids[item]), data, remarks=remarks))
            asked = exhibit(data.manifest.by_id(codes.ids[row]), data, only=direction.queries, remarks=["the query"])
            found.append(Example(f"{direction.name}: {codes.ids[row]}", asked, hits))
    return found
