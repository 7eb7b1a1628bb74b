"""The published splits, on folders laid out as those data sets are."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.config.data import DataConfig
from medcl.config.load import validate
from medcl.config.split import SplitConfig, read_split
from medcl.errors import ConfigError, DataError
from medcl.records.layouts import open_data
from medcl.records.named_splits import open_split
from medcl.records.parts import parts_of

SPLITS = ("acdc_2020", "prostate_2020", "mmwhs_2020")
NAMES = {
    "acdc_2020": ("patient{:03d}_frame01", range(1, 101)),
    "prostate_2020": ("prostate_{:02d}", [*range(48)]),
    "mmwhs_2020": ("mr_train_{:04d}", range(1001, 1021)),
}


def write_tree(root: Path, split: str, without: tuple[int, ...] = ()) -> Path:
    """Small volumes with labels under the names of a data set."""
    pattern, numbers = NAMES[split]
    names = [pattern.format(number) for number in numbers if number not in without]
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for name in names:
        nib.save(
            nib.Nifti1Image(rng.normal(size=(4, 4, 3)).astype(np.float32), np.eye(4)), root / f"imagesTr/{name}.nii.gz"
        )
        nib.save(nib.Nifti1Image(np.ones((4, 4, 3), np.uint8), np.eye(4)), root / f"labelsTr/{name}.nii.gz")
    if split == "prostate_2020":
        pairs = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
        labels = {"0": "background", "1": "PZ", "2": "TZ"}
        (root / "dataset.json").write_text(json.dumps({"training": pairs, "labels": labels, "modality": {"0": "T2"}}))
    return root


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {split: write_tree(tmp_path_factory.mktemp(split) / "data", split) for split in SPLITS}


@pytest.mark.parametrize("name", SPLITS)
def test_every_combination_keeps_its_parts_apart(name: str, trees: dict[str, Path]) -> None:
    manifest = open_data(trees[name])
    split = open_split(read_split(name), manifest)
    test, pool = set(split.test), set(split.pool)
    assert len(split.test) == {"acdc_2020": 20, "prostate_2020": 15, "mmwhs_2020": 10}[name]
    assert len(split.pool) == {"acdc_2020": 52, "prostate_2020": 17, "mmwhs_2020": 10}[name]
    counts = {count: len(entries) for count, entries in split.labelled.items() if count != "all"}
    assert counts == {1: 5, 2: 4 if name == "mmwhs_2020" else 5, 8: 3}
    assert not test & pool
    for count, entries in split.labelled.items():
        for each in entries:
            train, validation = set(each.train), set(each.validation)
            assert len(train) == (len(each.train) if count == "all" else count)
            assert len(validation) == 2
            assert not train & validation
            assert not test & (train | validation)
    assert set(split.seen).isdisjoint(test)


def test_a_few_lists_are_as_published(trees: dict[str, Path]) -> None:
    acdc = open_split(read_split("acdc_2020"), open_data(trees["acdc_2020"]))
    assert acdc.combination(1, 3).train == ("patient022_frame01",)
    assert acdc.combination(2, 0).validation == ("patient031_frame01", "patient072_frame01")
    assert len(acdc.combination("all", 0).train) == 77
    assert "patient011_frame01" not in acdc.combination("all", 0).train
    assert acdc.test[:4] == tuple(f"patient{number:03d}_frame01" for number in (7, 8, 9, 10))
    prostate = open_split(read_split("prostate_2020"), open_data(trees["prostate_2020"]))
    assert prostate.combination(2, 0).train == ("prostate_00", "prostate_01")
    assert {"prostate_00", "prostate_01"} < set(prostate.combination("all", 0).train)
    heart = open_split(read_split("mmwhs_2020"), open_data(trees["mmwhs_2020"]))
    assert heart.combination(8, 1).train[0] == "mr_train_1002"
    assert heart.test == tuple(f"mr_train_{number}" for number in range(1011, 1021))


def test_it_says_what_is_in_the_unlabelled_pool_and_what_was_mended(trees: dict[str, Path]) -> None:
    said = "\n".join(open_split(read_split("acdc_2020"), open_data(trees["acdc_2020"])).notes)
    assert "validation record 11; it is left out of the training" in said
    assert "validation records in the unlabelled pool: 1 of 4: patient072_frame01" in said
    assert "not in it: patient013_frame01" in said
    for outside in ("patient094_frame01", "patient095_frame01"):
        assert outside in said.split("not in it: ")[1]
    said = "\n".join(open_split(read_split("prostate_2020"), open_data(trees["prostate_2020"])).notes)
    assert "comma is missing between 000 and 001" in said
    assert "validation records in the unlabelled pool: 6 of 6" in said


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("acdc_2020", ("patient007", "patient007_frame01", "patient007_patient007_frame01")),
        ("prostate_2020", ("prostate_29", "prostate_029")),
        ("mmwhs_2020", ("mr_train_1011", "mr_train_1011_image")),
    ],
)
def test_ids_fit_however_the_data_set_is_unpacked(split: str, ids: tuple[str, ...], trees: dict[str, Path]) -> None:
    from dataclasses import replace

    manifest = open_data(trees[split])
    config = read_split(split)
    first = open_split(config, manifest).test[0]
    for record_id in ids:
        records = tuple(replace(r, id=record_id) if r.id == first else r for r in manifest.records)
        assert open_split(config, replace(manifest, records=records)).test[0] == record_id


def test_missing_records_are_named_and_others_do_not_matter(trees: dict[str, Path], tmp_path: Path) -> None:
    partial = open_data(write_tree(tmp_path / "partial", "mmwhs_2020", without=(1003, 1012)))
    with pytest.raises(DataError, match=r"2 of the 20 records of split mmwhs_2020 are not there: 1003, 1012") as caught:
        open_split(read_split("mmwhs_2020"), partial)
    assert len(caught.value.problems) == 1
    spare = open_data(trees["prostate_2020"])
    assert "prostate_03" in spare.ids
    assert "prostate_03" not in open_split(read_split("prostate_2020"), spare).seen


def test_ambiguous_unlabelled_and_leaking_records_are_refused(trees: dict[str, Path]) -> None:
    from dataclasses import replace

    manifest = open_data(trees["mmwhs_2020"])
    config = read_split("mmwhs_2020")
    twice = replace(manifest.records[0], id="mr_train_1001_image")
    with pytest.raises(DataError, match=r"several records fit .*1001 \(mr_train_1001, mr_train_1001_image\)"):
        open_split(config, replace(manifest, records=(*manifest.records, twice)))
    bare = tuple(replace(r, label=None) if r.id == "mr_train_1011" else r for r in manifest.records)
    with pytest.raises(DataError, match=r"1 records .* need a label and have none: mr_train_1011"):
        open_split(config, replace(manifest, records=bare))
    same = tuple(
        replace(r, subject="one") if r.id in ("mr_train_1011", "mr_train_1001") else r for r in manifest.records
    )
    with pytest.raises(DataError, match="mr_train_1001 is of a subject that split mmwhs_2020 tests on"):
        open_split(config, replace(manifest, records=same))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pool": [1, 2, 9]}, "test: 9 are in the pool too"),
        (
            {"labelled": {1: [{"name": "a", "train": [1], "validation": [1]}]}},
            "labelled.1 a: 1 are in train and in validation",
        ),
        ({"labelled": {1: [{"name": "a", "train": [1], "validation": [9]}]}}, "9 are in validation and in test"),
        ({"labelled": {2: [{"name": "a", "train": [1], "validation": [2]}]}}, "lists 1 training records"),
        ({"test": [9, 9]}, "test: 9 stand there twice"),
        ({"pattern": "scan"}, "has no {number}"),
        ({"pattern": "({number}"}, "no regular expression"),
    ],
)
def test_a_split_that_contradicts_itself_is_refused(change: dict[str, object], said: str) -> None:
    good = {
        "name": "mine", "source": "here", "pattern": "scan_{number}", "test": [9], "pool": [1, 2],
        "labelled": {1: [{"name": "a", "train": [1], "validation": [2]}]},
    }  # fmt: skip
    validate(SplitConfig, good)
    with pytest.raises(ConfigError) as caught:
        validate(SplitConfig, {**good, **change})
    assert said in str(caught.value)


def test_a_run_gets_the_parts_of_its_combination(trees: dict[str, Path]) -> None:
    manifest = open_data(trees["acdc_2020"])

    def parts(labels: bool = True, **data: object) -> object:
        return parts_of(manifest, validate(DataConfig, {"path": "x", "split": "acdc_2020", **data}), labels=labels)

    found = parts(labelled=2, subset=1)
    assert found.labelled == found.train == ("patient002_frame01", "patient042_frame01")
    assert found.validation == ("patient011_frame01", "patient071_frame01")
    assert len(found.pool) == 52
    assert len(found.test) == 20
    assert parts(labelled=2, subset=1, pool="labelled").pool == found.labelled
    without = parts(labels=False)
    assert (without.labelled, without.pool, without.prepared) == ((), found.pool, found.prepared)
    with pytest.raises(ConfigError, match="has no labelled subset of 4; it has 1, 2, 8, all"):
        parts(labelled=4)
    with pytest.raises(ConfigError, match="has 3 labelled subsets of 8, numbered from 0; 3 is none"):
        parts(labelled=8, subset=3)


def test_a_split_leaves_nothing_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="acdc_2020 says which records are used for what; take test out"):
        validate(DataConfig, {"path": tmp_path, "split": "acdc_2020", "test": 5})
    with pytest.raises(
        ConfigError, match="no split acdc_2021; those that come with medcl are acdc_2020, mmwhs_2020, prostate_2020"
    ):
        read_split("acdc_2021")
