"""Scoring predicted masks against the truth, on the truth's own grid."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from medcl.errors import DataError
from medcl.evaluation.matching import Pair, match_masks
from medcl.evaluation.metrics import diagonal_mm, dice, surface_distances, voxel_ml
from medcl.evaluation.scores import ABSENT, CaseScores, ClassScores, Evaluation, Outcome
from medcl.modalities.header import spacing_of
from medcl.modalities.image import UNKNOWN_PIXELS
from medcl.modalities.volume import read_label
from medcl.records.grid import corner_distance
from medcl.records.names import is_image
from medcl.types import Affine, Array

_GRID_TOLERANCE = 0.1
"""Share of the smallest voxel edge by which a corner may be off: headers of other tools round that much, no more."""


def score_case(
    prediction: Array,
    truth: Array,
    affine: Affine,
    labels: Iterable[int] | None = None,
    tolerance: float = 1.0,
    *,
    case: str = "case",
    subject: str | None = None,
) -> CaseScores:
    """Score integer masks ``(X, Y, Z)`` on one grid, for ``labels`` (default: those present in either; never 0).

    ``affine`` maps voxels to millimetres, ``tolerance`` (mm) is that of the surface Dice. Empty masks follow the policy of
    :class:`ClassScores`.
    """
    boxes = _boxes(prediction), _boxes(truth)
    wanted = sorted(set(boxes[0]) | set(boxes[1]) if labels is None else set(labels) - {0})
    classes = {
        label: _score_class(label, prediction, truth, affine, tolerance, boxes[0].get(label), boxes[1].get(label))
        for label in wanted
    }
    return CaseScores(case, subject or case, classes)


def evaluate(
    prediction: Path | str,
    truth: Path | str,
    *,
    labels: Mapping[int, str] | None = None,
    tolerance: float = 1.0,
    ids: Iterable[str] | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every predicted mask that has a truth of its name (see :func:`match_masks`).

    ``labels`` names the classes to score (value -> name); default: those the data set names, else every value that occurs
    in any mask. ``progress`` is called with (cases done, cases). Raises DataError, one line a case, where a mask cannot be
    read or lies on another grid than its truth.
    """
    matches = match_masks(Path(prediction), Path(truth), ids)
    names = {value: name for value, name in (labels or matches.label_names).items() if value != 0}
    cases: list[CaseScores] = []
    problems: list[str] = []
    for done, result in enumerate(_scored(partial(_score_pair, tolerance=tolerance), matches.pairs, workers), 1):
        if isinstance(result, CaseScores):
            cases.append(result)
        else:
            problems += result
        if progress:
            progress(done, len(matches.pairs))
    if problems:
        raise DataError(problems)
    present = sorted({label for case in cases for label in case.classes})
    notes = [] if labels or not names else _undeclared(cases, names)
    if matches.unknown:
        notes.append(f"{len(matches.unknown)} predictions have no truth: {', '.join(matches.unknown[:5])}")
    if any(is_image(pair.truth) for pair in matches.pairs):
        notes.append(UNKNOWN_PIXELS)
    names = names or {label: str(label) for label in present}
    return Evaluation(
        prediction=str(prediction),
        truth=str(truth),
        labels=names,
        tolerance_mm=tolerance,
        cases=tuple(
            CaseScores(case.id, case.subject, {label: case.classes.get(label, ABSENT) for label in names})
            for case in cases
        ),
        missing=matches.missing,
        notes=tuple(notes),
    )


def _scored(
    score: Callable[[Pair], CaseScores | tuple[str, ...]], pairs: tuple[Pair, ...], workers: int
) -> Iterator[CaseScores | tuple[str, ...]]:
    if workers <= 1 or len(pairs) == 1:
        yield from map(score, pairs)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside the threads of numerical libraries
    with ProcessPoolExecutor(min(workers, len(pairs)), mp_context=context) as pool:
        yield from pool.map(score, pairs)


def _score_pair(pair: Pair, tolerance: float) -> CaseScores | tuple[str, ...]:
    """The scores of one case, or what is wrong with it."""
    try:
        prediction, affine = read_label(pair.prediction)
        truth, truth_affine = read_label(pair.truth)
    except DataError as error:
        return error.problems
    if prediction.shape != truth.shape:
        return (f"{pair.prediction}: {prediction.shape} voxels, but the truth {pair.truth} has {truth.shape}",)
    distance = corner_distance(truth.shape, truth_affine, affine)
    if distance > _GRID_TOLERANCE * min(spacing_of(truth_affine)):
        return (
            f"{pair.prediction}: its grid is off that of the truth {pair.truth} by up to {distance:.3g} mm at a corner"
            f" (first voxel at {_point(affine)} and {_point(truth_affine)} mm,"
            f" spacing {_numbers(spacing_of(affine))} and {_numbers(spacing_of(truth_affine))} mm)",
        )
    return score_case(prediction, truth, truth_affine, None, tolerance, case=pair.id, subject=pair.subject)


def _score_class(
    label: int,
    prediction: Array,
    truth: Array,
    affine: Affine,
    tolerance: float,
    predicted_box: tuple[slice, ...] | None,
    true_box: tuple[slice, ...] | None,
) -> ClassScores:
    if predicted_box is None and true_box is None:
        return ABSENT
    box = _union(predicted_box, true_box)
    predicted, true = prediction[box] == label, truth[box] == label
    volumes = [float(np.count_nonzero(mask)) * voxel_ml(affine) for mask in (predicted, true)]
    if predicted_box is None or true_box is None:
        outcome: Outcome = "missed" if predicted_box is None else "spurious"
        return ClassScores(outcome, 0.0, diagonal_mm(truth.shape, affine), 0.0, *volumes)
    distances = surface_distances(predicted, true, affine)
    return ClassScores("scored", dice(predicted, true), distances.hd95(), distances.surface_dice(tolerance), *volumes)


def _boxes(mask: Array) -> dict[int, tuple[slice, ...]]:
    """The bounding box of every positive label that occurs."""
    return {label: box for label, box in enumerate(ndimage.find_objects(mask), 1) if box is not None}


def _union(one: tuple[slice, ...] | None, other: tuple[slice, ...] | None) -> tuple[slice, ...]:
    boxes = [box for box in (one, other) if box is not None]
    return tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True))


def _undeclared(cases: Iterable[CaseScores], names: Mapping[int, str]) -> list[str]:
    """A line for every value that occurs but has no name: it is not scored."""
    holders: dict[int, list[str]] = {}
    for case in cases:
        for label in set(case.classes) - set(names):
            holders.setdefault(label, []).append(case.id)
    return [
        f"label {label} is not among the data set's ({', '.join(f'{v}={n}' for v, n in names.items())}) and not scored;"
        f" it occurs in {len(ids)} cases, such as {ids[0]}"
        for label, ids in sorted(holders.items())
    ]


def _point(affine: Affine) -> str:
    return _numbers(affine[:3, 3])


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
