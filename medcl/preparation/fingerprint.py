"""The fingerprint of a data set: grids, body extents and intensities of its records, from which a recipe follows."""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial

import numpy as np

from medcl.config.strict import Strict
from medcl.errors import DataError
from medcl.modalities.header import spacing_of
from medcl.modalities.image import UNKNOWN_PIXELS
from medcl.modalities.volume import read_volume
from medcl.preparation.axes import to_ras
from medcl.preparation.body import body_box, body_mask
from medcl.preparation.parallel import on_each
from medcl.records.manifest import Manifest
from medcl.records.names import is_image
from medcl.records.record import Record
from medcl.types import Progress, Shape, Spacing

log = logging.getLogger(__name__)

# Quantiles that stand for a record's intensities when the records' are pooled, each record with equal weight.
_QUANTILES = 1001


class RecordPrint(Strict):
    """One record: its grid in RAS order, the extent of its body box in mm, and what its file says of itself."""

    shape: Shape
    spacing: Spacing
    orientation: str | None
    modality: str | None
    channels: int
    body_extent: Spacing

    @property
    def extent(self) -> Spacing:
        """Millimetres covered along x, y, z."""
        x, y, z = (size * step for size, step in zip(self.shape, self.spacing, strict=True))
        return x, y, z


class BodyIntensity(Strict):
    """Intensities of the body's voxels over all records: the 0.5th and 99.5th percentile, mean, deviation, minimum."""

    low: float
    high: float
    mean: float
    std: float
    minimum: float


class Fingerprint(Strict):
    """What the records are like. Labels play no part in it."""

    records: tuple[RecordPrint, ...]
    body: BodyIntensity

    @property
    def channels(self) -> int:
        """Channels of every record."""
        return self.records[0].channels

    @property
    def body_shares(self) -> tuple[float, ...]:
        """For every record, the share of its volume that its body box covers."""
        return tuple(float(np.prod(one.body_extent) / np.prod(one.extent)) for one in self.records)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """The fingerprint as a table: what, smallest, median, largest."""
        table = []
        for name, attribute, digits in (
            ("shape", "shape", 0),
            ("spacing (mm)", "spacing", 3),
            ("body (mm)", "body_extent", 0),
        ):
            values = np.array([getattr(one, attribute) for one in self.records], float)
            low, middle, high = (
                _triple(row, digits) for row in (values.min(0), np.median(values, axis=0), values.max(0))
            )
            table.append((name, low, middle, high))
        body = self.body
        table.append(("body intensity", f"{body.low:.4g}", f"{body.mean:.4g} +- {body.std:.3g}", f"{body.high:.4g}"))
        for name, attribute in (("orientation", "orientation"), ("modality", "modality")):
            counts = Counter(getattr(one, attribute) or "not declared" for one in self.records)
            table.append((name, "", ", ".join(f"{count} x {value}" for value, count in counts.most_common()), ""))
        return table


def fingerprint(manifest: Manifest, workers: int = 1, progress: Progress | None = None) -> Fingerprint:
    """Read every record of ``manifest`` once. Labels are not read.

    A record that cannot be read is logged and left out (building the store reports it). Raises DataError where none
    can be read, or where records differ in their number of channels.
    """
    records = [record for record in manifest.records if record.volume]
    found: dict[int, tuple[RecordPrint, list[float]]] = {}
    problems: list[str] = []
    for index, result in on_each(partial(_print_of, len(manifest.channel_names)), records, workers, progress):
        if isinstance(result, DataError):
            problems += result.problems
        else:
            found[index] = result
    if not found:
        raise DataError(problems or [f"{manifest.source}: no record has a volume"])
    for problem in problems:
        log.warning("left out of the fingerprint: %s", problem)
    prints = [found[index][0] for index in sorted(found)]
    if any(is_image(path) for index in found for path in records[index].volume):
        log.info("note: %s", UNKNOWN_PIXELS)
    counts = Counter(one.channels for one in prints)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [records[index].id for index in sorted(found) if found[index][0].channels != usual]
        raise DataError(
            f"most records have {usual} channels, but not {', '.join(odd[:5])}; every record needs the same channels"
        )
    pooled = np.array([found[index][1] for index in sorted(found)])
    low, high = np.percentile(pooled, (0.5, 99.5))
    body = BodyIntensity(low=low, high=high, mean=pooled.mean(), std=pooled.std(), minimum=pooled.min())
    return Fingerprint(records=tuple(prints), body=body)


def _print_of(channels: int, record: Record) -> tuple[RecordPrint, list[float]]:
    volume = read_volume(record.volume, channels=channels)
    data, affine = to_ras(volume.data.astype(np.float32), volume.affine)
    if not np.isfinite(data).all():
        raise DataError(
            f"{volume.name}: {int((~np.isfinite(data)).sum())} voxels are NaN or infinite; replace them in the file"
        )
    mask = body_mask(data)
    extent = (np.diff(body_box(mask), axis=0)[0] * spacing_of(affine)).tolist()
    header = volume.header
    declared = next((value for key, value in record.attributes.items() if key.lower() == "modality"), None)
    one = RecordPrint(
        shape=data.shape[1:],
        spacing=spacing_of(affine),
        orientation=header.orientation if header else None,
        modality=(header.modality if header else None) or (declared.upper() if declared else None),
        channels=len(data),
        body_extent=tuple(extent),
    )
    return one, np.quantile(data[:, mask], np.linspace(0, 1, _QUANTILES)).tolist()


def _triple(values: np.ndarray, digits: int) -> str:
    return " x ".join(f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}" for value in values)
