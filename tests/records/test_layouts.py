"""Every layout that `open_data` detects, and what it says where none fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medcl.errors import DataError
from medcl.records.layouts import open_data


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_real_decathlon_folder(hippocampus: Path) -> None:
    for path in (hippocampus, hippocampus / "dataset.json"):
        manifest = open_data(path)
        assert len(manifest) == len(manifest.labelled()) == 200
        assert manifest.label_names == {0: "background", 1: "Anterior", 2: "Posterior"}
        assert manifest.channel_names == ("MRI",)
        assert manifest.provenance["licence"] == "CC-BY-SA 4.0"
        assert all(file.is_file() for record in manifest.records for file in record.files())


def test_decathlon_test_lists_of_either_form_and_4d_channels(tmp_path: Path) -> None:
    content = {
        "modality": {"1": "T1w", "0": "FLAIR"},
        "labels": {"0": "background", "10": "ten", "2": "two"},
        "training": [{"image": "./imagesTr/a_1.nii.gz", "label": "./labelsTr/a_1.nii.gz"}],
        "validation": [{"image": ["imagesTr/b_t1.nii.gz", "imagesTr/b_t2.nii.gz"], "label": "labelsTr/b.nii.gz"}],
        "test": ["./imagesTs/c.nii.gz", {"image": "./imagesTs/d.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    manifest = open_data(tmp_path)
    assert manifest.channel_names == ("FLAIR", "T1w")
    assert manifest.label_names == {0: "background", 2: "two", 10: "ten"}
    assert [(r.id, r.split, len(r.volume), r.label is None) for r in manifest.records] == [
        ("a_1", None, 1, False),
        ("b_t1", "validation", 2, False),
        ("c", "test", 1, True),
        ("d", "test", 1, True),
    ]


def test_every_bad_decathlon_entry_is_named(tmp_path: Path) -> None:
    content = {"training": [{"label": "x"}, {"image": "a.nii.gz"}, 3], "labels": {}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        open_data(tmp_path)
    assert [p.split(": ")[1] for p in caught.value.problems] == ["training[0]", "training[2]"]


def test_folder_of_images_with_folder_of_labels(tmp_path: Path) -> None:
    _touch(
        tmp_path, "scans/b.nii.gz", "scans/a.mha", "scans/._a.mha", "scans/notes.txt", "truth/a.nii.gz", "truth/z.nii"
    )
    manifest = open_data(tmp_path / "scans", tmp_path / "truth")
    assert manifest.ids == ("a", "b")
    assert manifest.by_id("a").label == tmp_path / "truth" / "a.nii.gz"
    assert manifest.by_id("b").label is None
    _touch(tmp_path, "other/c.nii.gz", "other/d.nii.gz")
    with pytest.raises(DataError, match=r"none of its 2 labels has the name of an image \(such as a; found c\)"):
        open_data(tmp_path / "scans", tmp_path / "other")


def test_images_and_labels_side_by_side_without_a_dataset_json(tmp_path: Path) -> None:
    _touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    assert open_data(tmp_path).labelled().ids == ("a",)


def test_folders_below_keep_one_persons_scans_together(tmp_path: Path) -> None:
    _touch(tmp_path, "p1/day0.nii.gz", "p1/day9.nii.gz", "p2/day0.nii.gz", "p3/sub-7_T1w.nii.gz")
    found = {record.id: record.subject for record in open_data(tmp_path).records}
    assert found == {"p1_day0": "p1", "p1_day9": "p1", "p2_day0": "p2", "p3_sub-7_T1w": "sub-7"}
    _touch(tmp_path / "single", "x/y/a.nii.gz", "x/y/b.nii.gz")
    assert {r.id: r.subject for r in open_data(tmp_path / "single").records} == {"a": "a", "b": "b"}


def test_glob_and_single_file(tmp_path: Path) -> None:
    _touch(tmp_path, "a_T1.nii.gz", "a_T2.nii.gz", "b_T1.nii.gz", "odd[1].nii.gz")
    assert open_data(tmp_path / "*_T1.nii.gz").ids == ("a_T1", "b_T1")
    assert open_data(tmp_path / "odd[1].nii.gz").ids == ("odd[1]",)
    with pytest.raises(DataError, match="matches no volume"):
        open_data(tmp_path / "*_T9.nii.gz")


def test_nnunet_raw_with_channels(tmp_path: Path) -> None:
    content = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "liver": 1},
        "file_ending": ".nrrd",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    _touch(tmp_path, *(f"imagesTr/case_{c}_000{n}.nrrd" for c in (1, 2) for n in (0, 1)), "labelsTr/case_1.nrrd")
    _touch(tmp_path, "imagesTs/case_9_0000.nrrd", "imagesTs/case_9_0001.nrrd")
    manifest = open_data(tmp_path)
    assert manifest.channel_names == ("CT", "PET")
    assert manifest.label_names == {0: "background", 1: "liver"}
    first = manifest.by_id("case_1")
    assert [path.name for path in first.volume] == ["case_1_0000.nrrd", "case_1_0001.nrrd"]
    assert first.label == tmp_path / "labelsTr" / "case_1.nrrd"
    assert [(r.id, r.split) for r in manifest.records] == [("case_1", None), ("case_2", None), ("case_9", "test")]
    (tmp_path / "imagesTr" / "case_2_0001.nrrd").unlink()
    with pytest.raises(DataError, match=r"case case_2 has channels \[0\].*missing case_2_0001\.nrrd"):
        open_data(tmp_path)


def test_nnunet_regions_name_values_by_their_smallest_region(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "MR"}, "labels": labels}))
    _touch(tmp_path, "imagesTr/a_0000.nii.gz")
    assert open_data(tmp_path).label_names == {0: "background", 1: "whole", 2: "core", 3: "enhancing"}


def test_bids_sessions_derivatives_and_participants(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-01/ses-b/func/sub-01_ses-b_task-rest_bold.nii.gz",
        "sub-02/anat/sub-02_T1w.nii",
        "derivatives/manual/sub-01/ses-b/anat/sub-01_ses-b_space-orig_dseg.nii.gz",
        "derivatives/manual/sub-02/anat/sub-02_desc-brain_mask.nii.gz",
    )
    (tmp_path / "participants.tsv").write_text("participant_id\tage\tname\nsub-01\t63\tJane Doe\nsub-02\tn/a\tX\n")
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "Ours", "License": "CC0"}))
    (tmp_path / "derivatives" / "manual" / "desc-x_dseg.tsv").write_text("index\tname\n1\thippocampus\n")
    manifest = open_data(tmp_path)
    assert [(r.id, r.subject, r.label is not None) for r in manifest.records] == [
        ("sub-01_ses-a_T1w", "sub-01", False),
        ("sub-01_ses-b_T1w", "sub-01", True),
        ("sub-02_T1w", "sub-02", True),
    ]
    assert manifest.records[0].attributes == {"age": "63", "modality": "T1w", "session": "ses-a"}
    assert manifest.records[2].attributes == {"modality": "T1w"}
    assert manifest.provenance == {"name": "Ours", "licence": "CC0"}
    assert manifest.label_names == {1: "hippocampus"}


def test_what_was_looked_for_is_said_where_nothing_fits(tmp_path: Path) -> None:
    _touch(tmp_path, "a/readme.txt")
    with pytest.raises(DataError, match=r"no data set found; looked for dataset\.json .*BIDS.*DICOM"):
        open_data(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        open_data(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a data set; expected a volume"):
        open_data(tmp_path / "a" / "readme.txt")
    (tmp_path / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(DataError, match=r"neither a Decathlon dataset .* nor an nnU-Net one .*; it has name"):
        open_data(tmp_path)
