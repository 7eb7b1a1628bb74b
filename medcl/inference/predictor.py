"""Fine-tuned networks that turn volume files into masks on the files' own grids."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from medcl.config.training import Precision
from medcl.encoders.segmenter import Segmenter
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError, WeightsError
from medcl.inference.blending import slab_axis
from medcl.inference.certainty import ExpectedDice, with_entropy
from medcl.inference.sliding import mean_slabs, score_slabs, with_softmax
from medcl.modalities.volume import Volume, read_volume
from medcl.preparation.apply import Prepared, prepare
from medcl.preparation.recipe import Recipe
from medcl.preparation.restore import Restored, Slab, restore
from medcl.training.precision import resolve_precision
from medcl.types import Array
from medcl.weights.calibration import DiceCalibration
from medcl.weights.load import WeightsFile, build_segmenter, find_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """A mask ``labels (X, Y, Z)`` on the grid of ``volume``, in its stored voxel order.

    ``expected_dice``: of every label in the mask but the background; ``calibrated`` on validation records where every member of the
    prediction was, else as :class:`~medcl.inference.certainty.ExpectedDice` has it, which orders cases and is too high.
    ``probabilities (K, X, Y, Z)`` float32 and ``uncertainty``, maps ``(X, Y, Z)`` float32 by name, where they were asked for.
    """

    labels: Array
    volume: Volume
    expected_dice: Mapping[int, float]
    calibrated: bool
    probabilities: Array | None = None
    uncertainty: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """A volume as the networks see it: ``prepared`` by each recipe of theirs. ``volume`` has the grid and the header, and no voxels."""

    volume: Volume
    prepared: tuple[Prepared, ...]


@dataclass(frozen=True)
class _Member:
    segmenter: Segmenter
    recipe: Recipe
    window: tuple[int, ...]
    mirror: tuple[int, ...]
    calibration: DiceCalibration | None


class Predictor:
    """One fine-tuned run, or several whose probabilities are averaged; each works by its own recipe.

    Args:
        runs: run folders or weights folders of `medcl finetune`.
        tta: average over mirrored inputs, along the axes that a run's training views were mirrored.
        batch: windows in the network at a time; default: :func:`windows_at_a_time`, halved whenever the memory does not hold them.
        skip_empty: leave windows out that do not reach into the body; what lies there is background.
        precision: of the network: ``32``, ``bf16``, or ``auto``: bf16 where the device has instructions for it.
        device: ``auto`` (the GPU if there is one), ``cpu`` or ``gpu``.

    Raises WeightsError where a run is no segmentation network or the runs name different labels.
    """

    def __init__(
        self,
        runs: Sequence[Path | str],
        *,
        tta: bool = False,
        batch: int | None = None,
        skip_empty: bool = True,
        precision: Precision = "32",
        device: str = "auto",
    ) -> None:
        self.device = torch_device(device)
        self.batch = batch
        self.skip_empty = skip_empty
        self.precision = resolve_precision(precision, gpu=self.device.type != "cpu")
        self.members = [_load_member(Path(run), tta, self.device) for run in runs]
        self.labels = self.members[0].recipe.labels
        for run, member in zip(runs, self.members, strict=True):
            if member.recipe.labels != self.labels or member.segmenter.classes != self.members[0].segmenter.classes:
                raise WeightsError(
                    f"{run}: segments {_shown(member.recipe.labels)}, but {runs[0]} {_shown(self.labels)};"
                    " only runs of the same labels can be averaged"
                )

    @property
    def mirror(self) -> tuple[int, ...]:
        """The axes (0, 1, 2) that some member mirrors."""
        return tuple(sorted({axis for member in self.members for axis in member.mirror}))

    def predict(
        self, paths: Sequence[Path | str], *, probabilities: bool = False, uncertainty: bool = False
    ) -> Prediction:
        """Segment the volume of ``paths`` (one a channel). Raises DataError where it cannot be read or prepared.

        ``uncertainty``: with the map ``entropy`` of the mean probabilities (0 to 1), and of several members of one recipe ``variance``.
        """
        return self.tell(self.read(paths), probabilities=probabilities, uncertainty=uncertainty)

    def read(self, paths: Sequence[Path | str]) -> Seen:
        """The first half of :meth:`predict`: no network has a part in it."""
        volume = read_volume(paths, channels=len(self.members[0].recipe.channels))
        prepared = tuple(prepare(volume, members[0].recipe) for members in self._by_preparation())
        return Seen(replace(volume, data=np.broadcast_to(volume.data.dtype.type(0), volume.data.shape)), prepared)

    def tell(self, seen: Seen, *, probabilities: bool = False, uncertainty: bool = False) -> Prediction:
        """The second half of :meth:`predict`."""
        expected = ExpectedDice()
        groups = self._by_preparation()
        names = ["entropy"] if uncertainty else []
        if len(groups) == 1:
            if uncertainty and len(self.members) > 1:
                names.append("variance")
            slabs = expected.watching(self._slabs(seen.prepared[0], groups[0], variance="variance" in names))
            found = restore(with_entropy(slabs) if uncertainty else slabs, seen.prepared[0], scores=probabilities)
        else:
            found = self._of_several_grids(seen, groups, expected, uncertainty)
        told = {label: self._dice(float(value)) for label, value in enumerate(expected.values, 1) if np.isfinite(value)}
        maps = {} if found.maps is None else dict(zip(names, found.maps, strict=True))
        return Prediction(
            found.labels, seen.volume, told, bool(self._calibrations), found.scores if probabilities else None, maps
        )

    @property
    def _calibrations(self) -> list[DiceCalibration]:
        """Of all members, or none."""
        found = [member.calibration for member in self.members if member.calibration is not None]
        return found if len(found) == len(self.members) else []

    def _dice(self, expected: float) -> float:
        """What members calibrated one by one make of the certainty of their mean."""
        told = [calibration.dice(expected) for calibration in self._calibrations]
        return sum(told) / len(told) if told else expected

    def _of_several_grids(
        self, seen: Seen, groups: list[list[_Member]], expected: ExpectedDice, uncertainty: bool
    ) -> Restored:
        """Probabilities of members of several recipes meet on the volume's own grid, as a whole."""
        total: Array | None = None
        for prepared, members in zip(seen.prepared, groups, strict=True):
            scores = restore(self._slabs(prepared, members), prepared, scores=True).scores
            assert scores is not None
            share = scores * np.float32(len(members) / len(self.members))
            total = share if total is None else total + share
        assert total is not None
        slabs = expected.watching(iter([Slab(0, 0, total)]))
        (slab,) = with_entropy(slabs) if uncertainty else slabs
        return Restored(total.argmax(0), slab.maps, total)

    def _by_preparation(self) -> list[list[_Member]]:
        """Members whose recipes give the same voxels: these are prepared and restored once."""
        groups: dict[str, list[_Member]] = {}
        for member in self.members:
            groups.setdefault(member.recipe.voxel_digest, []).append(member)
        return list(groups.values())

    def _slabs(self, prepared: Prepared, members: list[_Member], *, variance: bool = False) -> Iterator[Slab]:
        """The members' mean probabilities on the grid of the prepared volume."""
        data = torch.from_numpy(prepared.data)
        axis = slab_axis(data.shape[1:], min(member.segmenter.encoder.spatial_dims for member in members))
        slabs = [
            with_softmax(
                score_slabs(
                    member.segmenter,
                    data,
                    member.window,
                    axis=axis,
                    batch=self.batch or windows_at_a_time(self.device, member.segmenter.encoder, member.window),
                    mirror=member.mirror,
                    box=prepared.box if self.skip_empty else None,
                    precision=self.precision,
                    convention=member.recipe.convention,
                    device=self.device,
                )
            )
            for member in members
        ]
        return mean_slabs(slabs, variance=variance)


