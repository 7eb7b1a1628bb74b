"""Checks of a file against the others: duplicates, orientations, classes, and outliers by robust statistics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from medcl.records.facts import VolumeFacts
from medcl.records.findings import Finding, finding, times
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.types import Array

# Fewer volumes than this have no cohort to stand out from.
_FEWEST = 8
# An outlier is this many robust standard deviations (1.4826 x median absolute deviation) from the median...
_DEVIATIONS = 10.0
# ...and at least this far: shares of the volume's own range, decades of it, doublings of a length.
_SHARE, _DECADES, _DOUBLINGS = 0.3, 1.0, 1.0


def check_cohort(manifest: Manifest, facts: Mapping[Path, VolumeFacts]) -> Iterator[Finding]:
    """What is wrong with a file only because the others are different, or the same."""
    yield from _duplicates(manifest, facts)
    yield from _classes(manifest, facts)
    groups: dict[tuple[int, str], list[VolumeFacts]] = defaultdict(list)
    for record in manifest.records:
        for channel, path in enumerate(record.volume):
            found = facts.get(path)
            if found is not None and found.error is None and len(found.shape) == 3 and found.percentiles:
                groups[channel, record.attributes.get("modality", "")].append(found)
    yield from _orientations([file for group in groups.values() for file in group])
    for group in groups.values():
        if len(group) >= _FEWEST:
            yield from _intensities([file for file in group if not file.is_constant])
            yield from _lengths(group)


def _duplicates(manifest: Manifest, facts: Mapping[Path, VolumeFacts]) -> Iterator[Finding]:
    images: dict[str, list[tuple[Record, VolumeFacts]]] = defaultdict(list)
    labels: dict[str, list[VolumeFacts]] = defaultdict(list)
    for record in manifest.records:
        for path in record.volume:
            file = facts.get(path)
            if file is not None and file.digest and not file.is_constant:
                images[file.voxels or file.digest].append((record, file))
        label = facts.get(record.label) if record.label else None
        if label is not None and label.voxels and len(label.values) > 1:
            labels[label.voxels].append(label)
    for (first_record, first), *others in images.values():
        for record, file in others:
            same = record.subject == first_record.subject and record is not first_record
            how = "byte-identical to" if file.digest == first.digest else "the same voxels as"
            whose = f"{how} {first.path} ({first_record.id}, subject {first_record.subject})"
            yield finding("duplicate-same-subject" if same else "duplicate", file.path, whose)
    for first_label, *other_labels in labels.values():
        for file in other_labels:
            yield finding("duplicate-label", file.path, f"the same voxels as {first_label.path}")


def _classes(manifest: Manifest, facts: Mapping[Path, VolumeFacts]) -> Iterator[Finding]:
    found = [facts.get(record.label) for record in manifest.records if record.label is not None]
    labels = [label for label in found if label is not None and set(label.values) - {0}]
    counts = Counter(value for label in labels for value in label.values)
    for value, name in manifest.label_names.items():
        if value == 0 or not labels:
            continue
        if not counts[value]:
            yield finding("class-absent", None, f"none of {len(labels)} labels has {value} ({name})")
        elif len(labels) >= _FEWEST and counts[value] == len(labels) - 1:
            without = next(label for label in labels if value not in label.values)
            message = f"has no {value} ({name}), which all {counts[value]} other labels have"
            yield finding("class-missing", without.path, message)


def _orientations(files: Sequence[VolumeFacts]) -> Iterator[Finding]:
    counts = Counter(file.orientation for file in files if file.orientation is not None)
    if len(counts) < 2:
        return
    # Ties go to the alphabetically first, so that the answer does not depend on the order of files.
    common, number = min(counts.items(), key=lambda item: (-item[1], str(item[0])))
    for file in files:
        if file.orientation not in (None, common):
            yield finding("mixed-orientation", file.path, f"{file.orientation} where {number} volumes are {common}")


def _intensities(files: Sequence[VolumeFacts]) -> Iterator[Finding]:
    """Volumes whose histogram has another shape, offset or scale than the cohort's.

    MR intensities have no unit, so shapes are compared after scaling by each volume's own range (0.5th to 99.5th
    percentile). The scale itself counts only where a volume is alone: ten times off every other one.
    """
    if len(files) < _FEWEST:
        return
    percentiles = np.array([file.percentiles for file in files])
    low, high = percentiles[:, :1], percentiles[:, -1:]
    width = np.maximum(high - low, np.finfo(np.float32).tiny)
    extremes = np.array([(file.minimum, file.maximum) for file in files])
    shape = (percentiles[:, 1:-1] - low) / width
    names = ["5th percentile", "25th percentile", "median", "75th percentile", "95th percentile"]
    described: list[tuple[str, Array, float]] = [(name, shape[:, i], _SHARE) for i, name in enumerate(names)]
    described.append(("offset from 0", (low / width)[:, 0], _SHARE))
    above, below = extremes[:, 1:] - high, low - extremes[:, :1]
    described.append(("maximum above the 99.5th percentile (decades)", np.log10(1 + above / width)[:, 0], _SHARE))
    described.append(("minimum below the 0.5th percentile (decades)", np.log10(1 + below / width)[:, 0], _SHARE))
    scale = np.log10(width)[:, 0]
    alone = _outlying(scale, _DECADES) & (_nearest(scale) > _DECADES)
    for number, file in enumerate(files):
        said = [
            f"{name} is {values[number]:.3g} of its range, the cohort's median {np.median(values):.3g}"
            for name, values, least in described
            if _outlying(values, least)[number]
        ]
        if alone[number]:
            said.append(f"range is {10 ** scale[number]:.3g}, the cohort's median {10 ** np.median(scale):.3g}")
        if said:
            values = f"(values {file.minimum:.4g} to {file.maximum:.4g})"
            yield finding("intensity-outlier", file.path, f"{'; '.join(said[:2])} {values}")


def _lengths(files: Sequence[VolumeFacts]) -> Iterator[Finding]:
    """Spacing and field of view, sorted by size so that the stored orientation does not matter."""
    spacing = np.sort([file.spacing for file in files])
    extent = np.sort([np.multiply(file.shape, file.spacing) for file in files])
    for check, lengths in (("spacing-outlier", spacing), ("extent-outlier", extent)):
        median = np.median(lengths, axis=0)
        logs = np.log2(np.maximum(lengths, 1e-6))
        outlying = np.any([_outlying(logs[:, axis], _DOUBLINGS) for axis in range(3)], axis=0)
        for number in np.flatnonzero(outlying).tolist():
            message = f"{times(lengths[number].tolist())} mm where the cohort's median is {times(median.tolist())} mm"
            yield finding(check, files[number].path, message)


def _outlying(values: Array, least: float) -> Array:
    distance = np.abs(values - np.median(values))
    far: Array = distance > max(least, _DEVIATIONS * 1.4826 * float(np.median(distance)))
    return far


def _nearest(values: Array) -> Array:
    """The distance of each value to the nearest other one."""
    order = np.argsort(values)
    gaps = np.concatenate([[np.inf], np.diff(values[order]), [np.inf]])
    nearest = np.empty(len(values))
    nearest[order] = np.minimum(gaps[:-1], gaps[1:])
    return nearest
