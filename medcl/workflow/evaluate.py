"""`medcl evaluate`: score masks against the truth and keep the scores."""

from __future__ import annotations

from collections.abc import Callable

from medcl.config.evaluate import EvaluateConfig
from medcl.errors import ConfigError
from medcl.evaluation import segmentation
from medcl.evaluation.scores import Evaluation


def evaluate(config: EvaluateConfig, progress: Callable[[int, int], None] | None = None) -> Evaluation:
    """Score as ``config`` says; writes ``config.out`` and its CSV. ``progress(done, total)`` is called after each case."""
    if config.out is not None and config.out.suffix != ".json":
        raise ConfigError(f"{config.out}: --out names the JSON file to write, such as scores.json")
    evaluation = segmentation.evaluate(
        config.prediction,
        config.truth,
        labels=config.labels,
        tolerance=config.tolerance,
        ids=config.ids,
        workers=config.workers,
        progress=progress,
    )
    if config.out is not None:
        evaluation.write(config.out)
    return evaluation
