"""What a representation is like, in one call: the numbers a pretraining logs and what its page draws (objectives.md 8)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.errors import DataError
from medcl.evaluation.classification import balanced_accuracy
from medcl.evaluation.geometry import alignment, tolerance, uniformity
from medcl.evaluation.neighbours import Neighbours, nearest, negatives_report
from medcl.evaluation.spectrum import Scatter, spectrum
from medcl.files import write_json
from medcl.seeds import derive_seed

MOST_ROWS = 10_000
"""More rows than these are thinned out, always in the same way."""

_FORMAT = "medcl representation 1"


@dataclass(frozen=True)
class NearestRows:
    """A row, and the rows of other patients that are nearest to it, nearest first."""

    row: int
    nearest: tuple[int, ...]
    cosine: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What was found. ``rows``: how many there were; ``used``: how many of them were looked at, drawn by ``seed``.

    ``numbers``, by name; what the rows do not allow is absent:

    - ``uniformity`` (0 collapsed, near -4 spread out), ``mean_cosine`` of rows of different patients
    - ``tolerance``, ``site_tolerance``: mean cosine of rows of one class, of one site, in different patients; above
      ``mean_cosine`` where they lie together. Wanted of a class; of a site it warns of confounding
    - ``alignment`` of the views of a row
    - ``rankme``, ``effective_rank``, ``stable_rank`` of the rows as they are; ``covariance_effective_rank``,
      ``participation_ratio``, ``collapsed_dims`` and ``alpha_req`` of their covariance
    - ``lidar`` from views; ``subject_lidar`` with the rows of a patient as views
    - ``knn``, ``site_knn``: balanced accuracy of the nearest neighbours in other patients; ``..._chance`` without knowing
    - ``effective_negatives`` out of ``negatives``, and ``hard_same_subject``, ``hard_same_label``: the share of them
      among the hardest 1 %

    ``eigenvalues`` (D,): the collapse spectrum, descending.   ``neighbours``: of a few rows of different patients.
    """

    rows: int
    used: int
    seed: int
    numbers: dict[str, float]
    eigenvalues: tuple[float, ...]
    neighbours: tuple[NearestRows, ...]

    def write(self, path: Path | str) -> None:
        """Write all of it as JSON."""
        write_json(Path(path), {"format": _FORMAT, **asdict(self)})

    @staticmethod
    def read(path: Path | str) -> Diagnosis:
        """Read what :meth:`write` wrote; DataError where it is something else."""
        try:
            document: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            if document.pop("format") != _FORMAT:
                raise ValueError("another format")
            return Diagnosis(
                **{
                    **document,
                    "eigenvalues": tuple(document["eigenvalues"]),
                    "neighbours": tuple(
                        NearestRows(found["row"], tuple(found["nearest"]), tuple(found["cosine"]))
                        for found in document["neighbours"]
                    ),
                }
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not the diagnosis of a representation ({error})") from error


def subsample(rows: int, most: int = MOST_ROWS, seed: int = 0) -> Tensor:
    """Which of ``rows`` to look at: all of them, or ``most`` in their order, the same ones for the same seed."""
    if rows <= most:
        return torch.arange(rows)
    generator = torch.Generator().manual_seed(derive_seed("representation", seed))
    return torch.randperm(rows, generator=generator)[:most].sort().values


@torch.no_grad()
def diagnose(
    features: Tensor,
    *,
    record: Tensor,
    subject: Tensor,
    labels: Tensor | None = None,
    site: Tensor | None = None,
    views: Tensor | None = None,
    temperature: float = 0.1,
    k: int = 20,
    queries: int = 6,
    shown: int = 5,
    most: int = MOST_ROWS,
    seed: int = 0,
) -> Diagnosis:
    """Look at ``features (N, D)``, one row an item, of the records ``record (N,)`` of the patients ``subject (N,)``.

    ``labels``, ``site`` (N,): classes in [0, C), -1 where it is not known.   ``views`` (V, N, D): V >= 2 views of the items.
    ``temperature``: of the negatives.   ``k``: neighbours that vote, but never more than a tenth of the
    rows.   ``queries``, ``shown``: rows to show, neighbours of
    each.   ``most``: rows looked at (:func:`subsample`); with several processes, gather the rows first.
    Raises ValueError where there are fewer than two rows, shapes do not fit, or a value is not finite.
    """
    count = len(features)
    if count < 2 or features.ndim != 2:
        raise ValueError(f"features {tuple(features.shape)} are not (N, D) with at least two rows")
    if views is not None and (len(views) < 2 or views.shape[1:] != features.shape):
        raise ValueError(f"views {tuple(views.shape)} are not two or more of the features {tuple(features.shape)}")
    chosen = subsample(count, most, seed).to(features.device)
    rows, record, subject = features[chosen], record[chosen], subject[chosen]
    groups = {"": labels, "site_": site}
    known = {prefix: group[chosen] for prefix, group in groups.items() if group is not None}
    seen = None if views is None else views[:, chosen]
    if not torch.isfinite(rows).all() or (seen is not None and not torch.isfinite(seen).all()):
        raise ValueError("features hold values that are not finite; nothing can be said of them")

    numbers: dict[str, float | Tensor] = {"dims": float(rows.shape[1]), "uniformity": uniformity(rows)}
    numbers["mean_cosine"] = tolerance(rows, torch.zeros_like(subject), subject=subject)
    spectra = spectrum(rows)
    for name in (
        "rankme",
        "effective_rank",
        "stable_rank",
        "covariance_effective_rank",
        "participation_ratio",
        "collapsed_dims",
        "alpha_req",
    ):
        numbers[name] = _where_possible(getattr(spectra, name))
    if seen is not None:
        pairs = torch.combinations(torch.arange(len(seen)), 2).tolist()
        numbers["alignment"] = torch.stack([alignment(seen[a], seen[b]) for a, b in pairs]).mean()
        numbers["lidar"] = _where_possible(Scatter.of(seen.transpose(0, 1)).lidar)
    numbers["subject_lidar"] = _where_possible(Scatter.of_groups(rows, subject).lidar)
    for prefix, group in known.items():
        numbers |= _of_classes(prefix, rows, group, subject, k)
    numbers |= _of_negatives(rows, record, subject, known.get(""), temperature)
    return Diagnosis(
        rows=count,
        used=len(rows),
        seed=seed,
        numbers={name: float(value) for name, value in numbers.items() if math.isfinite(value)},
        eigenvalues=tuple(spectra.eigenvalues.tolist()),
        neighbours=_to_show(rows, subject, chosen, queries, shown, seed),
    )


def _where_possible(measure: Any) -> float | Tensor:
    """The measure, or NaN where there are too few rows or directions for it."""
    try:
        value: float | Tensor = measure()
    except ValueError:
        return math.nan
    return value


def _of_classes(prefix: str, rows: Tensor, group: Tensor, subject: Tensor, k: int) -> dict[str, float | Tensor]:
    """Tolerance, and what neighbours in other patients say of the class."""
    known = group >= 0
    rows, group, subject = rows[known], group[known], subject[known]
    if len(group.unique()) < 2 or len(subject.unique()) < 2:
        return {}
    k = min(k, max(len(rows) // 10, 1))  # most of the rows would only say which class is frequent
    found = nearest(rows, rows, k, query_subject=subject, bank_subject=subject)
    right = (found.class_scores(group).argmax(1) == group).cpu().numpy()
    accuracy = balanced_accuracy(right, group.cpu().numpy(), np.ones((1, len(right))))
    return {
        f"{prefix}tolerance": tolerance(rows, group, subject=subject),
        f"{prefix}knn": float(accuracy[0]),
        f"{prefix}knn_chance": 1 / len(group.unique()),
    }


def _of_negatives(
    rows: Tensor, record: Tensor, subject: Tensor, labels: Tensor | None, temperature: float
) -> dict[str, float | Tensor]:
    """Of the rows whose class is known, where there are classes."""
    if labels is not None:
        known = labels >= 0
        rows, record, subject, labels = rows[known], record[known], subject[known], labels[known]
    if len(record.unique()) < 2:
        return {}
    report = negatives_report(rows, record=record, subject=subject, labels=labels, temperature=temperature)
    found = {"negatives": report.count, "effective_negatives": report.effective}
    found["hard_same_subject"] = report.same_subject
    if report.same_label is not None:
        found["hard_same_label"] = report.same_label
    return dict(found)


def _to_show(
    rows: Tensor, subject: Tensor, chosen: Tensor, queries: int, shown: int, seed: int
) -> tuple[NearestRows, ...]:
    """A few rows of different patients with their neighbours, by their index among all rows."""
    rng = np.random.default_rng(derive_seed("queries", seed))
    owners = subject.cpu().numpy()
    patients = rng.permutation(np.unique(owners))[:queries]
    picked = [int(rng.choice(np.flatnonzero(owners == patient))) for patient in patients]
    if not picked:
        return ()
    at = torch.tensor(picked, device=rows.device)
    found: Neighbours = nearest(rows[at], rows, shown, query_subject=subject[at], bank_subject=subject)
    shown_rows = []
    for query, index, cosine in zip(picked, found.index.tolist(), found.cosine.tolist(), strict=True):
        kept = [(int(chosen[i]), c) for i, c in zip(index, cosine, strict=True) if i >= 0]
        if kept:
            shown_rows.append(NearestRows(int(chosen[query]), *map(tuple, zip(*kept, strict=True))))
    return tuple(shown_rows)
