"""Numbers, finer volumes and separated codes, from files to files: trained, scored, predicted, refused."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.inspect import InspectConfig
from medcl.config.load import validate
from medcl.config.predict import PredictConfig
from medcl.config.pretrain import PretrainConfig
from medcl.config.regression import RegressionConfig
from medcl.config.super_resolution import SuperResolutionConfig
from medcl.errors import ConfigError, DataError, WeightsError
from medcl.evaluation.methods import MethodScores
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.runs import RunFolder
from medcl.weights.load import build_regressor, build_segmenter
from medcl.weights.read import find_weights
from medcl.workflow.finetune import finetune
from medcl.workflow.inspection import inspect
from medcl.workflow.predict import predict
from medcl.workflow.pretrain import pretrain

TRAINER = {"device": "cpu", "log_every": 1}


@pytest.fixture(scope="module")
def table(small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort with the volumes of its labels as targets, and for every record a group and a side."""
    out = tmp_path_factory.mktemp("table")
    inspect(InspectConfig(data=small_cohort, out=out, label_volumes=True))
    manifest = Manifest.read(out / "manifest.jsonl")
    records = [
        replace(r, attributes={"group": ("control", "patient")[n % 2], "side": "lr"[n // 2 % 2]})
        for n, r in enumerate(manifest.records)
    ]
    replace(manifest, records=tuple(records)).write(out / "records.jsonl")
    return out / "records.jsonl"


def values(table: Path, out: Path, **more: Any) -> dict[str, Any]:
    return {
        "out": out,
        "data": {"path": table, "store": table.parent / "store", "test": 3},
        "recipe": {"patch": [16, 16, 16]},
        "trainer": TRAINER,
        **more,
    }


def regression(table: Path, out: Path, **more: Any) -> RegressionConfig:
    given = {"target": "foreground_mm3", "unit": "mm3", "steps": 3, "batch": 2, **more}
    return validate(RegressionConfig, values(table, out, **given))


def test_label_volumes_are_those_of_the_labels(small_cohort: Path, table: Path) -> None:
    record = open_data(table).records[0]
    label = nib.load(small_cohort / "labelsTr" / f"{record.id}.nii.gz")
    voxels, size = np.asarray(label.dataobj), abs(np.linalg.det(label.affine))
    assert record.targets == {
        "front_mm3": (voxels == 1).sum() * size,
        "back_mm3": (voxels == 2).sum() * size,
        "foreground_mm3": (voxels > 0).sum() * size,
    }


@pytest.fixture(scope="module")
def number_run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    contrast = {"name": "supremix", "unit": 200.0, "window": 5.0}
    out = tmp_path_factory.mktemp("number") / "run"
    return finetune(regression(table, out, contrast=contrast, views={"slots": 2}), progress=False)


def test_a_regression_scores_itself_beside_what_it_must_beat(number_run: RunFolder) -> None:
    scores = MethodScores.read(number_run.path / "scores.json")
    assert scores.records == number_run.read_facts()["test"]
    assert list(scores.scores) == ["this run", "mean of the training records"]  # 7 records are too few for a line
    rows = list(csv.DictReader((number_run.path / "predictions.csv").open()))
    errors = [abs(float(row["predicted"]) - float(row["true"])) for row in rows]
    assert scores.scores["this run"]["mae"].mean == pytest.approx(np.mean(errors), rel=1e-4)
    page = number_run.page.read_text()
    assert "foreground_mm3 in mm3 of 3 test records" in page
    assert "mean of the training records" in page
    assert {"mae", "contrast"} <= set(number_run.read_metrics()[-1])


def test_predicted_numbers_are_those_of_the_run_in_their_own_unit(
    number_run: RunFolder, small_cohort: Path, tmp_path: Path
) -> None:
    scored = {r["id"]: r["predicted"] for r in csv.DictReader((number_run.path / "predictions.csv").open())}
    config = {"runs": [number_run.path], "inputs": [small_cohort], "ids": list(scored), "out": tmp_path / "out"}
    found = predict(validate(PredictConfig, config))
    assert found.what == "numbers"
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert {row["id"]: row["predicted"] for row in rows} == scored
    assert {(row["target"], row["unit"]) for row in rows} == {("foreground_mm3", "mm3")}
    again = predict(validate(PredictConfig, {**config, "skip_existing": True}))
    assert (len(again.written), len(again.skipped)) == (0, 3)
    others = {"ids": None, "inputs": [small_cohort / "imagesTr" / "case_00.nii.gz"]}
    predict(validate(PredictConfig, {**config, **others}))
    assert len(list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))) == len({*scored, "case_00"})
    with pytest.raises(
        ConfigError, match="--tta, --probabilities and --uncertainty are for masks; these runs are of task=regression"
    ):
        predict(validate(PredictConfig, {**config, "tta": True}))


def test_its_weights_bring_their_scale_and_know_what_they_are(number_run: RunFolder, table: Path) -> None:
    weights = find_weights(number_run.path)
    regressor = build_regressor(weights)
    manifest = open_data(table)
    known = [manifest.by_id(id).targets["foreground_mm3"] for id in weights.card.records]
    assert float(regressor.head.mean) == pytest.approx(np.mean(known))
    assert float(regressor.head.scale) == pytest.approx(np.std(known))
    with pytest.raises(WeightsError, match="without a segmentation head"):
        build_segmenter(weights)


def test_a_regression_learns(table: Path, tmp_path: Path) -> None:
    """Told the same seven records again and again, the network knows their numbers better than their mean does."""
    views = {"spatial": None, "intensity": None, "patch": [24, 24, 24]}
    optimiser = {"lr": 2e-3, "warmup": 5}
    run = finetune(regression(table, tmp_path / "run", steps=60, batch=7, views=views, optimiser=optimiser))
    losses = [row["loss"] for row in run.read_metrics()]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"target": "age"}, DataError, r"0 labelled|case_\d+ has no target 'age' \(known of it: .*foreground_mm3"),
        (
            {"target": "group"},
            DataError,
            r"record case_\d+: its target 'group' is '(control|patient)', which is no number",
        ),
        ({"contrast": {"name": "supremix"}}, ConfigError, "contrast: supremix needs two views; set views.slots=2"),
        ({"contrast": {"name": "nt_xent"}}, ConfigError, "contrast: nt_xent is no objective of numbers; use supremix"),
        (
            {"data": {"labelled": 30}},
            DataError,
            "30 labelled records are asked for, but 7 of the training records have the ta",
        ),
    ],
)
def test_what_a_regression_cannot_learn_is_refused(
    more: dict[str, Any], kind: type[Exception], message: str, table: Path, tmp_path: Path
) -> None:
    given = regression(table, tmp_path / "run").model_dump(mode="json")
    given = {**given, **more, "data": {**given["data"], **more.get("data", {})}}
    with pytest.raises(kind, match=message):
        finetune(validate(RegressionConfig, given))
    assert not (tmp_path / "run" / "weights").exists()


