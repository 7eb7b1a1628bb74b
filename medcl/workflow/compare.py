"""`medcl compare`: paired differences between evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medcl.config.evaluate import CompareConfig
from medcl.evaluation import comparison
from medcl.evaluation.comparison import Comparison
from medcl.evaluation.scores import Evaluation


def compare(config: CompareConfig) -> list[Comparison]:
    """Every further evaluation against the first; writes ``config.out`` where given."""
    names = _short_names(config.evaluations)
    baseline, *others = (Evaluation.read(path) for path in config.evaluations)
    comparisons = [
        comparison.compare(baseline, other, (names[0], name), resamples=config.resamples, seed=config.seed)
        for name, other in zip(names[1:], others, strict=True)
    ]
    if config.out is not None:
        comparison.write_comparisons(config.out, comparisons)
    return comparisons


def _short_names(paths: Sequence[Path]) -> list[str]:
    """File names where these differ, else whole paths."""
    names = [path.stem for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]
