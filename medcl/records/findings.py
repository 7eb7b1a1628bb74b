"""What a check can say, each kind under one name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning"]

CHECKS: dict[str, tuple[Severity, str]] = {
    "missing-file": ("error", "a file that the data set names does not exist"),
    "unreadable": ("error", "truncated, damaged or of an unknown format"),
    "bad-affine": ("error", "the affine is singular or not finite"),
    "sheared-affine": ("warning", "the voxel axes are not at right angles"),
    "bad-spacing": ("error", "voxel spacing is zero, negative or of no scanner"),
    "spacing-mismatch": ("warning", "the header's voxel sizes are not those of its affine"),
    "form-mismatch": ("warning", "sform and qform place the volume differently; other tools may read the other one"),
    "unknown-orientation": ("error", "the file does not say how the volume lies in the body"),
    "mixed-orientation": ("warning", "stored in another orientation than most of the data set"),
    "not-3d": ("error", "four axes or two where a volume has three"),
    "not-finite": ("error", "NaN or infinite voxels"),
    "constant": ("error", "every voxel has the same value"),
    "image-like-label": ("warning", "an image of so few whole numbers that it may be a label"),
    "label-like-image": ("error", "a label of so many values that it must be an image"),
    "label-not-integer": ("error", "label values that are not whole numbers"),
    "label-value": ("error", "label values that are negative or that the data set does not declare"),
    "label-empty": ("warning", "a label of background only"),
    "label-without-background": ("warning", "a label with no background voxel"),
    "label-is-image": ("error", "image and label are the same"),
    "label-shape": ("error", "image and label differ in shape"),
    "label-affine": ("error", "image and label lie in different places"),
    "channel-count": ("error", "more or fewer files than the data set has channels"),
    "channel-grid": ("error", "the channels of a record lie on different grids"),
    "class-missing": ("warning", "a class that all other labels have"),
    "class-absent": ("warning", "a declared class that no label has"),
    "intensity-outlier": ("warning", "intensities unlike those of the other volumes"),
    "spacing-outlier": ("warning", "voxel spacing unlike that of the other volumes"),
    "extent-outlier": ("warning", "field of view unlike that of the other volumes"),
    "duplicate": ("error", "the same voxels under two subjects or as two channels"),
    "duplicate-same-subject": ("warning", "the same voxels in two records of one subject"),
    "duplicate-label": ("warning", "the same label, voxel for voxel, for two images"),
    "repeated-id": ("error", "one record id for several records"),
    "divided-subject": ("error", "a subject on both sides of a split"),
    "colour": ("warning", "a radiograph in colour (a screenshot, arrows), which is read as grey"),
    "odd-ecg": ("warning", "an ECG whose header had to be repaired, with missing samples or constant leads"),
    "shared-report": ("warning", "held-out reports that are equal or nearly equal to one of training"),
}
"""Every check: its severity and what it looks for. An error would make training fail or silently wrong."""

MANY_VALUES = 256
"""A label of more values than this is an image."""


@dataclass(frozen=True)
class Finding:
    """One problem of one file; ``file`` is None where it is the data set's as a whole."""

    severity: Severity
    file: Path | None
    check: str
    message: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.file or 'data set'}: {self.check}: {self.message}"


def finding(check: str, file: Path | None, message: str) -> Finding:
    """A finding of one of :data:`CHECKS`, with its severity."""
    return Finding(CHECKS[check][0], file, check, message)


def times(sizes: Iterable[float]) -> str:
    """Sizes as people write them: ``36x52x38``, ``1x1x2.5``."""
    return "x".join(f"{size:.4g}" if isinstance(size, float) else str(size) for size in sizes)
