"""Checks of a file against the others: duplicates, orientations, classes, and outliers by robust statistics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from medcl.records.facts import PERCENTILES, VolumeFacts
from medcl.records.findings import MANY_VALUES, Finding, finding, times
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.types import Array

# Fewer volumes than this have no cohort to stand out from.
_FEWEST = 8
# An outlier is this many robust standard deviations (1.4826 x median absolute deviation) from the median...
_DEVIATIONS = 10.0
# ...and at least this far: shares of the volume's own range (decades for its tails), doublings of a length.
_SHARE, _DOUBLINGS = 0.3, 1.0
# A scale (in decades) stands out if no other is near, and it is far off or all others agree. MR scanners scale freely:
# among 200 clinical hippocampus volumes some are 400 times the median, so that alone says nothing.
_NEAR, _FAR, _AGREEING = 1.0, 3.0, 0.5


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
    labels = [label for label in found if label and set(label.values) - {0} and len(label.values) <= MANY_VALUES]
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
    """Volumes whose histogram has another shape, offset, tail or scale than the cohort's.

    MR intensities have no unit, so shapes are compared after scaling by each volume's own range (0.5th to 99.5th
    percentile). The scale itself counts only where it is a volume's own, see :func:`_alone`.
    """
    if len(files) < _FEWEST:
        return
    percentiles = np.array([file.percentiles for file in files])
    minimum, maximum = np.array([(file.minimum, file.maximum) for file in files]).T
    low, high = percentiles[:, 0], percentiles[:, -1]
    # Where nearly all voxels are background both percentiles are the same, and the full range must serve.
    width = np.where(high > low, high - low, maximum - minimum)
    features = {
        f"{name:g}th percentile at {{:.2g}} of its range": (percentiles[:, index] - low) / width
        for index, name in enumerate(PERCENTILES)
        if 0 < index < len(PERCENTILES) - 1
    }
    features["range starts {:.2g} of its width above 0"] = low / width
    tails = {
        "maximum {:.3g} range widths above the 99.5th percentile": (maximum - high) / width,
        "minimum {:.3g} range widths below the 0.5th percentile": (low - minimum) / width,
    }
    outlying = {text: _outlying(values, _SHARE) for text, values in features.items()}
    outlying |= {text: _outlying(np.log10(1 + values), _SHARE) for text, values in tails.items()}
    scale = np.log10(width)
    alone = _alone(scale)
    for number, file in enumerate(files):
        said = [
            f"{text.format(values[number])} (cohort {np.median(values):.2g})"
            for text, values in (features | tails).items()
            if outlying[text][number]
        ]
        if alone[number]:
            said.append(f"range {10 ** scale[number]:.3g} (cohort {10 ** np.median(scale):.3g})")
        if said:
            message = f"{'; '.join(said[:2])}; values {file.minimum:.4g} to {file.maximum:.4g}"
            yield finding("intensity-outlier", file.path, message)


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


def _alone(decades: Array) -> Array:
    """Which values are no other's, and either far from the median or far from others that agree."""
    order = np.argsort(decades)
    gaps = np.concatenate([[np.inf], np.diff(decades[order]), [np.inf]])
    nearest = np.empty(len(decades))
    nearest[order] = np.minimum(gaps[:-1], gaps[1:])
    spread_of_others = np.array([np.ptp(np.delete(decades, number)) for number in range(len(decades))])
    far = np.abs(decades - np.median(decades)) > _FAR
    alone: Array = (nearest > _NEAR) & (far | (spread_of_others < _AGREEING))
    return alone
