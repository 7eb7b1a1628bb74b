"""Several processes on one output folder: nothing is lost, half written or done twice, and it ends as one process would have ended."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import study_standins
import torch
import yaml
from typer.testing import CliRunner

import medcl.objectives
from medcl.cli.main import app
from medcl.config.encoder import ResidualEncoderConfig
from medcl.config.shard import Shard
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.errors import ConfigError
from medcl.preparation.recipe import Recipe
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.runs import RunFolder
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights
from medcl.workflow.pipeline import run_shard
from medcl.workflow.shards import beside_shards

ENCODER = ResidualEncoderConfig(size="tiny")
BUSY = "another medcl process is writing here"


def medcl(*arguments: object) -> str:
    """The output of a command that ends well."""
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    return done.output


def refused(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert isinstance(done.exception, ConfigError), f"{done.output}\n{done.exception!r}"
    (line,) = done.exception.problems
    return line


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medcl.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def files(folder: Path, pattern: str = "*.nii.gz") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob(pattern)) if not path.name.startswith(".")}


def times(folder: Path, pattern: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def rows(table: Path) -> list[list[str]]:
    with open(table, newline="") as stream:
        return sorted(csv.reader(stream))


def untrained(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    segmenter = Segmenter(build_encoder(ENCODER, 1, (16, 16, 16)), 3)
    card = WeightsCard(encoder=ENCODER, in_channels=1, classes=3, stage="finetuned", training={})
    recipe = Recipe(
        spacing=(1.0, 1.0, 1.0), patch=(16, 16, 16), channels=("MRI",), labels={0: "no", 1: "front", 2: "back"}
    )
    save_weights(folder / "weights", segmenter, card, recipe)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("runs") / "one", seed=0)


@pytest.fixture(scope="module")
def whole(run: Path, small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a single process predicts."""
    out = tmp_path_factory.mktemp("whole") / "masks"
    medcl("predict", run, small_cohort / "imagesTr", "--out", out, "--device", "cpu", "--uncertainty")
    return out


