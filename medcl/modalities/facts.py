"""Reading a volume file for what checks and summaries need to know of it. A bad file is a fact, not an exception."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medcl.errors import DataError, MedclError
from medcl.modalities import image, nifti
from medcl.modalities.header import VolumeHeader
from medcl.modalities.volume import read_header, read_label, read_volume
from medcl.records.facts import MOST_VALUES, PERCENTILES, Kind, VolumeFacts
from medcl.records.grid import corner_distance
from medcl.records.manifest import Manifest
from medcl.types import Affine, Array, Progress

# Percentiles of more voxels than this are those of an even sample: sorting a whole-body CT tells no more.
_ENOUGH_VOXELS = 1 << 22
# A label of more different values than this is none, however many more there are.
_MOST_COUNTED = 1 << 20


def read_all_facts(manifest: Manifest, workers: int = 1, progress: Progress | None = None) -> dict[Path, VolumeFacts]:
    """The facts of every volume and label file of the manifest, each read once, by ``workers`` processes.

    Raises DataError only where a worker process dies (a file that crashes its decoder, or too little memory).
    """
    kinds: dict[Path, Kind] = {}
    for record in manifest.records:
        for path in record.volume:
            kinds.setdefault(path, "image")
        if record.label is not None:
            kinds.setdefault(record.label, "label")
    facts: dict[Path, VolumeFacts] = {}
    read = partial(read_facts, channels=len(manifest.channel_names))

    def note(found: VolumeFacts) -> None:
        facts[found.path] = found
        if progress is not None:
            progress(len(facts), len(kinds))

    if workers <= 1:
        for path, kind in kinds.items():
            note(read(path, kind))
        return facts
    # Spawned, not forked: the caller may hold threads (a progress bar, torch) that a fork would copy half of.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(kinds) or 1), mp_context=context) as pool:
            for found in pool.map(read, kinds, kinds.values(), chunksize=4):
                note(found)
    except BrokenProcessPool as error:
        raise DataError(
            f"{manifest.source}: a worker process died after {len(facts)} of {len(kinds)} files (too little memory, or "
            "a file that crashes its decoder); use --workers 1 to see at which file"
        ) from error
    return facts


def read_facts(path: Path, kind: Kind, *, channels: int = 1) -> VolumeFacts:
    """The facts of one file. Never raises: whatever goes wrong is their ``error``.

    An image of four axes whose last one has ``channels`` entries is one volume of so many channels.
    """
    known = partial(VolumeFacts, path, kind)
    try:
        if not path.exists():
            return known(error="no such file", missing=True)
        known = partial(known, digest=_digest(path))
        header = read_header(path)
    except (
        Exception
    ) as error:  # a damaged file may fail anywhere in three decoders; one file must not end an inspection
        return known(error=_one_line(error, path), **_broken_affine(path))
    known = partial(known, **_header_facts(header))
    if kind == "image" and channels > 1 and header.shape[3:] == (channels,):
        known = partial(known, shape=header.shape[:3], channels=channels)
    elif len(header.shape) != 3:
        return known()
    try:
        if header.format == "nifti":
            read, slabs = nifti.read_slabs(path)
            count = math.prod(read.shape)
        else:
            as_label = kind == "label" and header.format == image.FORMAT  # whose grey values stand for classes
            voxels = read_label(path)[0] if as_label else read_volume(path, channels=channels).data
            stored = voxels if voxels.ndim == 3 else np.moveaxis(voxels, 0, -1)
            count, slabs = voxels.size, iter([stored.T.reshape(-1)])
        if not count:
            return known(error=f"holds no voxels (shape {header.shape})")
        return known(**_voxel_facts(slabs, count, kind))
    except Exception as error:  # as above
        return known(error=_one_line(error, path))


def _header_facts(header: VolumeHeader) -> dict[str, Any]:
    nifti: Any = header.nifti
    pixdim: tuple[float, ...] = ()
    form_distance = 0.0
    if nifti is not None:
        pixdim = tuple(float(size) for size in nifti["pixdim"][1:4])
        sform, qform = nifti.get_sform(coded=True)[0], nifti.get_qform(coded=True)[0]
        if sform is not None and qform is not None:
            form_distance = corner_distance(header.shape, sform, qform)
    return {
        "format": header.format,
        "dtype": str(header.dtype),
        "modality": header.modality,
        "shape": header.shape,
        "affine": _rows(header.affine),
        "spacing": header.spacing,
        "pixdim": pixdim,
        "form_distance": form_distance,
        "orientation": header.orientation,
    }


def _voxel_facts(slabs: Iterable[Array], count: int, kind: Kind) -> dict[str, Any]:
    """The facts of ``count`` voxels that come slab by slab, of one axis, the first voxel axis fastest."""
    digest, values = hashlib.sha256(), _Values(kind)
    nan = infinite = fractional = finite_count = done = 0
    low, high, total = math.inf, -math.inf, 0.0
    step = max(1, count // _ENOUGH_VOXELS)
    sample: list[Array] = []
    for voxels in slabs:
        if not voxels.size:
            continue
        digest.update(np.ascontiguousarray(voxels))
        sampled = voxels[-done % step :: step].copy()  # a view would keep the whole slab
        done += voxels.size
        finite = voxels
        if voxels.dtype.kind == "f":
            nan += int(np.isnan(voxels).sum())
            infinite += int(np.isinf(voxels).sum())
            finite = voxels[np.isfinite(voxels)] if nan + infinite else voxels
            sampled = sampled[np.isfinite(sampled)]
            different = int((finite != np.rint(finite)).sum())
            fractional += different
        sample.append(sampled)
        if finite.size:
            finite_count += finite.size
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
            total += float(finite.sum(dtype=np.float64))
            values.add(finite if not fractional else finite[:0])
    facts = {"voxels": digest.hexdigest(), "nan": nan, "infinite": infinite}
    if not finite_count:
        return facts
    found = np.concatenate(sample)
    return facts | {
        "fractional": fractional,
        "minimum": low,
        "maximum": high,
        "mean": total / finite_count,
        "percentiles": tuple(float(value) for value in np.percentile(found, PERCENTILES)) if found.size else (),
        "values": {} if fractional else values.counts,
    }


class _Values:
    """How many voxels have each value. Of an image with many values none: it is no label, and sorting all of them tells no more."""

    def __init__(self, kind: Kind) -> None:
        self.counts: dict[int, int] = {}
        self._most = MOST_VALUES if kind == "image" else _MOST_COUNTED
        self._full = False

    def add(self, whole: Array) -> None:
        if self._full or not whole.size:
            return
        if self._most == MOST_VALUES and np.unique(whole[: 1 << 16]).size > MOST_VALUES:
            self._give_up()
            return
        low, high = whole.min(), whole.max()
        if low == high:
            values, counts = np.array([low]), np.array([whole.size])
        else:
            values, counts = np.unique(whole, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.counts[int(value)] = self.counts.get(int(value), 0) + count
        if len(self.counts) > self._most:
            self._give_up()

    def _give_up(self) -> None:
        self._full = True
        if self._most == MOST_VALUES:
            self.counts = {}


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _broken_affine(path: Path) -> dict[str, Any]:
    """The affine of a NIfTI file that was refused for it, so that a check can name the cause."""
    try:
        affine = np.asarray(nibabel.load(path).affine, np.float64)  # type: ignore[attr-defined]
    except Exception:  # not the affine, then
        return {}
    return {"affine": _rows(affine)}


def _rows(affine: Affine) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in affine)


def _one_line(error: Exception, path: Path) -> str:
    text = error.problems[0] if isinstance(error, MedclError) else f"{type(error).__name__}: {error}"
    return text.removeprefix(f"{path}: ").strip().splitlines()[0]
