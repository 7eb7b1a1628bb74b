"""A finished alignment in use: codes, retrieval, search, zero-shot, probes, on pictures whose bright side the report names."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from medcl.cli.main import app
from medcl.config.align import AlignConfig, ReportConfig
from medcl.config.alignment_use import EmbedConfig, RetrieveConfig, ZeroshotConfig
from medcl.config.load import load_config, validate
from medcl.config.probe import ProbeConfig
from medcl.config.prompts import PromptBank
from medcl.config.shipped import find_config
from medcl.errors import ConfigError, DataError, MedclError, WeightsError
from medcl.evaluation.joint_codes import JointCodes
from medcl.evaluation.methods import MethodScores
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.workflow.align import align
from medcl.workflow.compared import last_terms, similarity_for, takes_unit_codes, trained_similarity
from medcl.workflow.joint_space import JointSpace, embed
from medcl.workflow.probes import probe
from medcl.workflow.retrieve import relevance_groups, retrieve
from medcl.workflow.search import search
from medcl.workflow.zeroshot import zeroshot

SIDES = ("left", "right")
PROMPTS = """\
classes:
  left:
    prompts: [The left side is bright., Bright left]
    negatives: [The right side is bright.]
  never: {prompts: [Nothing at all], negatives: [Something]}
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight records, two of every subject: pictures bright on one side, a report that names it, a laboratory value; some lack one."""
    folder = tmp_path_factory.mktemp("records")
    draw = np.random.default_rng(0)
    records = []
    for number in range(48):
        side = number % 2
        picture = draw.integers(0, 60, (32, 32), dtype=np.uint8)
        picture[:, 16 * side : 16 * side + 16] += 150
        Image.fromarray(picture).save(folder / f"{number}.png")
        report = f"The {SIDES[side]} side is bright. Case number {number} here."
        records.append(
            Record(
                id=f"r{number:02d}",
                subject=f"s{number // 2}",
                radiograph=() if number % 12 == 5 else (folder / f"{number}.png",),
                report=None if number % 12 == 7 else report,
                labs={"crp": float(side + draw.normal() / 10)} if number % 4 else {},
                targets={"left": 1.0 - side, "never": 0.0},
                attributes={"side": SIDES[side]},
            )
        )
    Manifest(tuple(records)).write(folder / "records.jsonl")
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    bert = {"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 16, "dropout": 0.0}
    image = {"name": "resnet", "depth": 10, "width": 4}
    term = {"objective": {"name": "pairwise_clip"}, "between": ["radiograph", "report", "labs"]}
    values = {
        "out": folder / "run",
        "data": {"path": table, "test": 16, "validation": 8},
        "modalities": {
            "radiograph": {"encoder": image, "shorter": 32, "patch": (32, 32)},
            "labs": {"encoder": {"hidden": (8,)}},
            "report": {"encoder": bert},
        },
        "joint": 8,
        "stages": [{"name": "joint", "steps": 40, "batch": 8, "terms": [term], "optimiser": {"lr": 0.01}}],
        "trainer": {"threads": 1, "device": "cpu", "log_every": 20},
    }
    return align(validate(AlignConfig, values), progress=False).path


def _config(model: type, table: Path, run: Path, *overrides: str):
    store = [f"data.store={run / 'prepared'}"] if (run / "prepared").is_dir() else []
    return load_config(model, overrides=[f"data.path={table}", f"weights={run}", *store, *overrides])


def _medcl(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


class TestEmbed:
    def test_codes_of_what_is_there_whatever_the_batch(self, table: Path, run: Path, tmp_path: Path) -> None:
        codes = embed(_config(EmbedConfig, table, run, f"out={tmp_path / 'codes.safetensors'}"))
        other = embed(_config(EmbedConfig, table, run, f"out={tmp_path / 'codes.npz'}", "batch=5"))
        for found in (other, JointCodes.read(tmp_path / "codes.safetensors"), JointCodes.read(tmp_path / "codes.npz")):
            assert found.ids == codes.ids == Manifest.read(table).ids
            assert found.weights == codes.weights
            for name in ("radiograph", "labs", "report"):
                assert found.present[name].equal(codes.present[name])
                torch.testing.assert_close(found.codes[name], codes.codes[name], rtol=1e-4, atol=1e-5)
        assert int(codes.present["radiograph"].sum()) == 44
        assert int(codes.present["labs"].sum()) == 36
        assert not codes.codes["report"][~codes.present["report"]].any()
        assert codes.codes["report"].dtype == torch.float32
        stored = JointCodes.read(tmp_path / "codes.safetensors").subjects
        assert len(set(stored)) == 24
        assert not set(stored) & set(codes.subjects)

    def test_the_run_s_own_split_and_what_it_saw(self, table: Path, run: Path, tmp_path: Path) -> None:
        space = JointSpace.of(_config(EmbedConfig, table, run, f"out={tmp_path / 'x.npz'}"))
        with space.opened(_config(RetrieveConfig, table, run).data, "test") as data:
            assert len(data.split.test) == 16
            assert not any(space.seen(data, data.split.test))
            assert set(data.split.train) == set(space.card.records)
            assert all(space.seen(data, data.split.train))
            marked = replace(data.manifest, provenance={"seen_in_pretraining": "true"})
            assert all(space.seen(replace(data, manifest=marked), data.split.test))
            first = replace(data.manifest.records[0], attributes={"seen_in_pretraining": "1"})
            marked = replace(data.manifest, records=(first, *data.manifest.records[1:]))
            assert space.seen(replace(data, manifest=marked), [first.id]) == [True]

    def test_similarities_follow_from_the_terms_of_the_last_stage(self, table: Path, run: Path) -> None:
        card = JointSpace.of(_config(RetrieveConfig, table, run)).card
        assert trained_similarity(last_terms(card)) is None
        for name, expected in (("symile", "product"), ("gram", "volume"), ("pairwise_clip", None)):
            training = {"stages": [{"terms": []}, {"terms": [{"objective": {"name": name}}]}]}
            assert trained_similarity(last_terms(card.model_copy(update={"training": training}))) == expected
        plain = [{"objective": {"name": "symile", "normalize": False}}]
        assert (takes_unit_codes(last_terms(card)), takes_unit_codes(plain)) == (True, False)
        one, two = ("ecg",), ("ecg", "labs")
        assert [similarity_for(None, None, each) for each in (one, two)] == ["cosine", "pairwise"]
        assert [similarity_for(None, "volume", each) for each in (one, two)] == ["cosine", "volume"]
        assert [similarity_for(None, "product", each) for each in (one, two)] == ["product", "product"]
        assert similarity_for("pairwise", "product", two) == "pairwise"


class TestRetrieve:
    def test_inversion_of_every_way_with_its_table(self, table: Path, run: Path, tmp_path: Path) -> None:
        options = ["relevance=labels", "inversion={steps: 3, patch_steps: 3, template: 'seen: {v}'}", "part=all"]
        report = retrieve(_config(RetrieveConfig, table, run, *options, f"out={tmp_path / 'found.json'}"))
        ways = {(each.modality, each.through) for each in report.inversion}
        others = {name for name in JointSpace.of(_config(RetrieveConfig, table, run)).modalities if name != "report"}
        assert ways >= {(name, "report") for name in others}
        assert "by way of report" in (tmp_path / "found.html").read_text()
        assert all(-1 <= each.cosine <= 1 and each.records > 1 for each in report.inversion)

    def test_every_direction_with_chance_patterns_and_gaps(self, table: Path, run: Path, tmp_path: Path) -> None:
        report = retrieve(_config(RetrieveConfig, table, run, "relevance=labels", f"out={tmp_path / 'found.json'}"))
        whole = [each for each in report.directions if each.pattern == "all"]
        assert len(whole) == 6
        by_name = {(each.queries, each.gallery): each for each in whole}
        found = by_name[("report",), "radiograph"]
        assert found.similarity == "cosine"
        assert found.scores.recall[1].mean > found.scores.chance[1] + 0.2
        assert found.scores.recall[1].subjects <= 8
        held_out = [Manifest.read(table).by_id(name) for name in RunFolder(run).read_facts()["test"]]
        assert found.scores.gallery == sum(bool(record.radiograph) for record in held_out)
        assert found.seen == (0, 0)
        assert {"labs+report", "radiograph+labs+report"} <= {
            each.pattern for each in report.directions if each.queries == ("report",) and each.gallery == "radiograph"
        }
        assert set(report.gaps) == {"radiograph, labs", "radiograph, report", "labs, report"}
        stored = json.loads((tmp_path / "found.json").read_text())
        assert len(stored["directions"]) == len(report.directions)
        page = (tmp_path / "found.html").read_text()
        assert "data:image/png;base64," in page
        assert "seen in pretraining" in page
        assert "http" not in page.replace("http://www.w3.org", "")

    def test_two_queries_at_once_and_codes_from_a_file(self, table: Path, run: Path, tmp_path: Path) -> None:
        codes = tmp_path / "codes.npz"
        embed(_config(EmbedConfig, table, run, f"out={codes}"))
        both = ["queries=[report+labs]", "galleries=[radiograph]"]
        now = retrieve(_config(RetrieveConfig, table, run, *both))
        assert now.directions[0].similarity == "pairwise"
        stored = retrieve(_config(RetrieveConfig, table, run, *both, f"codes={codes}"))
        assert stored.as_dict() == now.as_dict()
        volume = retrieve(_config(RetrieveConfig, table, run, *both, f"codes={codes}", "similarity=volume"))
        assert volume.directions[0].similarity == "volume"

    def test_records_that_were_seen_are_flagged(self, table: Path, run: Path) -> None:
        report = retrieve(_config(RetrieveConfig, table, run, "part=train", "queries=[report]", "galleries=[labs]"))
        assert (
            report.directions[0].seen[0]
            == report.directions[0].scores.queries + report.directions[0].scores.without_relevant
        )
        assert "seen in pretraining" in report.notes[0]

    def test_triplets(self, table: Path, run: Path, tmp_path: Path) -> None:
        path = tmp_path / "triplets.csv"
        rows = []
        for record in Manifest.read(table).records:
            side = record.attributes["side"]
            other = SIDES[1 - SIDES.index(side)]
            rows.append([record.id, f"Bright {side} side.", f"The {other} side is bright.", "side"])
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows([["record", "paraphrase", "wrong", "kind"], *rows])
        chosen = [f"triplets={path}", "queries=[labs]", "galleries=[report]"]
        report = retrieve(_config(RetrieveConfig, table, run, *chosen))
        assert report.triplets is not None
        assert report.triplets.image_to_text.mean > 0.8
        assert set(report.triplets.image_to_text_by_kind) == {"side"}
        path.write_text("record,paraphrase,wrong\nr00,,no\n")
        with pytest.raises(DataError, match=r"triplets.csv:2: has no paraphrase"):
            retrieve(_config(RetrieveConfig, table, run, *chosen))


class TestSearch:
    def test_a_text_finds_pictures_and_a_picture_finds_reports(self, table: Path, run: Path, tmp_path: Path) -> None:
        side = "right"
        sides = {record.id: record.attributes["side"] for record in Manifest.read(table).records}
        codes, out = tmp_path / "codes.safetensors", tmp_path / "hits.json"
        embed(_config(EmbedConfig, table, run, f"out={codes}"))
        query = [f"query=The {side} side is bright.", "part=all", f"codes={codes}", f"out={out}", "top=5"]
        found = search(_config(RetrieveConfig, table, run, *query))
        assert (found.asked, found.gallery, found.size) == ("report", "radiograph", 44)
        assert [sides[hit.record] for hit in found.hits] == [side] * 5
        assert out.with_suffix(".html").read_text().count("data:image/png;base64,") == 5
        picture = Manifest.read(table).records[SIDES.index(side)].radiograph[0]
        back = search(_config(RetrieveConfig, table, run, f"query={picture}", "part=all", "top=5"))
        assert (back.asked, back.gallery) == ("radiograph", "report")
        assert [sides[hit.record] for hit in back.hits] == [side] * 5
        alike = search(_config(RetrieveConfig, table, run, f"query={picture}", "part=all", "galleries=[radiograph]"))
        assert alike.hits[0].record == f"r0{SIDES.index(side)}"
        assert alike.hits[0].cosine == pytest.approx(1, abs=1e-5)

    def test_files_of_texts_and_of_laboratory_values(self, table: Path, run: Path, tmp_path: Path) -> None:
        codes, text, values = tmp_path / "codes.npz", tmp_path / "a.txt", tmp_path / "labs.json"
        embed(_config(EmbedConfig, table, run, f"out={codes}"))
        text.write_text("The left side is bright.")
        values.write_text('{"crp": 0.0}')
        for path, asked, gallery in ((text, "report", "radiograph"), (values, "labs", "report")):
            found = search(_config(RetrieveConfig, table, run, f"query={path}", f"codes={codes}", "top=3"))
            assert (found.asked, found.gallery) == (asked, gallery)
            assert len(found.hits) == 3
        values.write_text("[3]")
        line = _problem(RetrieveConfig, search, table, run, f"query={values}", f"codes={codes}")
        assert "labs.json: not laboratory values" in line


class TestZeroshot:
    def test_findings_with_thresholds_of_validation_records(self, table: Path, run: Path, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.yaml"
        prompts.write_text(PROMPTS)
        config = _config(ZeroshotConfig, table, run, f"prompts={prompts}", f"out={tmp_path / 'told.json'}")
        scores = zeroshot(config)
        assert set(scores) == {"radiograph", "labs"}
        found = scores["radiograph"]
        assert found.scores["left"]["auroc"].mean > 0.9
        assert found.scores["left"]["f1"].mean > 0.5
        assert np.isnan(found.scores["never"]["auroc"].mean)
        assert found.scores["macro mean"]["auroc"].mean == found.scores["left"]["auroc"].mean
        notes = " ".join(found.notes)
        assert "Without a positive record, and in no macro mean: never." in notes
        assert "Scoring pos_neg of 3 prompts." in notes
        assert "Seen in pretraining (seen_in_pretraining): 0 of" in notes
        assert any(name.startswith("macro mean, records with") for name in found.scores)
        stored = json.loads((tmp_path / "told.json").read_text())
        assert stored["radiograph"]["scores"]["never"]["auroc"]["mean"] is None
        assert "seen_in_pretraining" in (tmp_path / "told.html").read_text()

    def test_findings_without_validation_records(self, table: Path, run: Path, tmp_path: Path) -> None:
        (tmp_path / "prompts.yaml").write_text(PROMPTS)
        config = _config(
            ZeroshotConfig, table, run, f"prompts={tmp_path / 'prompts.yaml'}", "part=all", "data.validation=0"
        )
        assert "there are no validation records" in " ".join(zeroshot(config)["radiograph"].notes)

    def test_records_of_which_none_has_a_picture(self, table: Path, run: Path, tmp_path: Path) -> None:
        manifest = Manifest.read(table)
        bare = tuple(replace(record, radiograph=()) for record in manifest.records)
        Manifest(bare, provenance=manifest.provenance).write(tmp_path / "bare.jsonl")
        found = embed(_config(EmbedConfig, tmp_path / "bare.jsonl", run, f"out={tmp_path / 'codes.npz'}"))
        assert not found.present["radiograph"].any()
        assert found.present["report"].any()

    def test_one_of_several_classes(self, table: Path, run: Path, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.yaml"
        prompts.write_text(
            "kind: one_of\ntarget: side\nclasses:\n  on the left: {values: [left], prompts: [The left side is bright.]}\n"
            "  right: {prompts: [The right side is bright.]}\n  top: {prompts: [Case number]}\n"
        )
        chosen = [f"prompts={prompts}", "modalities=[radiograph]"]
        found = zeroshot(_config(ZeroshotConfig, table, run, *chosen))["radiograph"]
        assert found.scores["all"]["accuracy"].mean > 0.8
        assert found.scores["on the left"]["accuracy"].cases + found.scores["right"]["accuracy"].cases == len(
            found.records
        )
        assert "Without a record: top." in " ".join(found.notes)
        again = zeroshot(_config(ZeroshotConfig, table, run, *chosen, "standardise=true"))["radiograph"]
        assert "standardised over the scored records" in " ".join(again.notes)

    def test_a_wrong_bank_is_one_line_with_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "prompts.yaml"
        path.write_text("classes:\n  a: {promts: [x]}\n")
        with pytest.raises(ConfigError) as error:
            load_config(PromptBank, path)
        assert any(
            "prompts.yaml:2: classes.a.promts: no such key; did you mean 'prompts'?" in p for p in error.value.problems
        )
        path.write_text("kind: one_of\nclasses:\n  a: {prompts: [x]}\n")
        with pytest.raises(ConfigError, match="kind one_of needs target"):
            load_config(PromptBank, path)


class TestCommands:
    def test_each_prints_and_writes(self, table: Path, run: Path, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.yaml"
        prompts.write_text(PROMPTS)
        lines = [
            ["embed", table, "--out", tmp_path / "c.npz", "part=test"],
            ["retrieve", table, "--from", "report", "--to", "labs", "part=validation", f"out={tmp_path / 'r.json'}"],
            ["retrieve", table, "--query", "It's: {left}", "--top", 3, "--out", tmp_path / "s.json"],
            ["zeroshot", table, "--prompts", prompts, "--out", tmp_path / "z.json"],
        ]
        for line in lines:
            done = _medcl(*line, f"data.store={run / 'prepared'}", "--weights", run)
            assert done.exit_code == 0, done.output
            assert "written" in done.output
        assert len(json.loads((tmp_path / "s.json").read_text())["hits"]) == 3
        shown = _medcl(*lines[2], "--weights", run, "--print-config")
        assert 'query: "It\'s: {left}"' in shown.output or "It's: {left}" in shown.output.replace("''", "'")
        for name in ("embed", "retrieve", "zeroshot"):
            assert "weights: ???" in _medcl(name, "--print-config").output


def _problem(model: type, work, table: Path, run: Path, *overrides: str) -> str:
    with pytest.raises(MedclError) as error:
        work(_config(model, table, run, *overrides))
    (line,) = error.value.problems
    return line


class TestMessages:
    def test_wrong_weights(self, table: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError):
            retrieve(_config(RetrieveConfig, table, tmp_path))

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (["queries=[ecg]"], "queries: these weights have no ecg; they align radiograph, labs, report"),
            (["queries=[report]", "galleries=[report]"], "galleries: a modality that asks is not searched as well"),
            (["queries=[report+labs]", "similarity=cosine"], "similarity: a cosine is of one modality"),
            (["relevance=labels", "targets=[wings]"], "targets: no record has wings"),
            (["data.test=0"], "part: there are no test records; hold some out with data.test"),
        ],
    )
    def test_of_retrieve(self, overrides: Sequence[str], said: str, table: Path, run: Path) -> None:
        assert said in _problem(RetrieveConfig, retrieve, table, run, *overrides)

    def test_of_search_and_zeroshot(self, table: Path, run: Path, tmp_path: Path) -> None:
        assert "nowhere.png: no such file" in _problem(RetrieveConfig, search, table, run, "query=nowhere.png")
        path = tmp_path / "prompts.yaml"
        path.write_text("classes: {wings: {prompts: [Wings]}}\n")
        line = _problem(ZeroshotConfig, zeroshot, table, run, f"prompts={path}")
        assert "no record of part test has a target wings; there are left, never, side" in line
        pos_neg = _problem(ZeroshotConfig, zeroshot, table, run, f"prompts={path}", "scoring=pos_neg")
        assert "pos_neg needs negatives" in pos_neg


def test_captions_from_labels_are_texts_too() -> None:
    """Records without a report have equal texts where their labels give equal captions."""
    report = ReportConfig(captions=find_config("configs/captions/chexpert.yaml"))
    space = SimpleNamespace(card=SimpleNamespace(modalities=SimpleNamespace(report=report)))
    found = [("a", "Edema"), ("b", "Edema"), ("c", "Fracture")]
    records = [Record(id=name, subject=name, targets={label: 1.0}) for name, label in found]
    first, second, other = relevance_groups(SimpleNamespace(relevance="text"), space, records)
    assert first == second != other
    assert first >= 0


def test_scores_are_read_as_they_were_written(table: Path, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(PROMPTS)
    scores = zeroshot(_config(ZeroshotConfig, table, run, f"prompts={path}", "modalities=[labs]"))["labs"]
    scores.write(tmp_path / "scores.json")
    assert MethodScores.read(tmp_path / "scores.json").lines() == scores.lines()


def test_probes_of_an_alignment_beside_random_encoders(table: Path, run: Path, tmp_path: Path) -> None:
    chosen = ["targets=[side]", "layers=[radiograph.pooled,radiograph.code]", f"out={tmp_path / 'probes.json'}"]
    found = probe(_config(ProbeConfig, table, run, *chosen))
    assert set(found) == {"side radiograph.pooled", "side radiograph.code"}
    scores = found["side radiograph.code"]
    assert list(scores.scores) == ["radiograph.code", "random radiograph.code"]
    assert scores.scores["radiograph.code"]["accuracy"].mean > 0.9
    assert scores.differences["random radiograph.code"]["accuracy"].cases == len(scores.records)
    assert set(json.loads((tmp_path / "probes.json").read_text())) == set(found)
    assert "ecg.code: no such layer; this alignment has radiograph.pooled" in _problem(
        ProbeConfig, probe, table, run, "targets=[side]", "layers=[ecg.code]"
    )