def test_supremix_pretrains_on_numbers_and_is_refused_without(table: Path, tmp_path: Path) -> None:
    stages = [{"name": "numbers", "steps": 2, "batch": 4, "terms": [{"head": {"name": "projection", "out": 8}}]}]
    given = values(table, tmp_path / "run", stages=stages, objective={"name": "supremix", "unit": 200.0})
    with pytest.raises(ConfigError, match=r"terms\.0 \(supremix\): needs a number for every record; set targets to"):
        pretrain(validate(PretrainConfig, given))
    with pytest.raises(DataError, match=r"record case_\d+ has no target 'age'"):
        pretrain(validate(PretrainConfig, {**given, "targets": "age", "out": tmp_path / "age"}))
    run = pretrain(validate(PretrainConfig, {**given, "targets": "foreground_mm3"}), progress=False)
    tuned = finetune(regression(table, tmp_path / "tuned", init=run.path), progress=False)
    assert tuned.read_facts()["load_report"]["random"] == []


def finer(table: Path, out: Path, **more: Any) -> SuperResolutionConfig:
    given = {"steps": 4, "batch": 2, "contrast": {"begin": 0.5, "channels": 4}, **more}
    return validate(SuperResolutionConfig, values(table, out, **given))


@pytest.fixture(scope="module")
def finer_run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finetune(finer(table, tmp_path_factory.mktemp("finer") / "run"), progress=False)


