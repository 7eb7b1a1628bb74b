"""What `medcl predict` makes of an input: a mask, a number, a finer volume, classes, as the runs were trained for."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import nibabel
import numpy as np
import torch

from medcl.config.predict import PredictConfig
from medcl.errors import ConfigError, WeightsError
from medcl.inference.inputs import Input, find_inputs
from medcl.inference.predictor import Prediction, Predictor, Seen, torch_device, windows_at_a_time
from medcl.inference.restoration import restored_in_place
from medcl.inference.windows import number_of
from medcl.modalities.dicom_seg import require_highdicom, write_seg
from medcl.modalities.dicom_source import Source, read_source
from medcl.modalities.rtstruct import write_rtstruct
from medcl.modalities.volume import Volume, read_volume, write_mask, write_scores, write_volume
from medcl.preparation.apply import check_volume, prepare
from medcl.records.csv_tables import read_written, write_numbers
from medcl.types import Affine, Array
from medcl.weights.kinds import is_alignment, is_classifier, is_prompts
from medcl.weights.load import build_regressor, build_restorer
from medcl.weights.read import find_weights, read_sheet, weights_file
from medcl.workflow.pending import PendingTable
from medcl.workflow.quality import QualityTable

log = logging.getLogger(__name__)

_SAME = 0.25  # spacings that differ by more than this share are worth a warning


class Writer(Protocol):
    """``what``: what it writes, in words.   ``inputs``: what it can be asked of.   ``is_there``: whether an input's output exists.

    ``read``, ``tell``, ``save``: an input's way to its output, as :func:`~medcl.workflow.stages.in_stages` takes them; ``save`` returns the file.
    ``tables_in``: where rows of tables go instead of to the folder of the configuration.   ``finish``: write what waits.   ``facts``: for ``run.json``.
    """

    what: str

    def inputs(self, config: PredictConfig) -> list[Input]: ...
    def is_there(self, item: Input) -> bool: ...
    def read(self, item: Input) -> Any: ...
    def tell(self, seen: Any) -> Any: ...
    def save(self, item: Input, told: Any) -> Path: ...
    def target(self, item: Input) -> Path: ...
    def tables_in(self, folder: Path) -> None: ...
    def finish(self) -> None: ...
    def facts(self) -> dict[str, Any]: ...


def choose_writer(config: PredictConfig) -> Writer:
    """The writer for what the runs of ``config`` were trained for. Raises ConfigError where they differ or an option does not fit."""
    tasks = {_task_of(run) for run in config.runs}
    if len(tasks) > 1:
        raise ConfigError(
            f"the runs are of different tasks ({', '.join(sorted(tasks))}); predict with one kind at a time"
        )
    (task,) = tasks
    if task == "segmentation":
        return Masks(config)
    if config.tta or config.probabilities or config.uncertainty:
        raise ConfigError(f"--tta, --probabilities and --uncertainty are for masks; these runs are of task={task}")
    if config.formats != ("nifti",) or config.keep_ids:
        raise ConfigError(f"--format and --keep-ids are for masks; these runs are of task={task}")
    if task in ("classification", "prompts"):
        from medcl.workflow.told_classes import ToldClasses  # brings the networks of all modalities

        return ToldClasses(config)
    return Numbers(config) if task == "regression" else FinerVolumes(config)


def _task_of(run: Path) -> str:
    if is_classifier(run):
        return "classification"
    if is_prompts(run):
        return "prompts"
    if is_alignment(run):
        raise ConfigError(
            f"{run}: an alignment tells nothing by itself; use medcl zeroshot, retrieve or embed, or fine-tune it first"
        )
    return read_sheet(weights_file(run)).card.task or "segmentation"


class _OfVolumes:
    def inputs(self, config: PredictConfig) -> list[Input]:
        return find_inputs(config.inputs, config.ids)

    def tables_in(self, folder: Path) -> None:
        """There is none."""

    def finish(self) -> None:
        """Nothing waits to be written."""


class Masks(_OfVolumes):
    """A mask of every input in the formats of the configuration, with the Dice to expect of it in ``quality.csv``.

    With ``probabilities`` also ``probabilities/NAME.nii.gz``, with ``uncertainty`` ``entropy/NAME.nii.gz`` and, of several runs, ``variance/NAME.nii.gz``.

    ``nifti``: ``NAME.nii.gz`` (of a 2D image ``NAME.png``); ``seg``: ``NAME.seg.dcm``; ``rtstruct``: ``NAME.rtstruct.dcm``. These two refer
    to the series of the first channel. ``target`` and ``save`` tell the file of the first format.
    """

    what = "masks"

    def __init__(self, config: PredictConfig) -> None:
        self.config = config
        self.of_a_series = [name for name in config.formats if name != "nifti"]
        if config.keep_ids and not self.of_a_series:
            raise ConfigError("keep_ids: a NIfTI mask has no patient fields; it is for --format seg and rtstruct")
        if "seg" in config.formats:
            require_highdicom()
        self.predictor = Predictor(
            config.runs,
            tta=config.tta,
            batch=config.batch,
            skip_empty=config.skip_empty,
            precision=config.precision,
            device=config.device,
        )
        self.quality = QualityTable(config.out)

    def tables_in(self, folder: Path) -> None:
        self.quality = QualityTable(folder)

    def target(self, item: Input) -> Path:
        return self._target(item, self.config.formats[0])

    def is_there(self, item: Input) -> bool:
        targets = [self._target(item, name) for name in self.config.formats]
        if self.config.probabilities:
            targets.append(self._scores(item))
        if self.config.uncertainty:
            targets.append(self.config.out / "entropy" / f"{item.name}.nii.gz")
        return all(is_whole(target) for target in targets)

    def read(self, item: Input) -> tuple[Seen, Source | None]:
        source = read_source(item.files[0], keep_ids=self.config.keep_ids) if self.of_a_series else None
        return self.predictor.read(item.files), source

    def tell(self, seen: tuple[Seen, Source | None]) -> tuple[Prediction, Source | None]:
        config, (volume, source) = self.config, seen
        told = self.predictor.tell(volume, probabilities=config.probabilities, uncertainty=config.uncertainty)
        return told, source

    def save(self, item: Input, told: tuple[Prediction, Source | None]) -> Path:
        target, (prediction, source) = self.target(item), told
        if prediction.probabilities is not None:
            write_scores(self._scores(item), prediction.probabilities, prediction.volume)
        for name, values in prediction.uncertainty.items():
            write_scores(target.parent / name / f"{item.name}.nii.gz", values[None], prediction.volume)
        self.quality.add(item.name, prediction, self.predictor.labels)
        for name in self.of_a_series:
            assert source is not None
            write_object = write_seg if name == "seg" else write_rtstruct
            write_object(self._target(item, name), prediction.labels, source, self.predictor.labels)
        if "nifti" in self.config.formats:  # last: where the mask is, everything is
            write_mask(self._target(item, "nifti"), prediction.labels, prediction.volume)
        return target

    def _scores(self, item: Input) -> Path:
        return self.config.out / "probabilities" / f"{item.name}.nii.gz"

    def _target(self, item: Input, name: str) -> Path:
        return self.config.out / (item.mask if name == "nifti" else f"{item.name}.{name}.dcm")

    def facts(self) -> dict[str, Any]:
        return {
            "labels": {str(value): name for value, name in self.predictor.labels.items()},
            "mirrored_axes": ["xyz"[axis] for axis in self.predictor.mirror],
            "device": str(self.predictor.device),
        }


class Numbers(_OfVolumes):
    """A row of ``predictions.csv`` for every input; several runs are averaged. Rows of earlier calls stay."""

    what = "numbers"

    def __init__(self, config: PredictConfig) -> None:
        self.out = config.out
        self.device = torch_device(config.device)
        self.batch = config.batch or windows_at_a_time(self.device)
        self.runs = [find_weights(run) for run in config.runs]
        self.regressors = [build_regressor(weights).to(self.device) for weights in self.runs]
        named = {(w.card.training["target"], w.card.training["unit"]) for w in self.runs}
        if len(named) > 1:
            raise WeightsError(
                f"the runs tell different targets: {', '.join(sorted(' '.join(pair) for pair in named))}"
            )
        ((self.name, self.unit),) = named
        self._table = PendingTable(self._write_table)

    @cached_property
    def rows(self) -> dict[str, float]:
        """Read when they are first added to: until then another process may write them."""
        return {row["id"]: float(row["predicted"]) for row in read_written(self.target(None), numbers=("predicted",))}

    def tables_in(self, folder: Path) -> None:
        self.out = folder

    def target(self, item: Input | None) -> Path:
        return self.out / "predictions.csv"

    def is_there(self, item: Input) -> bool:
        return item.name in self.rows

    def read(self, item: Input) -> list[Array]:
        return [
            prepare(read_volume(item.files, channels=len(weights.recipe.channels)), weights.recipe).data
            for weights in self.runs
        ]

    def tell(self, seen: list[Array]) -> float:
        told = []
        for weights, regressor, data in zip(self.runs, self.regressors, seen, strict=True):
            patch = weights.window[: regressor.encoder.spatial_dims]
            told.append(number_of(regressor, torch.from_numpy(data), patch, batch=self.batch, device=self.device)[0])
        return float(np.mean(told))

    def save(self, item: Input, told: float) -> Path:
        self.rows[item.name] = told
        self._table.changed()
        return self.target(item)

    def finish(self) -> None:
        self._table.flush()

    def _write_table(self) -> None:
        rows = [(name, value, None) for name, value in self.rows.items()]
        write_numbers(self.target(None), self.name, self.unit, rows)

    def facts(self) -> dict[str, Any]:
        return {"target": self.name, "unit": self.unit, "device": str(self.device)}


class FinerVolumes(_OfVolumes):
    """A volume ``NAME.nii.gz`` with finer voxels and the same extent."""

    what = "volumes"

    def __init__(self, config: PredictConfig) -> None:
        if len(config.runs) > 1:
            raise ConfigError("volumes of several super-resolution runs are not averaged; name one run")
        self.out = config.out
        self.device = torch_device(config.device)
        self.batch = config.batch or windows_at_a_time(self.device)
        self.weights = find_weights(config.runs[0])
        self.restorer = build_restorer(self.weights).to(self.device)
        self.factor = tuple(self.weights.card.training["factor"])

    def target(self, item: Input) -> Path:
        return self.out / f"{item.name}.nii.gz"

    def is_there(self, item: Input) -> bool:
        return is_whole(self.target(item))

    def read(self, item: Input) -> Volume:
        recipe = self.weights.recipe
        volume = read_volume(item.files, channels=len(recipe.channels))
        check_volume(volume, recipe)
        self._compare_spacing(volume)
        return volume

    def tell(self, seen: Volume) -> tuple[Array, Affine]:
        return restored_in_place(
            self.restorer,
            seen.data,
            seen.affine,
            self.weights.recipe,
            self.factor,
            self.weights.window[: self.restorer.encoder.spatial_dims],
            batch=self.batch,
            device=self.device,
        )

    def save(self, item: Input, told: tuple[Array, Affine]) -> Path:
        write_volume(self.target(item), *told)
        return self.target(item)

    def facts(self) -> dict[str, Any]:
        return {"factor": list(self.factor), "device": str(self.device)}

    def _compare_spacing(self, volume: Volume) -> None:
        stored = [int(axis) for axis in nibabel.io_orientation(volume.affine)[:, 0]]
        finer = [step / self.factor[axis] for axis, step in zip(stored, volume.spacing, strict=True)]
        known = [self.weights.recipe.spacing[axis] for axis in stored]
        if any(abs(own / trained - 1) > _SAME for own, trained in zip(finer, known, strict=True)):
            log.warning(
                "%s: becomes %s mm along its stored axes, but this network has learnt detail of %s mm: do not trust what it adds",
                volume.name,
                " x ".join(f"{step:.2g}" for step in finer),
                " x ".join(f"{step:.2g}" for step in known),
            )


def is_whole(path: Path) -> bool:
    """Whether a file is there and holds something. What medcl writes is there whole or not at all; an empty file is of someone else."""
    return path.is_file() and path.stat().st_size > 0
