"""Records and manifests: written and read back, users' own tables, and messages that name the line."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record, pseudonym


def _manifest(folder: Path) -> Manifest:
    return Manifest(
        records=(
            Record(
                "a_1",
                "a",
                volume=(folder / "images" / "a_t1.nii.gz", folder / "images" / "a_t2.nii.gz"),
                label=folder / "a_label.nii.gz",
                labs={"crp": 3.5},
                targets={"grade": 2.0, "finding": "tumour, left"},
                split="train",
                attributes={"site": "007", "sex": "F"},
            ),
            Record("b", "b", radiograph=(folder / "b.png",), ecg=folder / "b_ecg", report=folder / "b.txt"),
            Record("c", "b", volume=(Path("/elsewhere/c.mha"),), report='No "acute" change;\nsee above'),
        ),
        label_names={0: "background", 1: "Grössenänderung"},
        channel_names=("T1", "T2"),
        source="made here",
        provenance={"licence": "CC0"},
    )


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_reading_gives_back_what_was_written(tmp_path: Path, name: str) -> None:
    manifest = _manifest(tmp_path)
    manifest.write(tmp_path / name)
    assert Manifest.read(tmp_path / name) == manifest


def test_manifest_and_files_can_be_moved_together(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    manifest = _manifest(tmp_path / "here")
    manifest.write(tmp_path / "here" / "m.jsonl")
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = Manifest.read(tmp_path / "there" / "m.jsonl")
    assert moved.by_id("a_1").label == tmp_path / "there" / "a_label.nii.gz"
    assert moved.by_id("c").volume == (Path("/elsewhere/c.mha"),)
    assert moved.digest == manifest.digest


def test_digest_follows_the_records_not_their_order(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    assert manifest.select(reversed(manifest.ids)).digest == manifest.digest
    assert manifest.select(["a_1", "b"]).digest != manifest.digest


def test_users_table_with_common_column_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_text(
        "patient_id,image,mask,split,age,patient_name,targets.grade\n"
        "4711,one.nii.gz,one_seg.nii.gz,val,63,Doe^Jane,2\n"
        "4711,two_a.nii.gz;two_b.nii.gz,,training,64,Doe^Jane,\n"
    )
    with caplog.at_level(logging.INFO):
        manifest = Manifest.read(tmp_path / "t.csv")
    one, two = manifest.records
    assert (one.id, one.label, one.split, one.targets) == (
        "one",
        tmp_path / "one_seg.nii.gz",
        "validation",
        {"grade": 2.0},
    )
    assert two.volume == (tmp_path / "two_a.nii.gz", tmp_path / "two_b.nii.gz")
    assert one.subject == two.subject == pseudonym("4711")
    assert one.attributes == {"age": "63"}
    manifest.write(tmp_path / "m.jsonl")
    written = (tmp_path / "m.jsonl").read_text() + caplog.text
    assert "4711" not in written
    assert "Doe" not in written
    assert "patient_name" in caplog.text


def test_every_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,volume,split\n../x,a.nii.gz,\nb,b.nii.gz,holdout\n,,train\nd,d.nii.gz,test\n")
    with pytest.raises(DataError) as caught:
        Manifest.read(path)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == [f"{path}:{line}" for line in (2, 3, 4)]
    path.write_text("id,volume\na,a.nii.gz\nb,b.nii.gz,c.nii.gz\n")
    with pytest.raises(DataError, match=r"t\.csv:3: more cells"):
        Manifest.read(path)
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "a", "volume": 5}\n{"id": "b", "labs": {"crp": "high"}}\n')
    with pytest.raises(DataError) as caught:
        Manifest.read(path)
    assert len(caught.value.problems) == 2
    path.write_text('{"medcl_manifest": 1, "label_names": [1]}\n')
    with pytest.raises(DataError, match="not a manifest header"):
        Manifest.read(path)
    path.write_text('{"id": "a"}\n{"id": \n')
    with pytest.raises(DataError, match=r"t\.jsonl:2: not valid JSON"):
        Manifest.read(path)


@pytest.mark.parametrize("record_id", ["", "a/b", "..", ".hidden", "a\nb", "a\\b"])
def test_an_id_must_be_able_to_name_a_file(record_id: str) -> None:
    with pytest.raises(DataError):
        Record(record_id, "s")


def test_selecting_an_unknown_record_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no record 'zzz' among the 3 of made here"):
        _manifest(tmp_path).select(["a_1", "zzz"])