def test_a_super_resolution_scores_itself_beside_interpolation(finer_run: RunFolder) -> None:
    scores = MethodScores.read(finer_run.path / "scores.json")
    assert list(scores.scores) == ["this run", "linear interpolation", "cubic interpolation"]
    assert all(20 < scores.scores[m]["psnr"].mean < 60 and 0 < scores.scores[m]["ssim"].mean < 1 for m in scores.scores)
    assert len(list(csv.DictReader((finer_run.path / "scores.csv").open()))) == 9
    assert "linear interpolation" in finer_run.page.read_text()
    rows = finer_run.read_metrics()
    assert ["contrast" in row for row in rows] == [False, False, True, True]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_a_finer_volume_covers_the_extent_of_the_scan(
    codes: str, finer_run: RunFolder, small_cohort: Path, tmp_path: Path
) -> None:
    scan = nib.load(small_cohort / "imagesTr" / "case_00.nii.gz")
    oriented = scan.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(scan.affine), nib.orientations.axcodes2ornt(codes))
    )
    nib.save(oriented, tmp_path / "scan.nii.gz")
    config = {"runs": [finer_run.path], "inputs": [tmp_path / "scan.nii.gz"], "out": tmp_path / "out"}
    assert predict(validate(PredictConfig, config)).what == "volumes"
    found = nib.load(tmp_path / "out" / "scan.nii.gz")
    times = [2 if code in "SI" else 1 for code in codes]
    assert found.shape == tuple(n * t for n, t in zip(oriented.shape, times, strict=True))
    assert nib.aff2axcodes(found.affine) == tuple(codes)
    np.testing.assert_allclose(found.header.get_zooms(), np.divide(1.0, times))
    for corner in (np.zeros(3), np.ones(3)):  # edges of the voxels, not their centres
        edge, fine = (corner * np.array(image.shape) - 0.5 for image in (oriented, found))
        np.testing.assert_allclose(
            nib.affines.apply_affine(found.affine, fine), nib.affines.apply_affine(oriented.affine, edge)
        )
    # the mean of two fine slices is near the thick one, on the scan's own intensity scale
    axis = times.index(2)
    voxels = np.moveaxis(np.asarray(found.dataobj), axis, -1)
    back = np.moveaxis(voxels.reshape(*voxels.shape[:-1], -1, 2).mean(-1), -1, axis)
    assert np.corrcoef(back.ravel(), oriented.get_fdata().ravel())[0, 1] > 0.95


