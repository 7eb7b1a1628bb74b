"""What a pretraining's representation is like: figures while it trains, and a diagnosis at the end of every stage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medcl.encoders.concatenated import pooled_features
from medcl.evaluation.geometry import alignment, uniformity
from medcl.evaluation.representation import diagnose
from medcl.evaluation.spectrum import spectrum
from medcl.files import atomic_path
from medcl.objectives.kernel import unit, wide
from medcl.tasks.pretraining import PretrainTask
from medcl.types import Array

log = logging.getLogger(__name__)

MOST_BATCHES = 64


def measure_codes(codes: Tensor) -> Mapping[str, Tensor]:
    """Alignment of the first two views, uniformity and effective rank of ``codes (V, n, D)``."""
    rows = unit(wide(codes))
    found = {"effective_rank": spectrum(rows.flatten(0, 1)).effective_rank()}
    if rows.shape[1] > 1:
        found["uniformity"] = uniformity(rows[0])
    if len(rows) > 1:
        found["alignment"] = alignment(rows[0], rows[1])
    return found


@torch.no_grad()
def diagnose_stage(task: PretrainTask, folder: Path, device: torch.device) -> None:
    """Diagnose the pooled encoder features of a stage, and write ``<stage>.json`` and ``<stage>.npz`` to ``folder``.

    The rows are the view centres of one pass over the pool (at most 64 batches), each the mean over its views, which themselves
    give the alignment. The second file holds the middle slice of the rows that are shown as neighbours.
    """
    encoder = task.encoder.to(device).eval()
    sampler = task.sampler
    features, records, slices = [], [], []
    for step in range(min(sampler.steps_per_epoch, MOST_BATCHES)):
        views = sampler.render(sampler.plan(step), device)[: task.stage.views.slots]  # the large ones
        pooled = pooled_features(encoder, torch.cat([view.data for view in views]))
        features.append(pooled.unflatten(0, (len(views), -1)).cpu())
        records.append(views[0].record.cpu())
        slices += [_middle(row) for row in views[0].data[:, 0].cpu().numpy()]
    encoder.cpu()
    seen, record = unit(torch.cat(features, 1)), torch.cat(records)
    if seen.shape[1] < 2 or not seen.isfinite().all():
        log.warning("%s: fewer than two rows, or features that are not finite: not diagnosed", task.stage.name)
        return
    found = diagnose(
        seen.mean(0),
        record=record,
        subject=task.subjects.cpu()[record],
        labels=None if task.classes is None else task.classes.cpu()[record],
        views=seen if len(seen) > 1 else None,
    )
    folder.mkdir(exist_ok=True)
    found.write(folder / f"{task.stage.name}.json")
    shown = {row for query in found.neighbours for row in (query.row, *query.nearest)}
    with atomic_path(folder / f"{task.stage.name}.npz") as part, open(part, "wb") as stream:
        np.savez_compressed(stream, **{str(row): slices[row] for row in sorted(shown)})


def _middle(volume: Array) -> Array:
    """The middle axial slice of ``(x, y, z)``, or ``(x, y)`` itself, as a picture: right on the right, anterior up."""
    return (volume[..., volume.shape[2] // 2] if volume.ndim == 3 else volume).T[::-1]
