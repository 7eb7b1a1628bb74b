"""Stand-ins for the commands of a pipeline: they train nothing, but write what the real ones write.

They run in spawned processes, so they live in a module of their own. A fine-tuning's "skill" follows from the number
of labels and from having been pretrained; its masks are truths that are wrong to that degree.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from medcl.config.finetune import FinetuneConfig
from medcl.config.load import validate
from medcl.config.pipeline import PipelineConfig, StudyPredictConfig
from medcl.config.pretrain import PretrainConfig
from medcl.records.layouts import open_data
from medcl.runs import RunFolder
from medcl.workflow.cells import Commands, StudyData
from medcl.workflow.held_out import evaluate_records, study_data
from medcl.workflow.pipeline import Result, run
from medcl.workflow.plan import Plan


def write_cohort(folder: Path, volumes: int = 16, seed: int = 0) -> Path:
    """A Decathlon folder of ellipsoids in noise, two classes."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (36, 48, 34)], indexing="ij"), -1).astype(float)
    pairs = []
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for number in range(volumes):
        centre = np.array([18, 24, 17]) + rng.normal(0, 2, 3)
        radii = np.array([7, 15, 6]) * rng.uniform(0.85, 1.2, 3)
        bend = grid + np.stack([4 * np.sin(grid[..., 1] / 11), np.zeros(grid.shape[:3]), np.zeros(grid.shape[:3])], -1)
        inside = (((bend - centre) / radii) ** 2).sum(-1) < 1
        label = np.where(inside, np.where(grid[..., 1] > centre[1], 1, 2), 0).astype(np.uint8)
        image = ndimage.gaussian_filter(60 + 40.0 * inside + rng.normal(0, 30, label.shape), 1.0).astype(np.float32)
        name = f"case_{number:03d}.nii.gz"
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "imagesTr" / name)
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / name)
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    document = {"labels": {"0": "background", "1": "anterior", "2": "posterior"}, "modality": {"0": "MRI"}}
    (folder / "dataset.json").write_text(json.dumps({**document, "training": pairs, "numTraining": len(pairs)}))
    return folder


def prepare(plan: Plan) -> StudyData:
    return study_data(plan)


def pretrain(config: PretrainConfig) -> None:
    run = RunFolder(config.out)
    _log(config.out, "pretrain")
    with run.started("pretrain", config, seed=config.seed, resume=True):
        rng = np.random.default_rng(0)
        for stage in config.stages:
            for step in range(10, stage.steps + 1, 10):
                fading = np.exp(-3 * step / stage.steps)
                row = {
                    "loss": 2 + 2 * fading,
                    "loss_over_all_equal": 0.5 + 0.5 * fading + 0.02 * rng.normal(),
                    "positive_cosine": 0.9 - 0.2 * fading + 0.02 * rng.normal(),
                    "negative_cosine": 0.5 * fading + 0.02 * rng.normal(),
                    "effective_rank": 2 + 60 * (1 - fading) + rng.normal(),
                }
                _append(run, {"stage": stage.name, "step": step, **row})
        _leave_weights(run)


def finetune(config: FinetuneConfig) -> None:
    run = RunFolder(config.out)
    _log(config.out, "finetune")
    _misbehave(config.out)
    with run.started("finetune", config, seed=config.seed, resume=True):
        rng = np.random.default_rng([config.seed, config.data.subset])
        for step in range(10, config.steps + 1, 10):
            loss = 0.1 + 1.5 * np.exp(-4 * step / config.steps) * rng.uniform(0.8, 1.2)
            _append(run, {"stage": "finetune", "step": step, "loss": loss})
        _leave_weights(run)


def predict(settings: FinetuneConfig, ids: tuple[str, ...], masks: Path, config: StudyPredictConfig) -> None:
    _log(settings.out, "predict")
    count = 64 if settings.data.labelled == "all" else settings.data.labelled
    skill = 1 - (0.6 if settings.init else 1.0) * (0.8 if settings.mixup else 1.0) * 0.9 / np.sqrt(count)
    manifest = open_data(settings.data.path, settings.data.labels)
    masks.mkdir(parents=True, exist_ok=True)
    for number, record_id in enumerate(ids):
        rng = np.random.default_rng([number, settings.data.subset, settings.seed, 7])
        stored = nib.load(manifest.by_id(record_id).label)
        truth = np.asarray(stored.dataobj)
        noise = ndimage.gaussian_filter(rng.normal(0, 1, (3, *truth.shape)), (0, 3, 3, 3)) * 30 * (1.15 - skill)
        coords = np.indices(truth.shape) + noise + rng.normal(0, 2 * (1.05 - skill), (3, 1, 1, 1))
        moved = ndimage.map_coordinates(truth, coords, order=0).astype(np.uint8)
        nib.save(nib.Nifti1Image(moved, stored.affine), masks / f"{record_id}.nii.gz")


COMMANDS = Commands(pretrain, finetune, predict, evaluate_records)


def calls(root: Path) -> list[str]:
    """What was called, in order, as ``command folder``."""
    log = root / "calls.txt"
    return log.read_text().splitlines() if log.is_file() else []


def _misbehave(folder: Path) -> None:
    """Do what the file ``misbehave.json`` beside the study asks for: fail, die or dawdle in a cell of that name."""
    file = _root(folder) / "misbehave.json"
    asked = json.loads(file.read_text()) if file.is_file() else {}
    name = f"{folder.parent.name}/{folder.name}"
    if asked.get("fail") == name:
        raise RuntimeError("the stand-in was asked to fail")
    if asked.get("die") == name:
        os.kill(os.getpid(), signal.SIGKILL)
    if asked.get("dawdle") == name:
        (_root(folder) / "dawdling").write_text(str(os.getpid()))
        time.sleep(120)


def _root(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.name in ("cells", "pretrain")).parent


def _log(folder: Path, command: str) -> None:
    with open(_root(folder) / "calls.txt", "a") as stream:
        stream.write(f"{command} {folder.parent.name}/{folder.name}\n")


def _leave_weights(run: RunFolder) -> None:
    for folder, name in ((run.weights, "weights.safetensors"), (run.checkpoints, "last.ckpt")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"a stand-in")


def _append(run: RunFolder, row: dict[str, object]) -> None:
    with open(run.metrics, "a") as stream:
        stream.write(json.dumps(row) + "\n")


STAGE = {"name": "global", "steps": 20, "terms": [{"objective": "nt_xent"}]}


def pipeline(cohort: Path, out: Path, **changes: object) -> PipelineConfig:
    values: dict[str, object] = {
        "name": "small",
        "out": out,
        "data": {"path": cohort, "test": 4, "validation": 2},
        "finetune": {"steps": 20},
        "arms": {
            "scratch": {},
            "pretrained": {"pretrain": {"stages": [STAGE]}},
            "mixed": {"pretrain": {"stages": [STAGE]}, "finetune": {"mixup": 0.1}},
        },
        "grid": {"labelled": [2, "all"], "subsets": 2},
        "compare": {"resamples": 200},
    }
    return validate(PipelineConfig, {**values, **changes})


def go(config: PipelineConfig) -> Result:
    return run(config, prepare, COMMANDS)


def states(result: Result) -> dict[str, str]:
    return {outcome.name: outcome.state for outcome in result.outcomes}


def only(cohort: Path, out: Path, **changes: object) -> PipelineConfig:
    """One arm, two cells."""
    return pipeline(cohort, out, arms={"scratch": {}}, grid={"labelled": [2], "subsets": 2}, **changes)
