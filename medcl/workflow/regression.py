"""`medcl finetune` with ``task: regression``: from records with a number to a network that tells it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from medcl.config.regression import RegressionConfig
from medcl.encoders.regressor import Regressor
from medcl.errors import ConfigError, DataError
from medcl.evaluation.methods import MethodScores
from medcl.evaluation.regression import label_continuity, linear_fit, score_numbers
from medcl.evaluation.statistics import paired_difference
from medcl.inference.predictor import torch_device
from medcl.inference.windows import number_of
from medcl.modalities.volume import read_header, read_volume
from medcl.preparation.apply import prepare
from medcl.records.csv_tables import write_numbers
from medcl.records.record import Record
from medcl.records.splits import labelled_subset
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.tasks.regression import RegressionTask
from medcl.training.fit import fit
from medcl.types import Array
from medcl.weights.save import save_weights
from medcl.workflow.tuning import Start

log = logging.getLogger(__name__)

_FEWEST = 8  # labelled records for a line through their fields of view


def finetune_regression(config: RegressionConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Train on the numbers of the labelled subset and score on the held-out records; writes ``config.out``.

    The held-out records' numbers go to ``predictions.csv``, and their scores, beside the mean of the training records and a line through their
    fields of view, to ``scores.json`` and the page.
    """
    _check(config)
    run = RunFolder(config.out)
    with run.started("finetune", config, seed=config.seed, resume=resume):
        start = Start.of(config, run)
        scans, data = start.scans, config.data
        ids = data.records or labelled_subset(
            scans.manifest,
            scans.split.train,
            data.labelled,
            data.subset,
            data.split_seed,
            unit=data.count,
            target=config.target,
        )
        part, held_out = start.held_out()
        known = scans.numbers((*ids, *(record.id for record in held_out)), config.target)
        numbers, truth = np.array(known[: len(ids)]), np.array(known[len(ids) :])
        if len(ids) < 2 or not numbers.std() > 0:
            raise DataError(
                f"target '{config.target}': {len(ids)} labelled records of one value; there is nothing to learn"
            )
        run.record(labelled=list(ids), validation=list(scans.split.validation), test=list(scans.split.test))
        regressor = Regressor(start.network(config, run), float(numbers.mean()), float(numbers.std()))
        sampler = start.sampler(config, regressor.encoder, ids)
        task = RegressionTask(
            regressor,
            config,
            sampler,
            targets=torch.from_numpy(numbers),
            subjects=torch.tensor(scans.manifest.subject_numbers(ids)),
            pretrained=start.weights is not None,
        )
        task.measure_features()
        if not fit(task, config.trainer, run, stage="finetune", resume=resume, progress=progress):
            raise SystemExit(0)
        if is_first_process():
            save_weights(run.weights, regressor, start.card(config, ids, "regression"), scans.store.recipe)
            if held_out:
                device = torch_device(config.trainer.device)
                regressor = regressor.to(device).eval()
                found = [_told(regressor, record, start, sampler.patch, device) for record in held_out]
                labelled = [scans.manifest.by_id(record_id) for record_id in ids]
                scores = _scores(config, part, held_out, found, truth, labelled, numbers)
                scores.write(run.path / "scores.json")
                for line in scores.lines():
                    log.info("%s", line)
                rows = [
                    (record.id, value, goal)
                    for record, (value, _), goal in zip(held_out, found, truth.tolist(), strict=True)
                ]
                write_numbers(run.path / "predictions.csv", config.target, config.unit, rows)
    if is_first_process():
        write_page(run)
    return run


def _check(config: RegressionConfig) -> None:
    if config.contrast is None:
        return
    needed = config.contrast.needed()
    if "targets" not in needed or needed - {"targets", "two_views"}:
        raise ConfigError(f"contrast: {config.contrast.name} is no objective of numbers; use supremix")
    if config.views.slots < 2:
        raise ConfigError(f"contrast: {config.contrast.name} needs two views; set views.slots=2")


def _told(
    regressor: Regressor, record: Record, start: Start, patch: tuple[int, ...], device: torch.device
) -> tuple[float, Array]:
    """The number that the network tells of a record's files, as `medcl predict` does, and the record's features."""
    recipe = start.scans.store.recipe
    volume = read_volume(record.volume, channels=len(recipe.channels))
    value, features = number_of(regressor, torch.from_numpy(prepare(volume, recipe).data), patch, device=device)
    return value, features.numpy()


def _scores(
    config: RegressionConfig,
    part: str,
    held_out: Sequence[Record],
    found: Sequence[tuple[float, Array]],
    truth: Array,
    labelled: Sequence[Record],
    numbers: Array,
) -> MethodScores:
    """The run beside what it must beat: the mean of the training records, and what the field of view alone tells."""
    subjects = [record.subject for record in held_out]
    methods = {
        "this run": np.array([value for value, _ in found]),
        "mean of the training records": np.full(len(truth), numbers.mean()),
    }
    if len(labelled) >= _FEWEST:
        fit_on, asked = ([_field_of_view(record) for record in records] for records in (labelled, held_out))
        methods["field of view alone, linear"] = linear_fit(fit_on, numbers, asked)
    errors = {name: np.abs(values - truth) for name, values in methods.items()}
    unit = f" in {config.unit}" if config.unit else ""
    continuity = label_continuity([features for _, features in found], truth)
    return MethodScores(
        title=f"{config.target}{unit} of {len(truth)} {part} records",
        part=part,
        records=[record.id for record in held_out],
        metrics={"mae": f"mean absolute error{unit}", "pearson": "Pearson", "r2": "R2"},
        scores={name: score_numbers(values, truth, subjects) for name, values in methods.items()},
        differences={
            name: {"mae": paired_difference(errors["this run"], errors[name], subjects)} for name in list(methods)[1:]
        },
        notes=[
            f"Continuity of the features in the target, by 5 nearest records: {continuity:.2f} (1 continuous, 0 random)"
        ],
    )


def _field_of_view(record: Record) -> list[float]:
    """Its sides in mm, sorted, so that the stored orientation does not matter."""
    header = read_header(record.volume[0])
    return sorted(size * step for size, step in zip(header.shape[:3], header.spacing, strict=True))
