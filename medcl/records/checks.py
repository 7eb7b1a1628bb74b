"""Checks of one data set: pure functions of the manifest and of what was read of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from medcl.records.cohort import check_cohort
from medcl.records.facts import VolumeFacts
from medcl.records.findings import MANY_VALUES, Finding, finding, times
from medcl.records.grid import corner_distance
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.records.splits import divided_subjects
from medcl.types import Affine

# Spacing beyond these (mm) is a unit error or a header that was never filled in, not a scanner's.
_SPACING_RANGE = (0.01, 50.0)
# Where two grids are said to be one: a corner may be off by this share of the smallest voxel side.
_GRID_TOLERANCE = 0.1
# Cosine between two voxel axes that are meant to be at right angles (0.01 is 0.6 degrees).
_SHEAR_TOLERANCE = 0.01
_FEW_VALUES = 16


def check(manifest: Manifest, facts: Mapping[Path, VolumeFacts]) -> list[Finding]:
    """Everything wrong with the data set, all at once; errors first, then by file.

    ``facts`` are those of every volume and label file (``modalities.facts.read_all_facts``). The kinds of findings
    are listed in ``findings.CHECKS``.
    """
    found = [*_records_as_listed(manifest)]
    for file in facts.values():
        found += _file(file)
    for record in manifest.records:
        found += _channels(record, manifest, facts)
        found += _label(record, manifest, facts)
    found += check_cohort(manifest, facts)
    return sorted(set(found), key=lambda item: (item.severity, str(item.file or ""), item.check, item.message))


def _records_as_listed(manifest: Manifest) -> Iterator[Finding]:
    counts = Counter(manifest.ids)
    for record in manifest.records:
        if counts[record.id] > 1:
            yield finding("repeated-id", _first_file(record), f"'{record.id}' names {counts[record.id]} records")
    for subject, sides in divided_subjects(manifest.records).items():
        said = ", ".join(f"{', '.join(ids[:3])} in {name}" for name, ids in sides.items())
        first = next(record for record in manifest.records if record.subject == subject)
        yield finding("divided-subject", _first_file(first), f"subject {subject} is on both sides of a split: {said}")


def _file(facts: VolumeFacts) -> Iterator[Finding]:
    """What one file says by itself."""
    path = facts.path
    if facts.missing:
        yield finding("missing-file", path, "no such file")
        return
    if facts.error is not None:
        yield finding("bad-affine" if _is_singular(facts.matrix) else "unreadable", path, facts.error)
        return
    if len(facts.shape) != 3:
        yield finding("not-3d", path, f"{len(facts.shape)} axes ({times(facts.shape)}) where a volume has 3")
        return
    yield from _grid(facts)
    if facts.nan or facts.infinite:
        yield finding("not-finite", path, f"{facts.nan} NaN and {facts.infinite} infinite voxels")
    yield from _label_values(facts) if facts.kind == "label" else _image_values(facts)


def _is_singular(affine: Affine | None) -> bool:
    return affine is not None and not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12)


def _grid(facts: VolumeFacts) -> Iterator[Finding]:
    path, affine = facts.path, facts.matrix
    if affine is None:
        return
    low, high = _SPACING_RANGE
    sizes = facts.spacing if not facts.pixdim else (*facts.spacing, *facts.pixdim)
    if not all(low <= size <= high for size in sizes):
        shown = times(facts.spacing) + (f", header {times(facts.pixdim)}" if facts.pixdim else "")
        yield finding("bad-spacing", path, f"{shown} mm; expected {low:g} to {high:g}")
    elif facts.pixdim and not np.allclose(facts.pixdim, facts.spacing, rtol=0.01):
        message = f"the header says {times(facts.pixdim)} mm, the affine {times(facts.spacing)} mm"
        yield finding("spacing-mismatch", path, message)
    if facts.form_distance > _GRID_TOLERANCE * min(facts.spacing):
        yield finding("form-mismatch", path, f"sform and qform lie {facts.form_distance:.3g} mm apart at a corner")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if shear > _SHEAR_TOLERANCE:
        yield finding(
            "sheared-affine", path, f"two voxel axes are {np.degrees(np.arccos(min(shear, 1))):.1f} degrees apart"
        )
    if facts.orientation is None:
        yield finding("unknown-orientation", path, "neither sform nor qform is set; set one, for instance with nibabel")


def _image_values(facts: VolumeFacts) -> Iterator[Finding]:
    if facts.is_constant:
        yield finding("constant", facts.path, f"every voxel is {facts.minimum:g}")
    elif facts.values and _looks_like_label(facts.values):
        yield finding("image-like-label", facts.path, f"holds only the values {_shown(facts.values)}")


def _looks_like_label(values: Mapping[int, int]) -> bool:
    """Few whole numbers, or rather few of which one (the background) fills most of the volume."""
    return len(values) <= _FEW_VALUES or 2 * max(values.values()) > sum(values.values())


def _label_values(facts: VolumeFacts) -> Iterator[Finding]:
    if facts.fractional:
        message = f"{facts.fractional} voxels are not whole numbers (range {facts.minimum:g} to {facts.maximum:g})"
        yield finding("label-not-integer", facts.path, message)
    elif len(facts.values) > MANY_VALUES:
        message = f"{len(facts.values)} different values from {facts.minimum:g} to {facts.maximum:g}"
        yield finding("label-like-image", facts.path, message)
    elif set(facts.values) == {0}:
        yield finding("label-empty", facts.path, "background only")
    elif facts.values and 0 not in facts.values:
        yield finding("label-without-background", facts.path, f"holds only the values {_shown(facts.values)}")


def _channels(record: Record, manifest: Manifest, facts: Mapping[Path, VolumeFacts]) -> Iterator[Finding]:
    names = manifest.channel_names
    channels = [facts[path] for path in record.volume if path in facts]
    if (
        names
        and record.volume
        and len(channels) == len(record.volume)
        and sum(one.channels for one in channels) != len(names)
    ):
        message = f"{len(record.volume)} files where the data set has {len(names)} channels ({', '.join(names)})"
        yield finding("channel-count", record.volume[0], message)
    usable = [channel for channel in channels if _is_usable(channel)]
    for channel in usable[1:]:
        difference = _grid_difference(channel, usable[0])
        if difference is not None:
            yield finding("channel-grid", channel.path, f"{difference[1]} of the channel {usable[0].path.name}")


def _label(record: Record, manifest: Manifest, facts: Mapping[Path, VolumeFacts]) -> Iterator[Finding]:
    label = facts.get(record.label) if record.label else None
    if label is None or not _is_usable(label):
        return
    declared = manifest.label_names
    wrong = {v: n for v, n in label.values.items() if v < 0 or (declared and v != 0 and v not in declared)}
    if wrong and len(label.values) <= MANY_VALUES:
        names = f"declared are {', '.join(map(str, declared))}" if declared else "labels are 0 or above"
        yield finding("label-value", label.path, f"values {_shown(wrong)}; {names}")
    image = facts.get(record.volume[0]) if record.volume else None
    if image is None or not _is_usable(image):
        return
    if image.path == label.path or image.voxels == label.voxels:
        yield finding("label-is-image", label.path, f"the same voxels as {image.path}")
    difference = _grid_difference(label, image)
    if difference is not None:
        kind, message = difference
        yield finding(f"label-{kind}", label.path, f"{message} of the image {image.path}")


def _grid_difference(one: VolumeFacts, other: VolumeFacts) -> tuple[str, str] | None:
    """``shape`` or ``affine``, with both values, where two files do not lie on one grid."""
    if one.shape != other.shape:
        return "shape", f"shape {times(one.shape)} is not the {times(other.shape)}"
    first, second = one.matrix, other.matrix
    if first is None or second is None:
        return None
    distance = corner_distance(one.shape, first, second)
    if distance <= _GRID_TOLERANCE * min(*one.spacing, *other.spacing):
        return None
    codes = "" if one.orientation == other.orientation else f" ({one.orientation} against {other.orientation})"
    return "affine", f"a corner lies {distance:.3g} mm from that{codes}"


def _is_usable(facts: VolumeFacts) -> bool:
    return facts.error is None and len(facts.shape) == 3


def _first_file(record: Record) -> Path | None:
    return next(record.files(), None)


def _shown(values: Mapping[int, int]) -> str:
    """``3 (12 voxels), 7 (1 voxels), ...``, at most five."""
    parts = [f"{value} ({count} voxels)" for value, count in sorted(values.items())[:5]]
    return ", ".join(parts) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