class TestPredict:
    def test_shards_one_after_another_end_as_one_process(
        self, run: Path, whole: Path, small_cohort: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "masks"
        command = ["predict", run, small_cohort / "imagesTr", "--out", out, "--device", "cpu", "--uncertainty"]
        told = [medcl(*command, "--shard", f"{number}/3") for number in (1, 2, 3)]
        assert [line.split()[0] for line in told] == ["4", "3", "3"]
        assert files(out) == files(whole), "the masks are where they belong before anything is gathered"
        assert not (out / "quality.csv").exists()
        again = medcl(*command, "--shard", "2/3")
        assert again.startswith("0 masks written")
        assert "3 already there" in again
        other = medcl(*command, "--shard", "1/2")  # another number of shards finds what is there
        assert other.startswith("0 masks written")
        before = times(out, "*.nii.gz")
        assert medcl(*command).startswith("0 masks written")
        assert times(out, "*.nii.gz") == before
        assert files(out / "entropy") == files(whole / "entropy")
        assert rows(out / "quality.csv") == rows(whole / "quality.csv")
        assert "Which masks to check first" in (out / "page.html").read_text()
        assert not (out / "shards").exists()
        facts = RunFolder(out).read_facts()
        assert facts["status"] == "finished"
        assert sorted(facts["shards"]) == ["1-of-2", "1-of-3", "2-of-3", "3-of-3"]
        assert medcl(*command).startswith("10 masks written"), "with nothing to gather it is an ordinary call again"

    def test_the_call_without_a_shard_does_what_is_left(
        self, run: Path, whole: Path, small_cohort: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "masks"
        command = ["predict", run, small_cohort / "imagesTr", "--out", out, "--device", "cpu"]
        medcl(*command, "--shard", "2/3")
        (out / "case_01.nii.gz").unlink()
        (out / "shards" / "mine").mkdir()
        assert medcl(*command).startswith("8 masks written")
        assert [path.name for path in (out / "shards").iterdir()] == ["mine"], "nothing of others is removed"
        assert files(out) == files(whole)
        assert rows(out / "quality.csv") == rows(whole / "quality.csv")

    @pytest.mark.slow
    def test_two_at_once_and_one_of_them_is_killed(
        self, run: Path, whole: Path, small_cohort: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "masks"
        command = ["predict", run, small_cohort / "imagesTr", "--out", out, "--device", "cpu"]
        first, second = (start(*command, "--shard", f"{number}/2") for number in (1, 2))
        limit = time.monotonic() + 120
        while time.monotonic() < limit and not list((out / "shards" / "1-of-2").glob("quality.csv")):
            time.sleep(0.005)
        os.kill(first.pid, signal.SIGKILL)
        first.communicate()
        output, _ = second.communicate(timeout=120)
        assert second.returncode == 0, output
        assert output.startswith("5 masks written")
        assert files(out).items() <= files(whole).items()
        medcl(*command)
        assert files(out) == files(whole)
        assert rows(out / "quality.csv") == rows(whole / "quality.csv")
        assert not list(out.glob("**/.part-*"))

    def test_who_wants_the_folder_alone_waits_for_shards_and_they_for_it(
        self, run: Path, small_cohort: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "masks"
        command = ["predict", run, small_cohort / "imagesTr" / "case_00.nii.gz", "--out", out, "--device", "cpu"]
        with beside_shards(out):
            assert BUSY in refused(*command)
            medcl(*command, "--shard", "1/2")  # beside another shard
        with RunFolder(out)._locked():
            assert BUSY in refused(*command, "--shard", "1/2")

    def test_shards_of_different_networks_never_mix(self, run: Path, small_cohort: Path, tmp_path: Path) -> None:
        out, scan = tmp_path / "masks", small_cohort / "imagesTr" / "case_00.nii.gz"
        other = untrained(tmp_path / "other", seed=1)
        medcl("predict", run, scan, "--out", out, "--device", "cpu", "--shard", "1/2")
        for shard in (["--shard", "2/2"], ["--shard", "1/2"], []):
            line = refused("predict", other, scan, "--out", out, "--device", "cpu", *shard)
            assert line.endswith("holds a run with another configuration; choose another --out or remove it")
        assert rows(out / "shards" / "1-of-2" / "quality.csv"), "what is there stays"
        medcl("predict", run, scan, "--out", out, "--device", "cpu", "--shard", "2/2")

    def test_a_bad_scan_is_named_by_its_shard_and_tried_again_at_the_end(
        self, run: Path, small_cohort: Path, tmp_path: Path
    ) -> None:
        scans, out = tmp_path / "scans", tmp_path / "masks"
        shutil.copytree(small_cohort / "imagesTr", scans)
        (scans / "case_00.nii.gz").write_bytes(b"nothing of the kind")
        command = ["predict", str(run), str(scans), "--out", str(out), "--device", "cpu"]
        for shard, code in ((["--shard", "1/2"], 1), (["--shard", "2/2"], 0), ([], 1)):
            done = CliRunner().invoke(app, [*command, *shard])
            assert done.exit_code == code, done.output
            assert ("1 of the scans could not be predicted: case_00" in done.stderr) == bool(code)
        assert len(files(out)) == 9

    @pytest.mark.slow
    def test_numbers_of_shards_end_in_one_table(self, small_cohort: Path, tmp_path: Path) -> None:
        manifest = open_data(small_cohort)
        records = [replace(each, targets={"size": 3.0 + n}) for n, each in enumerate(manifest.records)]
        replace(manifest, records=tuple(records)).write(tmp_path / "records.jsonl")
        config = {"task": "regression", "target": "size", "steps": 2, "batch": 2, "recipe": {"patch": [16, 16, 16]}}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        data = [f"data.path={tmp_path / 'records.jsonl'}", "trainer.device=cpu", f"out={tmp_path / 'run'}"]
        medcl("finetune", tmp_path / "config.yaml", *data)
        command = ["predict", tmp_path / "run", small_cohort, "--device", "cpu", "--out"]
        medcl(*command, tmp_path / "whole")
        for number in (1, 2):
            medcl(*command, tmp_path / "numbers", "--shard", f"{number}/2")
        assert medcl(*command, tmp_path / "numbers", "--shard", "1/3").startswith("0 numbers written")
        assert medcl(*command, tmp_path / "numbers").startswith("0 numbers written")
        assert rows(tmp_path / "numbers" / "predictions.csv") == rows(tmp_path / "whole" / "predictions.csv")
        assert medcl(*command, tmp_path / "numbers", "--shard", "2/3").startswith("0 numbers written")


class TestPrepare:
    def test_shards_end_in_the_store_of_one_process(self, small_cohort: Path, tmp_path: Path) -> None:
        out = tmp_path / "shared"
        command = ["prepare", small_cohort, "data.test=2", "recipe.spacing=[1.5,1.5,1.5]", "--out"]
        medcl(*command, tmp_path / "alone")
        told = [medcl(*command, out, "--shard", f"{number}/3") for number in (3, 1, 2)]
        assert "training records" in told[0]
        assert "training records" not in told[1] + told[2], "the volumes are looked at once"
        before = times(out, "shards/*/arrays/*/data.npy")
        assert "prepared: 10 records" in medcl(*command, out)
        alone, shared = Store(tmp_path / "alone"), Store(out)
        assert shared.recipe == alone.recipe
        assert shared._rows == alone._rows
        assert shared.verify() == []
        assert times(out, "arrays/*/data.npy") == before, "nothing was prepared again"
        assert not (out / "shards").exists()
        assert (out / "recipe.yaml").read_bytes() == (tmp_path / "alone" / "recipe.yaml").read_bytes()
        assert json.loads((out / "index.json").read_text()) == json.loads(
            (tmp_path / "alone" / "index.json").read_text()
        )

    def test_a_store_that_grows_is_not_prepared_again(self, small_cohort: Path, tmp_path: Path) -> None:
        data, out = tmp_path / "data", tmp_path / "prepared"
        shutil.copytree(small_cohort / "imagesTr", data)
        (data / "case_09.nii.gz").rename(tmp_path / "case_09.nii.gz")
        command = ["prepare", data, "recipe.spacing=[1,1,1]", "recipe.patch=[16,16,16]", "--out", out]
        fixed = [*command, "recipe.intensity=mr"]
        medcl(*fixed)
        before = times(out, "arrays/*/data.npy")
        shutil.move(tmp_path / "case_09.nii.gz", data)
        for number in (1, 2):
            medcl(*fixed, "--shard", f"{number}/2")
        made = [path for path in out.glob("shards/*/arrays/*") if not path.is_symlink()]
        assert len(made) == 1
        medcl(*fixed)
        assert {key: value for key, value in times(out, "arrays/*/data.npy").items() if key in before} == before
        assert len(Store(out)) == 10
        assert Store(out).verify() == []

    def test_what_shards_left_undone_is_done_at_the_end(self, small_cohort: Path, tmp_path: Path) -> None:
        out = tmp_path / "prepared"
        medcl("prepare", small_cohort, "--out", out, "--recipe-only")
        assert "training records" not in medcl("prepare", small_cohort, "--out", out, "--shard", "2/2")
        shutil.rmtree(next((out / "shards" / "2-of-2" / "arrays").iterdir()))
        medcl("prepare", small_cohort, "--out", out)
        assert len(Store(out)) == 10
        assert Store(out).verify() == []

    @pytest.mark.slow
    def test_two_at_once_look_at_the_volumes_once(self, small_cohort: Path, tmp_path: Path) -> None:
        out = tmp_path / "prepared"
        both = [start("prepare", small_cohort, "--out", out, "--shard", f"{number}/2") for number in (1, 2)]
        outputs = [each.communicate(timeout=120)[0] for each in both]
        assert [each.returncode for each in both] == [0, 0], outputs
        assert sum("training records" in output for output in outputs) == 1
        medcl("prepare", small_cohort, "--out", out)
        assert Store(out).verify() == []
        assert len(Store(out)) == 10


class TestRun:
    @pytest.fixture(scope="class")
    def cohort(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return study_standins.write_cohort(tmp_path_factory.mktemp("cohort") / "data")

    def test_two_passes_and_an_end(self, cohort: Path, tmp_path: Path) -> None:
        config = study_standins.pipeline(cohort, tmp_path / "shared")
        own = (study_standins.prepare, study_standins.COMMANDS)
        first = [run_shard(config, Shard(number, 2), *own) for number in (1, 2)]
        names = [outcome.name for outcomes, _ in first for outcome in outcomes]
        assert all(outcome.state == "finished" for outcomes, _ in first for outcome in outcomes)
        assert "pretrain/pretrained" in names
        assert len(names) == len(set(names))
        waiting = [name for _, waiting in first for name in waiting]
        second = [run_shard(config, Shard(number, 2), *own) for number in (1, 2)]
        assert sorted(outcome.name for outcomes, _ in second for outcome in outcomes) == sorted(waiting)
        assert not any(waiting for _, waiting in second)
        before = study_standins.calls(config.out)
        ended = study_standins.go(config)
        assert study_standins.calls(config.out) == before, "nothing was left to do but the table and the page"
        alone = study_standins.go(study_standins.pipeline(cohort, tmp_path / "alone"))
        assert [row.dice for row in ended.rows] == [row.dice for row in alone.rows]
        assert not (config.out / "shards").exists()

    def test_pupils_wait_for_teachers_of_other_shards(self, cohort: Path, tmp_path: Path) -> None:
        section = {"pretrain": {"stages": [study_standins.STAGE]}}
        arms = {"scratch": {}, "pupil": {"teacher": "large"}, "large": {**section, "encoder": {"size": "base"}}}
        config = study_standins.pipeline(cohort, tmp_path / "shared", arms=arms, grid={"labelled": [2], "subsets": 2})
        ran: list[str] = []
        for _ in range(3):  # a pretraining, then teachers, then pupils
            for number in (1, 2):
                outcomes, _ = run_shard(config, Shard(number, 2), study_standins.prepare, study_standins.COMMANDS)
                assert all(outcome.state == "finished" for outcome in outcomes)
                ran += [outcome.name for outcome in outcomes]
        assert len(ran) == len(set(ran)) == 1 + 3 * 2
        for subset in (0, 1):
            teacher, pupil = (ran.index(f"cells/{arm}/n2-s{subset}-r0") for arm in ("large", "pupil"))
            assert ran.index("pretrain/large") < teacher < pupil

    def test_the_command_names_what_ran_and_what_waits(self, cohort: Path, tmp_path: Path) -> None:
        out = tmp_path / "study"
        values = {"name": "small", "out": str(out), "data": {"path": str(cohort), "test": 2}}
        section = {"steps": 2, "batch": 2, "trainer": {"threads": 1, "device": "cpu"}}
        values |= {"recipe": {"patch": [16, 16, 16]}, "finetune": section, "arms": {"scratch": {}}}
        values |= {"grid": {"labelled": [1], "subsets": 2}, "compare": {"resamples": 100}}
        (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(values))
        told = medcl("run", tmp_path / "pipeline.yaml", "--shard", "2/2")
        assert "cells/scratch/n1-s1-r0: finished" in told
        assert "shard 2/2: 1 runs, 0 failed; the same command without --shard ends the study" in told
        assert "page: " in medcl("run", tmp_path / "pipeline.yaml")
        assert not (out / "shards").exists()
        with beside_shards(out):
            assert BUSY in refused("run", tmp_path / "pipeline.yaml")
