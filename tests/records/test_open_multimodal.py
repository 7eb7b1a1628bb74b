"""Freely licensed collections with several modalities: the real ones, and what is wrong with a damaged one."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from medcl.errors import DataError
from medcl.modalities.report_text import sentences
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest


def test_vqa_rad_is_a_record_an_image_without_the_test_questions(shared: Path, tmp_path: Path) -> None:
    manifest = open_data(shared / "data" / "vqa-rad")
    assert Counter(record.targets["organ"] for record in manifest.records) == {"chest": 83, "abdomen": 81, "head": 80}
    rows = json.loads((shared / "data" / "vqa-rad" / "vqa_rad.json").read_text())
    asked = {row["question"].strip().rstrip("?. ") for row in rows if not row["phrase_type"].startswith("test")}
    kept_out = {row["question"].strip().rstrip("?. ") for row in rows if row["phrase_type"].startswith("test")} - asked
    assert len(kept_out) > 200
    report = manifest.by_id("synpic54610").report
    assert isinstance(report, str)
    assert "Are regions of the brain infarcted: yes." in report
    texts = " ".join(str(record.report) for record in manifest.records)
    assert not [question for question in kept_out if f" {question}: " in texts]
    assert len(sentences(report)) == report.count(".")
    manifest.write(tmp_path / "all.jsonl")
    assert Manifest.read(tmp_path / "all.jsonl").records == manifest.records


def test_a_vqa_rad_image_that_is_missing_and_a_row_without_answer_are_named(shared: Path, tmp_path: Path) -> None:
    rows = json.loads((shared / "data" / "vqa-rad" / "vqa_rad.json").read_text())[:6]
    rows[3]["answer"] = ""
    (tmp_path / "images").mkdir()
    (tmp_path / "vqa_rad.json").write_text(json.dumps(rows))
    for row in rows[1:]:
        shutil.copy(shared / "data" / "vqa-rad" / "images" / row["image_name"], tmp_path / "images")
    with pytest.raises(DataError) as found:
        open_data(tmp_path)
    assert len(found.value.problems) == 2
    assert "row 3: lacks answer" in found.value.problems[0]
    assert f"image {rows[0]['image_name']} is not in" in found.value.problems[1]


def test_the_challenge_names_diagnoses_by_their_codes(shared: Path) -> None:
    manifest = open_data(shared / "data" / "ecg-12lead")
    assert len(manifest) == 169
    record = manifest.by_id("A0001")
    assert record.report == "Right bundle branch block."
    assert record.attributes == {"age": "74", "sex": "male", "source": "CPSC"}
    assert [name for name, value in record.targets.items() if value] == ["right bundle branch block"]
    assert sum(record.targets["sinus rhythm"] for record in manifest.records) == 56
    assert len({frozenset(record.targets) - {"rhythm"} for record in manifest.records}) == 1
    rhythms = Counter(record.targets.get("rhythm", "none or several") for record in manifest.records)
    assert rhythms["sinus rhythm"] == 53, "three of 56 have a second rhythm"
    assert rhythms["atrial fibrillation"] == 9
    assert sum(rhythms.values()) == 169
    assert "rhythm" not in record.targets


def test_a_challenge_without_names_for_its_codes_is_refused(shared: Path, tmp_path: Path) -> None:
    shutil.copy(shared / "data" / "ecg-12lead" / "records" / "A0001.hea", tmp_path)
    with pytest.raises(DataError, match="no table names the diagnoses"):
        open_data(tmp_path)


def test_hannover_has_laboratory_values_within_what_was_measured(shared: Path) -> None:
    manifest = open_data(shared / "data" / "cxr-labs-hannover")
    assert (len(manifest), len({record.subject for record in manifest.records})) == (196, 55)
    assert sum(record.targets["icu"] for record in manifest.records) == 155
    values = [value for record in manifest.records for value in record.labs.values()]
    assert min(values) == 0
    assert max(values) < 2000
    assert manifest.by_id("fff13f3a").labs == {
        "crp": 3.0,
        "d-dimer": 0.3,
        "lymphocytes": 1.8,
        "neutrophils": 3.1,
        "pco2": 30.0,
        "po2": 30.0,
    }


def test_a_hannover_image_that_is_missing_is_named(shared: Path, tmp_path: Path) -> None:
    lines = (shared / "data" / "cxr-labs-hannover" / "data.csv").read_text().splitlines()[:2]
    (tmp_path / "data.csv").write_text("\n".join([*lines, lines[1].replace(",3.0,", ",high,", 1)]))
    with pytest.raises(DataError, match=r"data\.csv:2: its image .*fff13f3a\.png is missing"):
        open_data(tmp_path)
    (tmp_path / "png").mkdir()
    shutil.copy(shared / "data" / "cxr-labs-hannover" / "png" / "fff13f3a.png", tmp_path / "png")
    with pytest.raises(DataError, match=r"data\.csv:3: a laboratory value is no number"):
        open_data(tmp_path)
