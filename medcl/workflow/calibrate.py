"""What Dice a fine-tuned network's own certainty stands for, from its validation records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from medcl.encoders.segmenter import Segmenter
from medcl.evaluation.metrics import dice
from medcl.inference.certainty import ExpectedDice
from medcl.inference.sliding import score_slabs, with_softmax
from medcl.preparation.store import Store
from medcl.weights.calibration import DiceCalibration


def calibrate(segmenter: Segmenter, store: Store, ids: Sequence[str], patch: Sequence[int]) -> DiceCalibration | None:
    """Predict the records ``ids`` of ``store`` with the window ``patch`` and fit a line through expected and reached Dice.

    On the prepared grids, as `medcl predict` sees them before it returns to the scan's own. None where there are too few records.
    """
    device = next(segmenter.parameters()).device
    segmenter.eval()
    expected, reached = [], []
    for record_id in ids:
        entry = store.open(record_id)
        told, labels = ExpectedDice(), np.empty(entry.label.shape, np.int64)
        data = torch.from_numpy(np.array(entry.data))
        slabs = with_softmax(score_slabs(segmenter, data, patch, convention=store.recipe.convention, device=device))
        for slab in told.watching(slabs):
            rows = [slice(None)] * 3
            rows[slab.axis] = slice(slab.start, slab.stop)
            labels[tuple(rows)] = slab.scores.argmax(0)
        expected.append(told.values.tolist())
        reached.append([dice(labels == value, entry.label == value) for value in range(1, segmenter.classes)])
    return DiceCalibration.fitted(expected, reached)