def _load_member(run: Path, tta: bool, device: torch.device) -> _Member:
    weights = find_weights(run)
    segmenter = build_segmenter(weights).to(device).requires_grad_(False)
    mirror = _trained_mirroring(weights) if tta else ()
    return _Member(segmenter, weights.recipe, weights.window, mirror, weights.card.calibration)


def _trained_mirroring(weights: WeightsFile) -> tuple[int, ...]:
    """The axes along which training views were mirrored; a network knows no other mirror images (left is not right)."""
    spatial = (weights.card.training.get("views") or {}).get("spatial") or {}
    axes = tuple(axis for axis, chance in enumerate(spatial.get("flip", ())) if chance > 0)
    if not axes:
        log.warning(
            "%s: not known to be trained on mirrored views (views.spatial.flip); test-time augmentation is left out",
            weights.path,
        )
    return axes


def windows_at_a_time(device: torch.device, encoder: Encoder | None = None, window: Sequence[int] | None = None) -> int:
    """How many windows a network sees at once unless that was said.

    On a CPU, PyTorch convolves a single small window without oneDNN or with idle threads, at half the speed or less; more than two are no faster.
    Where ``encoder`` computes 2^22 numbers or more of a ``window`` at full resolution, one is as fast or faster.
    """
    if device.type != "cpu":
        return 4
    if encoder is None or window is None or set(encoder.strides[0]) != {1}:
        return 2
    return 1 if encoder.channels[0] * math.prod(window[: encoder.spatial_dims]) >= 1 << 22 else 2


def torch_device(name: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``gpu`` means here. Raises ConfigError where there is no GPU to be had."""
    if name == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device: gpu, but PyTorch finds none here; use device=cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _shown(labels: dict[int, str]) -> str:
    return ", ".join(f"{value}={name}" for value, name in sorted(labels.items())) or "unnamed labels"
