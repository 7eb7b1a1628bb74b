"""What continual training keeps and forgets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcl.types import Array


@dataclass(frozen=True)
class ContinualScores:
    """Of T tasks learnt one after the other. ``intransigence``: None without a joint training to compare with."""

    average_accuracy: float
    forgetting: float
    intransigence: float | None = None


def score_continual(accuracy: Array, joint: Array | None = None) -> ContinualScores:
    """Scores of ``accuracy (T, T)``: row t after task t, column k on task k; what lies above the diagonal is not read.

    Average accuracy: mean of the last row. Forgetting: mean over all tasks but the last of the best that was ever reached on
    it before the end, minus the end; 0 for one task. Intransigence: mean of ``joint (T,)``, the accuracies after training on all
    tasks at once, minus the diagonal. Raises ValueError for other shapes or missing values.
    Source: Lopez-Paz and Ranzato 2017; Chaudhry et al. 2018.
    """
    tasks = len(accuracy)
    if accuracy.shape != (tasks, tasks) or tasks == 0:
        raise ValueError(f"accuracy {accuracy.shape} is not (T, T)")
    lower = np.tril(np.ones_like(accuracy, dtype=bool))
    if not np.isfinite(accuracy[lower]).all():
        raise ValueError("accuracy holds a value that is not finite on or below the diagonal")
    last = accuracy[-1]
    lost = [float(accuracy[task:-1, task].max() - last[task]) for task in range(tasks - 1)]
    intransigence = None
    if joint is not None:
        if joint.shape != (tasks,):
            raise ValueError(f"joint {joint.shape} is not ({tasks},)")
        intransigence = float((joint - accuracy.diagonal()).mean())
    return ContinualScores(float(last.mean()), float(np.mean(lost)) if lost else 0.0, intransigence)
