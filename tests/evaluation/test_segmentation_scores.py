"""Scoring folders of masks: policy of empty masks, matching by name, clear refusals, files that read back."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medcl.errors import DataError
from medcl.evaluation.comparison import compare
from medcl.evaluation.scores import Evaluation
from medcl.evaluation.segmentation import evaluate, score_case

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def _mask(*classes: int, shift: int = 0) -> np.ndarray:
    """A cube of 4 x 4 x 4 voxels for every class, side by side along x."""
    mask = np.zeros((30, 12, 10), np.uint8)
    for label in classes:
        mask[6 * label : 6 * label + 4, 3 + shift : 7 + shift, 3:7] = label
    return mask


def _write(folder: Path, name: str, mask: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(mask, affine), folder / name)
    return folder / name


def test_policy_of_empty_masks() -> None:
    case = score_case(_mask(1, 3), _mask(1, 2), AFFINE, labels=(0, 1, 2, 3, 4), tolerance=1.0)
    diagonal = np.linalg.norm([29, 11, 18])
    scored, missed, spurious, absent = (case.classes[label] for label in (1, 2, 3, 4))
    assert 0 not in case.classes
    assert (scored.outcome, scored.dice, scored.hd95_mm, scored.surface_dice) == ("scored", 1.0, 0.0, 1.0)
    assert (missed.outcome, missed.dice, missed.surface_dice) == ("missed", 0.0, 0.0)
    assert missed.hd95_mm == pytest.approx(diagonal)
    assert (missed.volume_bias_ml, missed.relative_volume_error) == (pytest.approx(-0.128), pytest.approx(1.0))
    assert (spurious.outcome, spurious.dice) == ("spurious", 0.0)
    assert spurious.hd95_mm == pytest.approx(diagonal)
    assert spurious.volume_error_ml == pytest.approx(0.128)
    assert spurious.relative_volume_error is None
    assert (absent.outcome, absent.dice, absent.hd95_mm, absent.volume_error_ml) == ("absent", None, None, None)
    assert case.value("dice") == pytest.approx(1 / 3)  # of three classes: the absent one is left out
    assert np.isnan(case.value("dice", 4))


def test_values_in_millimetres() -> None:
    case = score_case(_mask(1, shift=1), _mask(1), AFFINE, tolerance=0.5)
    scores = case.classes[1]
    assert scores.dice == pytest.approx(0.75)
    assert scores.hd95_mm == 1.0
    assert scores.surface_dice < 1.0
    assert scores.truth_ml == pytest.approx(64 * 2 / 1000)
    assert score_case(_mask(1, shift=1), _mask(1), AFFINE, tolerance=1.0).classes[1].surface_dice == 1.0


def test_folder_matches_by_name_whatever_the_format(tmp_path: Path) -> None:
    _write(tmp_path / "truth", "a.nii.gz", _mask(1, 2))
    _write(tmp_path / "truth", "b.nii.gz", _mask(1))
    _write(tmp_path / "truth", "c.nii.gz", _mask(1))
    _write(tmp_path / "masks", "a.nii", _mask(1))
    image = sitk.ReadImage(str(tmp_path / "truth" / "b.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / "masks" / "b.mha"))
    _write(tmp_path / "masks", "z.nii.gz", _mask(1))
    found = evaluate(tmp_path / "masks", tmp_path / "truth")
    assert found.ids == ("a", "b")
    assert found.missing == ("c",)
    assert found.labels == {1: "1", 2: "2"}
    assert found.values("dice", 1).tolist() == [1.0, 1.0]
    assert found.cases[0].classes[2].outcome == "missed"
    assert found.cases[1].classes[2].outcome == "absent"  # class 2 occurs elsewhere, so it stands here too
    assert any("z" in note for note in found.notes)
    assert found.summary()[0].metrics["dice"].mean == pytest.approx((0.5 + 1.0) / 2)
    assert found == evaluate(tmp_path / "masks", tmp_path / "truth", workers=2)
    assert evaluate(tmp_path / "masks", tmp_path / "truth", ids=["b"]).ids == ("b",)


def test_two_single_files_match_whatever_their_names(tmp_path: Path) -> None:
    prediction, truth = _write(tmp_path, "p.nii.gz", _mask(1)), _write(tmp_path, "t.nii.gz", _mask(1))
    assert evaluate(prediction, truth).values("dice").tolist() == [1.0]


def test_decathlon_truth_names_classes_and_undeclared_values_are_told(tmp_path: Path) -> None:
    data = tmp_path / "task"
    for case in ("one", "two"):
        _write(data / "imagesTr", f"{case}.nii.gz", _mask(1))
        _write(data / "labelsTr", f"{case}.nii.gz", _mask(1))
        _write(tmp_path / "masks", f"{case}.nii.gz", _mask(1, 3))
    pairs = [{"image": f"imagesTr/{case}.nii.gz", "label": f"labelsTr/{case}.nii.gz"} for case in ("one", "two")]
    labels = {"0": "background", "1": "front", "2": "back"}
    (data / "dataset.json").write_text(json.dumps({"labels": labels, "modality": {"0": "MRI"}, "training": pairs}))
    found = evaluate(tmp_path / "masks", data)
    assert found.labels == {1: "front", 2: "back"}
    assert found.values("dice").tolist() == [1.0, 1.0]
    assert "label 3" in found.notes[0]
    assert found.summary()[2].outcomes["absent"] == 2
    only = evaluate(tmp_path / "masks", data, labels={3: "odd"})
    assert only.values("dice", 3).tolist() == [0.0, 0.0]


def test_another_grid_is_one_line_a_case_with_both_values(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] = 5.0
    for name in ("a", "b", "c"):
        _write(tmp_path / "truth", f"{name}.nii.gz", _mask(1))
    _write(tmp_path / "masks", "a.nii.gz", _mask(1)[:-1])
    _write(tmp_path / "masks", "b.nii.gz", _mask(1), moved)
    (tmp_path / "masks" / "c.nii.gz").write_bytes((tmp_path / "truth" / "c.nii.gz").read_bytes()[:60])
    with pytest.raises(DataError) as error:
        evaluate(tmp_path / "masks", tmp_path / "truth")
    shape, grid, damaged = error.value.problems
    assert "(29, 12, 10)" in shape
    assert "(30, 12, 10)" in shape
    assert "5 mm" in grid
    assert "c.nii.gz" in damaged


def test_nothing_in_common_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "truth", "a.nii.gz", _mask(1))
    _write(tmp_path / "masks", "b.nii.gz", _mask(1))
    with pytest.raises(DataError, match="'b' and 'a'"):
        evaluate(tmp_path / "masks", tmp_path / "truth")
    with pytest.raises(DataError, match="no such"):
        evaluate(tmp_path / "nowhere", tmp_path / "truth")


@pytest.fixture
def two_evaluations(tmp_path: Path) -> tuple[Evaluation, Evaluation]:
    for index in range(6):
        name = f"case{index}.nii.gz"
        _write(tmp_path / "truth", name, _mask(1, 2))
        _write(tmp_path / "good", name, _mask(1, 2))
        _write(tmp_path / "poor", name, _mask(1, 2, shift=index % 2) if index else _mask(1))
    return evaluate(tmp_path / "poor", tmp_path / "truth"), evaluate(tmp_path / "good", tmp_path / "truth")


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_files_read_back(tmp_path: Path, two_evaluations: tuple[Evaluation, Evaluation], suffix: str) -> None:
    poor, _ = two_evaluations
    poor.write(tmp_path / "scores.json")
    again = Evaluation.read(tmp_path / f"scores{suffix}")
    assert again.cases == poor.cases
    assert again.labels == poor.labels
    assert again.tolerance_mm == poor.tolerance_mm
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert len(rows) == 12
    assert rows[1]["outcome"] == "missed"
    summary = json.loads((tmp_path / "scores.json").read_text())["summary"]
    assert summary[0]["metrics"]["dice"]["mean"] == pytest.approx(float(np.nanmean(poor.values("dice"))))


def test_not_an_evaluation_is_told(tmp_path: Path) -> None:
    for name, text in {"a.json": '{"a": 1}', "b.json": "no", "c.csv": "x,y\n1,2\n", "d.json": "[]"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="not an evaluation"):
            Evaluation.read(tmp_path / name)
    with pytest.raises(DataError, match="cannot be read"):
        Evaluation.read(tmp_path / "none.json")


def test_comparison_is_paired(two_evaluations: tuple[Evaluation, Evaluation]) -> None:
    poor, good = two_evaluations
    found = compare(poor, good, ("poor", "good"))
    mean = found.rows[0].metrics["dice"]
    per_case = good.values("dice") - poor.values("dice")
    assert mean.difference.mean == pytest.approx(per_case.mean())
    assert mean.difference.low <= mean.difference.mean <= mean.difference.high
    assert (found.cases, found.only_baseline, found.only_other) == (6, 0, 0)
    back = compare(good, poor, ("good", "poor")).rows[0].metrics["dice"]
    assert back.difference.mean == pytest.approx(-mean.difference.mean)
    assert back.difference.p == pytest.approx(mean.difference.p)


def test_comparison_uses_shared_cases_only_and_refuses_none(two_evaluations: tuple[Evaluation, Evaluation]) -> None:
    poor, good = two_evaluations
    fewer = Evaluation("x", "y", good.labels, 1.0, good.cases[2:])
    found = compare(poor, fewer, ("poor", "fewer"))
    assert (found.cases, found.only_baseline, found.only_other) == (4, 2, 0)
    assert found.rows[0].metrics["dice"].difference.cases == 4
    nothing = Evaluation("x", "y", good.labels, 1.0, ())
    with pytest.raises(DataError, match="share no case"):
        compare(poor, nothing)
    with pytest.raises(DataError, match="scores labels"):
        compare(poor, Evaluation("x", "y", {1: "one"}, 1.0, good.cases))
    other_tolerance = Evaluation("x", "y", good.labels, 2.0, good.cases)
    assert "surface_dice" not in compare(poor, other_tolerance).rows[0].metrics


def test_a_case_without_a_value_on_one_side_is_counted_not_compared() -> None:
    empty = score_case(_mask(1), _mask(1), AFFINE, (1, 2), case="a")
    hallucinated = score_case(_mask(1, 2), _mask(1), AFFINE, (1, 2), case="a")
    names = {1: "one", 2: "two"}
    one, other = Evaluation("", "", names, 1.0, (empty,)), Evaluation("", "", names, 1.0, (hallucinated,))
    rows = compare(one, other).rows
    assert rows[2].metrics["dice"].unpaired == 1
    assert rows[2].metrics["dice"].difference.cases == 0
    assert rows[0].metrics["dice"].difference.mean == pytest.approx(-0.5)
