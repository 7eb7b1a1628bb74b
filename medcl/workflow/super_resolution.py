"""`medcl finetune` with ``task: super_resolution``: from scans to a network that gives thick slices their detail back."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from medcl.config.super_resolution import SuperResolutionConfig
from medcl.encoders.restorer import Restorer
from medcl.evaluation.methods import MethodScores
from medcl.evaluation.restoration import METRICS, cubic, score_restored
from medcl.evaluation.statistics import bootstrap_mean, paired_difference
from medcl.files import atomic_path
from medcl.inference.predictor import torch_device
from medcl.inference.restoration import restored
from medcl.modalities.volume import read_volume
from medcl.preparation.apply import check_growth
from medcl.preparation.axes import interpolate, rescaled_grid, smooth_for, to_ras
from medcl.preparation.body import body_box, body_mask
from medcl.preparation.recipe import Recipe
from medcl.records.record import Record
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.tasks.super_resolution import SuperResolutionTask
from medcl.training.fit import fit
from medcl.types import Array
from medcl.views.thickness import thickened, upsampled
from medcl.weights.save import save_weights
from medcl.workflow.tuning import Start

log = logging.getLogger(__name__)

Case = Mapping[str, Mapping[str, float]]
"""Method -> metric -> value of one record."""


def finetune_super_resolution(
    config: SuperResolutionConfig, *, resume: bool = False, progress: bool = True
) -> RunFolder:
    """Train on the training records, which need no label, and score on the held-out ones; writes ``config.out``.

    The scores, beside linear and cubic interpolation, go to ``scores.json``, ``scores.csv`` (record by record) and the page.
    """
    run = RunFolder(config.out)
    with run.started("finetune", config, seed=config.seed, resume=resume):
        start = Start.of(config, run)
        scans = start.scans
        ids = config.data.records or scans.split.train
        run.record(pool=list(ids), validation=list(scans.split.validation), test=list(scans.split.test))
        restorer = Restorer(start.network(config, run))
        sampler = start.sampler(config, restorer.encoder, ids)
        task = SuperResolutionTask(restorer, config, sampler, pretrained=start.weights is not None)
        if not fit(task, config.trainer, run, stage="finetune", resume=resume, progress=progress):
            raise SystemExit(0)
        if is_first_process():
            recipe = scans.store.recipe
            save_weights(run.weights, restorer, start.card(config, ids, "super_resolution"), recipe)
            part, held_out = start.held_out()
            if held_out:
                device = torch_device(config.trainer.device)
                restorer = restorer.to(device).eval()
                cases = {
                    record.id: _case(restorer, record, recipe, config.factor, sampler.patch, device)
                    for record in held_out
                }
                scores = _scores(config, part, held_out, cases)
                scores.write(run.path / "scores.json")
                _write_cases(run.path / "scores.csv", cases)
                for line in scores.lines():
                    log.info("%s", line)
    if is_first_process():
        write_page(run)
    return run


def _case(
    restorer: Restorer,
    record: Record,
    recipe: Recipe,
    factor: tuple[int, int, int],
    patch: tuple[int, ...],
    device: torch.device,
) -> Case:
    """A record seen in thick slices and brought back by the network and by interpolation, each against the record itself."""
    volume = read_volume(record.volume, channels=len(recipe.channels))
    data, affine = to_ras(volume.data.astype(np.float32), volume.affine)
    check_growth(volume.name, data.shape[1:], affine, recipe.spacing)
    coordinates, _ = rescaled_grid(data.shape[1:], affine, recipe.spacing)
    data = interpolate(smooth_for(data, coordinates), coordinates)
    truth = data[:, *(slice(size // times * times) for size, times in zip(data.shape[1:], factor, strict=True))]
    truth = np.ascontiguousarray(truth)
    thick = thickened(torch.from_numpy(truth)[None], factor)
    methods: dict[str, Array] = {
        "this run": restored(restorer, thick[0].numpy(), recipe, factor, patch, device=device),
        "linear interpolation": upsampled(thick, factor)[0].numpy(),
        "cubic interpolation": cubic(thick[0].numpy(), factor),
    }
    box = body_box(body_mask(truth))
    return {name: score_restored(found, truth, box) for name, found in methods.items()}


def _scores(
    config: SuperResolutionConfig, part: str, held_out: Sequence[Record], cases: Mapping[str, Case]
) -> MethodScores:
    subjects = [record.subject for record in held_out]
    methods = list(next(iter(cases.values())))
    values = {
        (method, metric): [cases[record.id][method][metric] for record in held_out]
        for method in methods
        for metric in METRICS
    }
    return MethodScores(
        title=f"{part} records, {' x '.join(map(str, config.factor))} times thinner slices along x, y, z",
        part=part,
        records=[record.id for record in held_out],
        metrics=METRICS,
        scores={m: {metric: bootstrap_mean(values[m, metric], subjects) for metric in METRICS} for m in methods},
        differences={
            m: {
                metric: paired_difference(values[methods[0], metric], values[m, metric], subjects) for metric in METRICS
            }
            for m in methods[1:]
        },
        notes=["Thick slices are simulated from the scans themselves by a Gaussian slice profile."],
    )


def _write_cases(path: Path, cases: Mapping[str, Case]) -> None:
    with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "method", *METRICS])
        for record, case in cases.items():
            writer.writerows(
                [record, method, *(f"{found[name]:.6g}" for name in METRICS)] for method, found in case.items()
            )