def test_the_orientation_of_a_scan_does_not_change_its_finer_volume(
    finer_run: RunFolder, small_cohort: Path, tmp_path: Path
) -> None:
    scan = nib.load(small_cohort / "imagesTr" / "case_01.nii.gz")
    turned = scan.as_reoriented(nib.orientations.ornt_transform([[0, 1], [1, 1], [2, 1]], [[1, -1], [2, 1], [0, 1]]))
    for name, image in (("as_it_is", scan), ("turned", turned)):
        nib.save(image, tmp_path / f"{name}.nii.gz")
        config = {"runs": [finer_run.path], "inputs": [tmp_path / f"{name}.nii.gz"], "out": tmp_path / "out"}
        predict(validate(PredictConfig, config))
    first, second = (
        nib.as_closest_canonical(nib.load(tmp_path / "out" / f"{n}.nii.gz")) for n in ("as_it_is", "turned")
    )
    np.testing.assert_allclose(first.affine, second.affine)
    np.testing.assert_allclose(first.get_fdata(), second.get_fdata(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"factor": [1, 1, 3]}, r"views\.patch: \[16, 16, 16\] is no multiple of factor \[1, 1, 3\] along z"),
        ({"views": {"patch": [16, 16, 8]}}, "has a side under 16 voxels, too small for the contrast"),
        ({"encoder": {"name": "residual_unet", "dims": 2}}, "finer along z, but a network of two dimensions"),
    ],
)
def test_what_cannot_be_restored_is_refused(more: dict[str, Any], message: str, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        finetune(finer(table, tmp_path / "run", **more))


def test_masks_and_numbers_are_not_predicted_together(
    number_run: RunFolder, finer_run: RunFolder, tmp_path: Path
) -> None:
    config = {"runs": [number_run.path, finer_run.path], "inputs": [tmp_path], "out": tmp_path / "out"}
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(ConfigError, match=r"the runs are of different tasks \(regression, super_resolution\)"):
        predict(validate(PredictConfig, config))


def separate(table: Path, out: Path, **more: Any) -> PretrainConfig:
    stage = {
        "name": "separate",
        "steps": 3,
        "batch": 4,
        "balanced": True,
        "terms": [{"head": {"name": "projection", "hidden": 16, "out": 12}}],
    }
    given = {"stages": [stage], "objective": {"name": "sepclr", "salient": 4}, "classes": "group", **more}
    return validate(PretrainConfig, values(table, out, **given))


def test_sepclr_separates_codes_and_probes_them(table: Path, tmp_path: Path) -> None:
    run = pretrain(separate(table, tmp_path / "run", probe=["group", "side"]), progress=False)
    assert {"salient_align", "silence", "k_jem"} <= set(run.read_metrics()[-1])
    scores = MethodScores.read(run.path / "scores_separate_side.json")
    layers = ["pooled", "encoder.0", "encoder.1", "decoder.0", "decoder.1"]
    assert list(scores.scores) == [*layers, "sepclr head.0", "common code", "salient code"]
    assert all(0 <= scores.scores[kind]["accuracy"].mean <= 1 for kind in scores.scores)
    page = run.page.read_text()
    assert "side by a linear probe, separate: 3 test records" in page
    assert "group by a linear probe" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": None}, r"stages\.0\.balanced: needs classes"),
        ({"probe": ["age"]}, "probe: no training record has a target or attribute 'age'"),
        ({"objective": {"name": "sepclr", "salient": 12}}, "leaves no common code of the head's 12 channels"),
        (
            {"objective": {"name": "sepclr", "salient": 4, "controls": "healthy"}},
            "controls=healthy is no class beside others",
        ),
    ],
)
def test_what_cannot_be_separated_is_refused(more: dict[str, Any], message: str, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(separate(table, tmp_path / "run", **more))
    assert not (tmp_path / "run" / "metrics.jsonl").is_file()


@pytest.mark.slow
def test_the_command_line_takes_the_task(table: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "medcl.cli.main",
        "finetune",
        "configs/finetune/regress.yaml",
        f"data.path={table}",
    ]
    command += [
        f"data.store={table.parent / 'store'}",
        "data.test=3",
        "recipe.patch=[16,16,16]",
        f"out={tmp_path / 'run'}",
    ]
    done = subprocess.run([*command, "steps=2", "trainer.device=cpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "this run: mean absolute error in mm3" in done.stdout + done.stderr
    wrong = subprocess.run([*command, "target=age"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_gradients_of_the_contrast_reach_the_restored_view_only(
    finer_run: RunFolder, table: Path, tmp_path: Path
) -> None:
    from medcl.encoders.build import build_encoder
    from medcl.encoders.restorer import Restorer
    from medcl.preparation.store import Store
    from medcl.tasks.super_resolution import SuperResolutionTask
    from medcl.views.sampler import ViewSampler

    config = finer(table, tmp_path / "run")
    store = Store(table.parent / "store")
    sampler = ViewSampler(store, store.ids[:3], config.views, patch=(16, 16, 16), batch=2, seed=0, labels=False)
    task = SuperResolutionTask(Restorer(build_encoder(config.encoder, 1, (16, 16, 16))), config, sampler)
    sharp = torch.randn(2, 1, 16, 16, 16, requires_grad=True)
    coarse, restored = (torch.randn(2, 1, 16, 16, 16, requires_grad=True) for _ in range(2))
    loss = task._contrast(config.contrast, restored, sharp, coarse, 0)
    loss.backward()
    assert restored.grad.abs().sum() > 0
    assert sharp.grad is None
    assert coarse.grad is None
    assert all(p.grad is None for p in task.discriminator.parameters())
    torch.manual_seed(5)
    again = task._contrast(config.contrast, restored, sharp, coarse, 0)
    assert again.equal(loss)  # its copies follow from the batch's number
    assert not task._contrast(config.contrast, restored, sharp, coarse, 1).equal(loss)
