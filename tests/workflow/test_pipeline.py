"""A pipeline resumes, skips, repeats what changed, and survives what fails. Real processes; training is a stand-in."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import study_standins
from study_standins import STAGE, go, only, pipeline, states

import medcl.objectives  # noqa: F401  (arms name objectives)
from medcl.config.load import load_config
from medcl.config.pipeline import PipelineConfig
from medcl.config.show import commented
from medcl.errors import ConfigError, DataError
from medcl.runs import dump_config
from medcl.workflow.pipeline import Watcher, run
from medcl.workflow.plan import digest, identity, make_plan

TAUGHT: dict[str, dict[str, object]] = {
    "scratch": {},
    "pupil": {"teacher": "large", "finetune": {"distil": {"temperature": 2.0}}},
    "large": {"encoder": {"size": "base"}},
}
"""Arms of which one learns from another that stands after it."""


def read_table(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "table.csv").open()))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_standins.write_cohort(tmp_path_factory.mktemp("cohort") / "data")


class TestPlan:
    def test_a_grid_has_every_combination_and_all_has_one_subset(self, cohort: Path, tmp_path: Path) -> None:
        plan = make_plan(pipeline(cohort, tmp_path, grid={"labelled": [1, 2, "all"], "subsets": 3, "seeds": [0, 1]}))
        assert len(plan.cells) == 3 * 2 * (3 + 3 + 1)
        assert len({cell.folder for cell in plan.cells}) == len(plan.cells)
        cell = next(cell for cell in plan.cells if cell.name == "cells/mixed/n2-s1-r1")
        assert (cell.config.data.labelled, cell.config.data.subset, cell.config.seed) == (2, 1, 1)
        assert cell.config.mixup == 0.1
        assert cell.config.init == tmp_path / "pretrain" / "pretrained"

    def test_arms_with_the_same_pretraining_share_it(self, cohort: Path, tmp_path: Path) -> None:
        assert [p.name for p in make_plan(pipeline(cohort, tmp_path)).pretrainings] == ["pretrain/pretrained"]

    def test_a_pretraining_for_every_seed(self, cohort: Path, tmp_path: Path) -> None:
        grid = {"labelled": [2], "subsets": 1, "seeds": [3, 4], "pretrain_per_seed": True}
        plan = make_plan(pipeline(cohort, tmp_path, grid=grid))
        assert [p.config.seed for p in plan.pretrainings] == [3, 4]
        for cell in plan.cells:
            assert cell.pretraining is None or cell.pretraining.config.seed == cell.seed

    def test_an_arm_that_sees_labelled_images_only_has_a_pretraining_for_every_labelled_subset(
        self, cohort: Path, tmp_path: Path
    ) -> None:
        section = {"pretrain": {"stages": [STAGE]}}
        arms = {
            "scratch": {},
            "fixed": section,
            "own": {**section, "pool": "labelled"},
            "again": {**section, "pool": "labelled"},
        }
        plan = make_plan(
            pipeline(cohort, tmp_path, arms=arms, grid={"labelled": [1, "all"], "subsets": 2, "seeds": [0, 1]})
        )
        assert [p.name for p in plan.pretrainings] == [
            "pretrain/fixed", "pretrain/own.n1-s0", "pretrain/own.n1-s1", "pretrain/own.nall-s0",
        ]  # fmt: skip
        for cell in plan.cells:
            if cell.arm in ("own", "again"):
                data, seen = cell.config.data, cell.pretraining.config.data
                assert (seen.pool, seen.labelled, seen.subset) == ("labelled", data.labelled, data.subset)
            elif cell.arm == "fixed":
                assert cell.pretraining.config.data.pool == "fixed"

    def test_an_arm_may_have_labelled_counts_of_its_own(self, cohort: Path, tmp_path: Path) -> None:
        arms = {"scratch": {"labelled": [2, "all"]}, "mixed": {"finetune": {"mixup": 0.1}}}
        result = go(pipeline(cohort, tmp_path, arms=arms, grid={"labelled": [2], "subsets": 2}))
        assert [(row.arm, row.labelled) for row in result.rows] == [("scratch", 2), ("mixed", 2), ("scratch", "all")]
        assert result.rows[1].share == pytest.approx(result.rows[1].dice / result.rows[2].dice)
        assert result.rows[1].worth is not None

    def test_a_teacher_is_the_cell_of_the_same_labels_seed_and_steps(self, cohort: Path, tmp_path: Path) -> None:
        grid = {"labelled": [1, 2], "subsets": 2, "seeds": [0, 1], "steps": [10, 20]}
        plan = make_plan(pipeline(cohort, tmp_path, arms=TAUGHT, grid=grid))
        taught = [cell for cell in plan.cells if cell.arm == "pupil"]
        assert len(taught) == 2 * 2 * 2 * 2
        for cell in taught:
            assert cell.teacher.name == cell.name.replace("pupil", "large")
            assert cell.config.distil.teacher == cell.teacher.folder
            assert (cell.config.distil.temperature, cell.config.encoder.size) == (2.0, "tiny")
            assert (cell.teacher.config.distil, cell.teacher.config.encoder.size) == (None, "base")
            assert cell.teacher.config.steps == cell.config.steps

    def test_a_named_split_has_its_own_numbers_of_subsets(self, cohort: Path, tmp_path: Path) -> None:
        data = {"path": cohort, "split": "mmwhs_2020"}
        grid = {"labelled": [1, 2, 8], "subsets": 5}
        plan = make_plan(pipeline(cohort, tmp_path, data=data, grid=grid, arms={"scratch": {}}))
        subsets = [(cell.labelled, cell.subset) for cell in plan.cells]
        assert sorted(subsets) == [(count, k) for count, of in ((1, 5), (2, 4), (8, 3)) for k in range(of)]
        with pytest.raises(ConfigError, match=r"mmwhs_2020 has no labelled subset of all; it has 1, 2, 8"):
            make_plan(pipeline(cohort, tmp_path, data=data, grid={"labelled": [1, "all"]}))

    def test_the_written_configuration_is_a_pipeline_again(self, cohort: Path, tmp_path: Path) -> None:
        config = pipeline(cohort, tmp_path)
        (tmp_path / "config.yaml").write_text(dump_config(config))
        assert load_config(PipelineConfig, tmp_path / "config.yaml") == config

    def test_keys_that_came_later_leave_the_identity_of_finished_runs(self, cohort: Path, tmp_path: Path) -> None:
        for run_ in (*make_plan(pipeline(cohort, tmp_path)).cells, *make_plan(pipeline(cohort, tmp_path)).pretrainings):
            values = run_.config.model_dump(mode="json", exclude={"out", "init"})
            for key in ("path", "labels", "store", "pool", "split", "count"):
                del values["data"][key]
            for key in ("device", "workers", "threads", "checkpoint_every", "log_every"):
                del values["trainer"][key]
            values.pop("encoder_lr_decay", None)
            del values["recipe"]["convention"]
            for section in (values, *values.get("stages", ())):
                for key in ("betas", "eps") if "optimiser" in section else ():
                    del section["optimiser"][key]
            assert identity(run_.config, "data") == digest(values, "data", None)

    def test_shared_sections_files_and_arms_are_laid_over_each_other(self, cohort: Path, tmp_path: Path) -> None:
        arms = {
            "both": {"pretrain": {"stages": {0: {"steps": 7}}}},
            "first": {"pretrain": {"stages": {1: None}}},
            "other": {"pretrain": {"config": "configs/pretrain/hippocampus.yaml"}},
        }
        shared = {"config": "configs/pretrain/hippocampus_global_local.yaml", "trainer": {"log_every": 3}}
        plan = make_plan(pipeline(cohort, tmp_path, arms=arms, pretrain=shared))
        both, first, other = (p.config for p in plan.pretrainings)
        assert [stage.name for stage in both.stages] == ["global", "local"]
        assert both.stages[0].steps == 7
        assert both.stages[0].terms == first.stages[0].terms
        assert [stage.name for stage in first.stages] == ["global"]
        assert [stage.name for stage in other.stages] == ["masked"]
        assert {config.trainer.log_every for config in (both, first, other)} == {3}
        shorter = pipeline(cohort, tmp_path, arms=arms, pretrain={**shared, "stages": {0: {"steps": 9}}})
        assert [p.config.stages[0].steps for p in make_plan(shorter).pretrainings] == [7, 9, 9]
        assert both.trainer.checkpoint_every == 250, "a mapping is laid over key by key"

    def test_some_arms_run_with_the_baseline_and_unknown_ones_are_named(self, cohort: Path, tmp_path: Path) -> None:
        config = pipeline(cohort, tmp_path, arms={"scratch": {}, "long": {}, "wide": {}})
        assert list(config.only(["wide"]).arms) == ["scratch", "wide"]
        with pytest.raises(ConfigError, match=r"no arm 'wied' in .*; the arms are scratch, long, wide"):
            config.only(["wide", "wied"])

    def test_every_wrong_key_of_every_arm_is_named_before_anything_runs(self, cohort: Path, tmp_path: Path) -> None:
        arms = {
            "a": {"finetune": {"stepz": 3}},
            "b": {"pretrain": {"stages": [{**STAGE, "steps": 0}]}, "finetune": {"init": "x"}},
            "c": {"pretrain": {"stages": [STAGE], "out": "elsewhere"}},
        }
        with pytest.raises(ConfigError) as caught:
            go(pipeline(cohort, tmp_path, arms=arms, finetune={"batch": 0}))
        text = "\n".join(caught.value.problems)
        assert "arms.a.finetune.stepz: no such key; did you mean 'steps'?" in text
        assert "finetune.batch: " in text
        assert "arms.b.pretrain.stages.0.steps: " in text
        assert "arms.c.pretrain.out: is set by the pipeline" in text
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"compare": {"baseline": "scrach"}}, "no arm 'scrach'"),
            ({"compare": {"at": 8}}, "8 is not among the labelled counts of scratch"),
            ({"grid": {"labelled": [2, 2]}}, "names a value twice"),
            ({"arms": {"With Space": {}}}, "pattern"),
            ({"arms": {"scratch": {"pool": "labelled"}}}, "this arm has none"),
            ({"arms": {"pupil": {"teacher": "larg"}}}, "no arm 'larg'"),
            ({"arms": {"a": {"teacher": "b"}, "b": {"teacher": "a"}}}, "a learns from b learns from a"),
            (
                {"arms": {"a": {"labelled": [1]}, "b": {"teacher": "a"}}, "compare": {"at": 1}},
                "add it to arms.a.labelled",
            ),
            ({"data": {"path": "x", "pool": "labelled"}}, "set pool of an arm instead"),
            ({"data": {"path": "x", "labelled": 3}}, "set grid.labelled instead"),
            ({"data": {"path": "x", "split": "acdc_2020"}, "evaluate": {"on": "validation"}}, "score on test"),
        ],
    )
    def test_inconsistent_pipelines_are_refused(
        self, cohort: Path, tmp_path: Path, changes: dict[str, object], said: str
    ) -> None:
        with pytest.raises(ConfigError, match=said):
            pipeline(cohort, tmp_path, **changes)

    def test_a_pool_that_leaves_nothing_to_learn_from_is_refused(self, cohort: Path, tmp_path: Path) -> None:
        many = {**STAGE, "views": {"centre": {"name": "partition", "volumes": 2}}}
        arms = {
            "teacher": {
                "pretrain": {"stages": [STAGE]}, "finetune": {"unlabelled": {"name": "mean_teacher"}}, "pool": "labelled"
            },
            "two": {"pretrain": {"stages": [many]}, "pool": "labelled"},
        }  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            make_plan(pipeline(cohort, tmp_path, arms=arms, grid={"labelled": [1, 2]}))
        text = "\n".join(caught.value.problems)
        assert "mean_teacher learns from records without labels, but with the pool 'labelled' it may see none" in text
        assert "arms.two.pool: a pretraining on 1 labelled sees 1, but stage 'global' draws 2 volumes" in text

    @pytest.mark.parametrize(
        "shipped", sorted(Path(__file__).parents[2].glob("pipelines/**/*.yaml")), ids=lambda p: p.stem
    )
    def test_shipped_pipelines_resolve_and_can_be_printed(self, shipped: Path, tmp_path: Path) -> None:
        config = load_config(PipelineConfig, shipped)
        assert make_plan(config).cells
        (tmp_path / "printed.yaml").write_text(commented(config))
        assert load_config(PipelineConfig, tmp_path / "printed.yaml") == config


class TestRunning:
    def test_a_study_end_to_end_then_skipped_then_repeated_where_it_changed(self, cohort: Path, tmp_path: Path) -> None:
        config = pipeline(cohort, tmp_path)
        result = go(config)
        assert set(states(result).values()) == {"finished"}
        assert len(result.outcomes) == 1 + 3 * 3
        table = read_table(tmp_path)
        assert [(row["labelled"], row["arm"]) for row in table] == [
            (count, arm) for count in ("2", "all") for arm in ("scratch", "pretrained", "mixed")
        ]
        assert json.loads((tmp_path / "run.json").read_text())["status"] == "finished"
        assert result.page.is_file()
        study = json.loads((tmp_path / "study.json").read_text())
        assert len(study["data"]["subsets"]["n2-s0"]) == 2
        assert len(study["data"]["subsets"]["all"]) == 16 - 4 - 2

        before = study_standins.calls(tmp_path)
        assert before.count("finetune mixed/n2-s0-r0") == 1
        again = go(config)
        assert set(states(again).values()) == {"skipped"}
        assert study_standins.calls(tmp_path) == before, "finished cells are not run again"
        assert again.rows == result.rows

        # another tolerance: scored again, nothing trained; another mixup: that arm only
        config = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"tolerance": 2.0})})
        go(config)
        assert study_standins.calls(tmp_path) == before
        arms = {**config.arms, "mixed": config.arms["mixed"].model_copy(update={"finetune": {"mixup": 0.4}})}
        changed = states(go(config.model_copy(update={"arms": arms})))
        assert {name for name, state in changed.items() if state == "finished"} == {
            f"cells/mixed/{place}" for place in ("n2-s0-r0", "n2-s1-r0", "nall-s0-r0")
        }
        kept = list((tmp_path / "replaced").glob("*/cells/mixed/n2-s0-r0/config.yaml"))
        assert len(kept) == 1, "a run of another configuration is moved aside, not deleted"

    def test_a_pretraining_that_changed_repeats_what_starts_from_it(self, cohort: Path, tmp_path: Path) -> None:
        arms = {"pretrained": {"pretrain": {"stages": [STAGE]}}}
        grid = {"labelled": [2], "subsets": 1}
        go(pipeline(cohort, tmp_path, arms=arms, grid=grid))
        arms = {"pretrained": {"pretrain": {"stages": [{**STAGE, "steps": 30}]}}}
        assert set(states(go(pipeline(cohort, tmp_path, arms=arms, grid=grid))).values()) == {"finished"}

    def test_a_moved_study_and_moved_data_are_not_run_again(self, cohort: Path, tmp_path: Path) -> None:
        data = shutil.copytree(cohort, tmp_path / "here")
        go(only(data, tmp_path / "one"))
        (tmp_path / "one").rename(tmp_path / "two")
        data.rename(tmp_path / "there")
        moved = go(only(tmp_path / "there", tmp_path / "two"))
        assert set(states(moved).values()) == {"skipped"}

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_failed_cell_takes_no_other_with_it_and_is_tried_again(
        self, cohort: Path, tmp_path: Path, jobs: int
    ) -> None:
        config = only(cohort, tmp_path, jobs=jobs)
        (tmp_path / "misbehave.json").write_text(json.dumps({"fail": "scratch/n2-s0-r0"}))
        result = go(config)
        assert states(result) == {"cells/scratch/n2-s0-r0": "failed", "cells/scratch/n2-s1-r0": "finished"}
        assert result.failures[0].problems == ("RuntimeError: the stand-in was asked to fail",)
        assert "Traceback" in (tmp_path / "cells/scratch/n2-s0-r0/error.txt").read_text()
        assert [row.subsets for row in result.rows] == [1]
        assert "asked to fail" in result.page.read_text()
        (tmp_path / "misbehave.json").unlink()
        assert set(states(go(config)).values()) == {"finished", "skipped"}
        assert not (tmp_path / "cells/scratch/n2-s0-r0/error.txt").exists()

    def test_a_killed_worker_fails_its_cell_only(self, cohort: Path, tmp_path: Path) -> None:
        (tmp_path / "misbehave.json").write_text(json.dumps({"die": "scratch/n2-s0-r0"}))
        result = go(only(cohort, tmp_path, jobs=2))
        assert states(result) == {"cells/scratch/n2-s0-r0": "failed", "cells/scratch/n2-s1-r0": "finished"}
        assert "killed" in result.failures[0].problems[0]

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_teachers_come_first_and_what_they_cost_counts(self, cohort: Path, tmp_path: Path, jobs: int) -> None:
        config = pipeline(cohort, tmp_path, arms=TAUGHT, grid={"labelled": [2], "subsets": 1}, jobs=jobs)
        assert set(states(go(config)).values()) == {"finished"}
        calls = study_standins.calls(tmp_path)
        assert calls.index("finetune large/n2-s0-r0") < calls.index("finetune pupil/n2-s0-r0")
        row = next(row for row in read_table(tmp_path) if row["arm"] == "pupil")
        assert (int(row["finetune_steps"]), int(row["pretrain_steps"])) == (40, 0)
        minutes = [
            json.loads((tmp_path / f"cells/{arm}/n2-s0-r0/run.json").read_text())["cpu_seconds"] / 60
            for arm in ("pupil", "large")
        ]
        assert float(row["finetune_cpu_minutes"]) == pytest.approx(sum(minutes), abs=1e-6)

    def test_a_teacher_that_changed_repeats_its_pupils(self, cohort: Path, tmp_path: Path) -> None:
        grid = {"labelled": [2], "subsets": 1}
        go(pipeline(cohort, tmp_path, arms=TAUGHT, grid=grid))
        arms = {**TAUGHT, "large": {**TAUGHT["large"], "finetune": {"mixup": 0.1}}}
        found = states(go(pipeline(cohort, tmp_path, arms=arms, grid=grid)))
        assert {name for name, state in found.items() if state == "finished"} == {
            "cells/large/n2-s0-r0", "cells/pupil/n2-s0-r0",
        }  # fmt: skip

    def test_a_teacher_without_weights_is_trained_again_for_a_new_pupil_only(
        self, cohort: Path, tmp_path: Path
    ) -> None:
        grid = {"labelled": [2], "subsets": 1}
        go(pipeline(cohort, tmp_path, arms=TAUGHT, grid=grid, keep="scores"))
        assert set(states(go(pipeline(cohort, tmp_path, arms=TAUGHT, grid=grid))).values()) == {"skipped"}
        arms = {**TAUGHT, "second": {**TAUGHT["pupil"], "finetune": {"distil": {"temperature": 4.0}}}}
        found = states(go(pipeline(cohort, tmp_path, arms=arms, grid=grid).only(["second"])))
        assert found == {
            "cells/scratch/n2-s0-r0": "skipped", "cells/large/n2-s0-r0": "finished", "cells/second/n2-s0-r0": "finished",
        }  # fmt: skip

    def test_pupils_of_a_failed_teacher_are_not_run(self, cohort: Path, tmp_path: Path) -> None:
        (tmp_path / "misbehave.json").write_text(json.dumps({"fail": "large/n2-s0-r0"}))
        result = go(pipeline(cohort, tmp_path, arms=TAUGHT, grid={"labelled": [2], "subsets": 1}))
        failures = {outcome.name: outcome.problems[0] for outcome in result.failures}
        assert failures["cells/pupil/n2-s0-r0"] == "not run: cells/large/n2-s0-r0 failed"
        assert states(result)["cells/scratch/n2-s0-r0"] == "finished"

    def test_cells_of_a_failed_pretraining_are_not_run(self, cohort: Path, tmp_path: Path) -> None:
        config = pipeline(cohort, tmp_path, grid={"labelled": [2], "subsets": 1})
        commands = study_standins.COMMANDS.__class__(
            _refuse, *(getattr(study_standins.COMMANDS, name) for name in ("finetune", "predict", "evaluate"))
        )
        result = run(config, study_standins.prepare, commands)
        assert states(result)["cells/scratch/n2-s0-r0"] == "finished"
        blocked = [outcome for outcome in result.failures if outcome.name.startswith("cells/")]
        assert {outcome.problems for outcome in blocked} == {("not run: pretrain/pretrained failed",)}
        assert len(blocked) == 2

    def test_a_named_split_says_who_is_what_and_counts_as_part_of_the_data(self, cohort: Path, tmp_path: Path) -> None:
        split = {
            "name": "mine", "source": "here", "pattern": "case_{number}", "test": [13, 14, 15], "pool": [0, 1, 2, 3],
            "labelled": {1: [{"name": "a", "train": [1], "validation": [4]}, {"name": "b", "train": [2], "validation": [3]}]},
        }  # fmt: skip
        file = tmp_path / "mine.yaml"
        file.write_text(json.dumps(split))

        def config(file: Path) -> PipelineConfig:
            data = {"path": cohort, "split": str(file)}
            return pipeline(
                cohort, tmp_path / "out", data=data, arms={"scratch": {}}, grid={"labelled": [1], "subsets": 5}
            )

        result = go(config(file))
        study = json.loads((tmp_path / "out/study.json").read_text())
        assert study["data"]["test"] == ["case_013", "case_014", "case_015"]
        assert study["data"]["subsets"] == {"n1-s0": ["case_001"], "n1-s1": ["case_002"]}
        assert study["data"]["pool"] == ["case_000", "case_001", "case_002", "case_003"]
        assert "validation records in the unlabelled pool: 1 of 2: case_003" in result.page.read_text()
        moved = file.rename(tmp_path / "other.yaml")
        assert set(states(go(config(moved))).values()) == {"skipped"}
        moved.write_text(json.dumps({**split, "pool": [0, 1]}))
        assert set(states(go(config(moved))).values()) == {"finished"}

    def test_no_records_to_score_is_a_clear_error(self, cohort: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no test records to score; say in data\.test"):
            go(only(cohort, tmp_path, data={"path": cohort}))

    def test_a_watcher_hears_of_every_run(self, cohort: Path, tmp_path: Path) -> None:
        heard: list[str] = []

        class Listener(Watcher):
            def started(self, name: str) -> None:
                heard.append(f"started {name}")

            def ended(self, outcome: object) -> None:
                heard.append(f"ended {outcome.name}")

        run(only(cohort, tmp_path), study_standins.prepare, study_standins.COMMANDS, Listener())
        assert heard == [f"{word} cells/scratch/n2-s{n}-r0" for n in (0, 1) for word in ("started", "ended")]


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_run_again_a_pipeline_goes_on(cohort: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "study"
    out.mkdir()
    (out / "misbehave.json").write_text(json.dumps({"dawdle": "scratch/n2-s1-r0"}))
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path[:0] = [{str(Path(__file__).parent)!r}]\n"
        "import medcl.objectives, study_standins\n"
        "from medcl.config.load import validate\n"
        "from medcl.config.pipeline import PipelineConfig\n"
        "from medcl.workflow.pipeline import run\n"
        "if __name__ == '__main__':\n"
        f"    config = validate(PipelineConfig, {only(cohort, out, jobs=jobs).model_dump(mode='json', exclude_unset=True)!r})\n"
        "    run(config, study_standins.prepare, study_standins.COMMANDS)\n"
    )
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.DEVNULL)
    worker = int(_wait_for(out / "dawdling"))
    if jobs == 2:
        _wait_for(out / "cells/scratch/n2-s0-r0/scores.csv")
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_until_gone(worker)
    assert json.loads((out / "run.json").read_text())["status"] == "running"

    (out / "misbehave.json").unlink()
    result = run(only(cohort, out), study_standins.prepare, study_standins.COMMANDS)
    assert states(result) == {"cells/scratch/n2-s0-r0": "skipped", "cells/scratch/n2-s1-r0": "finished"}
    assert [row.subsets for row in result.rows] == [2]


def _refuse(config: object) -> None:
    raise DataError("the stand-in cannot pretrain")


def _wait_for(file: Path, seconds: float = 60) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if file.is_file() and (text := file.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{file} did not appear")


def _wait_until_gone(pid: int, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").is_file() and " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    raise AssertionError("the worker outlived the pipeline")
