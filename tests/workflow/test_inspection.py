"""`medcl inspect`: every kind of defect planted in real files is found; nothing is found in clean ones."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.inspect import InspectConfig
from medcl.records.findings import CHECKS
from medcl.records.manifest import Manifest
from medcl.runs import RunFolder
from medcl.workflow.inspection import Inspection, inspect
from medcl.workflow.simulation.layouts import write_ecg

CASES = 49


class Cohort:
    """Real hippocampus volumes copied to a folder, as rows of a manifest that defects are planted in."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        pairs = json.loads((source / "dataset.json").read_text())["training"][:CASES]
        self.rows: list[dict] = []
        for number, pair in enumerate(pairs):
            case = f"case_{number:02d}"
            for kind, suffix in (("image", ""), ("label", "_label")):
                shutil.copy(source / pair[kind], folder / f"{case}{suffix}.nii.gz")
            self.rows.append({"id": case, "volume": [f"{case}.nii.gz"], "label": f"{case}_label.nii.gz"})

    def image(self, case: int) -> Path:
        return self.folder / f"case_{case:02d}.nii.gz"

    def label(self, case: int) -> Path:
        return self.folder / f"case_{case:02d}_label.nii.gz"

    def write(self) -> Path:
        header = {
            "medcl_manifest": 1,
            "label_names": {"0": "background", "1": "anterior", "2": "posterior", "3": "amygdala"},
            "channel_names": ["T1"],
        }
        path = self.folder / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in [header, *self.rows]))
        return path


def _change(path: Path, change: Callable[[np.ndarray], np.ndarray], dtype: type | None = None) -> None:
    image = nibabel.load(path)
    data = change(np.asarray(image.dataobj))
    header = image.header.copy()
    header.set_data_dtype(dtype or data.dtype)
    nibabel.save(nibabel.Nifti1Image(data.astype(dtype or data.dtype), image.affine, header), path)


def _header(path: Path, **fields: object) -> None:
    """Set header fields as they are, whatever nibabel would make of them."""
    content = gzip.decompress(path.read_bytes())
    header = nibabel.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.binaryblock + content[348:], mtime=0))


def _change_affine(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    affine = change(nibabel.load(path).affine.copy())
    rows = {f"srow_{axis}": row for axis, row in zip("xyz", affine[:3], strict=True)}
    pixdim = [1, *np.linalg.norm(affine[:3, :3], axis=0), 0, 0, 0, 0]
    _header(path, **rows, pixdim=pixdim, sform_code=1, qform_code=0)


def _plant(cohort: Cohort) -> dict[str, tuple[str | None, str]]:
    """One defect of each kind, each in a case of its own: check -> (file, words that the message must hold)."""
    expected: dict[str, tuple[str | None, str]] = {}
    cases = iter(range(CASES))

    def plant(check: str, defect: Callable[[int], Path | None], words: str = "") -> None:
        path = defect(next(cases))
        expected[check] = (path.name if path else None, words)

    def in_image(change: Callable[[np.ndarray], np.ndarray], dtype: type | None = None) -> Callable[[int], Path]:
        return lambda case: _change(cohort.image(case), change, dtype) or cohort.image(case)

    def in_label(change: Callable[[np.ndarray], np.ndarray], dtype: type | None = None) -> Callable[[int], Path]:
        return lambda case: _change(cohort.label(case), change, dtype) or cohort.label(case)

    def in_both_affines(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[int], Path]:
        def defect(case: int) -> Path:
            _change_affine(cohort.image(case), change)
            _change_affine(cohort.label(case), change)
            return cohort.image(case)

        return defect

    def missing(case: int) -> Path:
        cohort.image(case).unlink()
        return cohort.image(case)

    def truncated(case: int) -> Path:
        data = cohort.image(case).read_bytes()
        cohort.image(case).write_bytes(data[: len(data) // 2])
        return cohort.image(case)

    def spacing_beside(case: int) -> Path:
        _header(cohort.image(case), pixdim=[1, 2, 2, 2, 0, 0, 0, 0], sform_code=1, qform_code=0)
        return cohort.image(case)

    def moved_qform(case: int) -> Path:
        x = nibabel.load(cohort.image(case)).affine[0, 3]
        _header(cohort.image(case), qform_code=1, sform_code=1, qoffset_x=x + 10)
        return cohort.image(case)

    def no_codes(case: int) -> Path:
        for path in (cohort.image(case), cohort.label(case)):
            _header(path, sform_code=0, qform_code=0)
        return cohort.image(case)

    def stored_as_lps(case: int) -> Path:
        for path in (cohort.image(case), cohort.label(case)):
            image = nibabel.load(path)
            nibabel.save(image.as_reoriented([[0, -1], [1, -1], [2, 1]]), path)
        return cohort.image(case)

    def label_is_image(case: int) -> Path:
        shutil.copy(cohort.image(case), cohort.label(case))
        return cohort.label(case)

    def image_as_label(case: int) -> Path:
        _change(cohort.label(case), lambda data: np.arange(data.size).reshape(data.shape) % 1000, np.int16)
        return cohort.label(case)

    def second_channel(case: int) -> Path:
        extra = cohort.folder / f"case_{case:02d}_t2.nii.gz"
        shutil.copy(cohort.image(case), extra)
        _change(extra, lambda data: data.max() - data)
        cohort.rows[case]["volume"].append(extra.name)
        return cohort.image(case)

    def moved_channel(case: int) -> Path:
        second_channel(case)
        extra = cohort.folder / f"case_{case:02d}_t2.nii.gz"
        _change_affine(extra, lambda affine: affine + _shift(5))
        return extra

    def padded(case: int) -> Path:
        for path in (cohort.image(case), cohort.label(case)):
            _change(path, lambda data: np.concatenate([data, data, data], axis=0))
        return cohort.image(case)

    def copy_of_next(case: int) -> Path:
        shutil.copy(cohort.image(case), cohort.image(CASES - 1))
        return cohort.image(CASES - 1)

    def copy_of_same_subject(case: int) -> Path:
        copy = cohort.folder / "again.nii.gz"
        shutil.copy(cohort.image(case), copy)
        cohort.rows[case]["subject"] = "one"
        cohort.rows.append({"id": "again", "subject": "one", "volume": [copy.name]})
        return copy

    def ecg_with_gaps(case: int) -> Path:
        signal = np.tile(np.sin(np.arange(1000) / 9).astype(np.float32), (12, 1))
        signal[2, :40] = np.nan
        cohort.rows.append({"id": "beats", "ecg": "beats.hea"})
        return write_ecg(cohort.folder / "beats.hea", signal)

    def screenshot(case: int) -> Path:
        pixels = np.zeros((12, 10, 3), np.uint8)
        pixels[3, 4] = (255, 0, 0)
        Image.fromarray(pixels).save(path := cohort.folder / "arrow.png")
        cohort.rows.append({"id": "arrow", "radiograph": "arrow.png"})
        return path

    def same_report_twice(case: int) -> None:
        for name, text in (("train", "Clear lungs. Heart is normal."), ("test", "Clear lungs, heart is normal")):
            cohort.rows.append({"id": f"text_{name}", "report_text": text, "split": name})

    def same_label_twice(case: int) -> Path:
        label = np.asarray(nibabel.load(cohort.label(case)).dataobj)
        shape = nibabel.load(cohort.image(CASES - 2)).shape
        other = np.zeros(shape, np.uint8)
        fits = tuple(slice(0, min(a, b)) for a, b in zip(shape, label.shape, strict=True))
        other[fits] = label[fits]
        _change(cohort.image(case), lambda _: np.asarray(nibabel.load(cohort.image(CASES - 2)).dataobj) * 2 + 1)
        for path in (cohort.label(case), cohort.label(CASES - 2)):
            _change(path, lambda _: other)
        return cohort.label(CASES - 2)

    def repeated_id(case: int) -> Path:
        cohort.rows[case]["id"] = "twin"
        cohort.rows[CASES - 3]["id"] = "twin"
        return cohort.image(case)

    def divided_subject(case: int) -> Path:
        cohort.rows[case] |= {"subject": "both", "split": "train"}
        cohort.rows[CASES - 4] |= {"subject": "both", "split": "test"}
        return cohort.image(case)

    def tile(data: np.ndarray) -> np.ndarray:
        return np.stack([data, data], axis=-1)

    def hole(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[2:4, 2:4, 2:4] = np.nan
        data[5, 5, 5] = np.inf
        return data

    def spike(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[3, 3, 3] = 1e4 * data.max()
        return data

    plant("missing-file", missing, "no such file")
    plant("unreadable", truncated, "truncated")
    plant("bad-affine", in_both_affines(lambda affine: affine * [[1], [1], [0], [1]]), "singular")
    plant("sheared-affine", in_both_affines(lambda affine: affine + 0.3 * np.eye(4, k=1) * [1, 1, 0, 0]), "degrees")
    plant(
        "bad-spacing", in_both_affines(lambda affine: affine @ np.diag([1e-3, 1e-3, 1e-3, 1])), "0.001x0.001x0.001 mm"
    )
    plant("spacing-mismatch", spacing_beside, "2x2x2 mm, the affine 1x1x1 mm")
    plant("form-mismatch", moved_qform, "10 mm apart")
    plant("unknown-orientation", no_codes)
    plant("mixed-orientation", stored_as_lps, "LPS where")
    plant("not-3d", in_image(tile), "4 axes")
    plant("not-finite", in_image(hole), "8 NaN and 1 infinite")
    plant("constant", in_image(lambda data: np.full_like(data, 5)), "every voxel is 5")
    plant("image-like-label", in_image(lambda data: (data > data.mean()).astype(np.uint8), np.uint8), "0 (")
    plant("label-like-image", image_as_label, "different values")
    plant("label-not-integer", in_label(lambda data: data * 0.5, np.float32), "not whole numbers")
    plant("label-value", in_label(lambda data: np.where(data == 1, 7, data)), "7 (")
    expected["class-missing"] = (expected["label-value"][0], "1 (anterior)")
    plant("label-empty", in_label(np.zeros_like))
    plant("label-without-background", in_label(lambda data: np.maximum(data, 1)))
    plant("label-is-image", label_is_image)
    plant("label-shape", in_label(lambda data: data[:-2]), "shape ")
    plant(
        "label-affine",
        lambda case: _change_affine(cohort.label(case), lambda a: a + _shift(3)) or cohort.label(case),
        "3 mm",
    )
    plant("channel-count", second_channel, "2 files where the data set has 1")
    plant("channel-grid", moved_channel, "5 mm")
    plant("class-absent", lambda case: None, "3 (amygdala)")
    plant("intensity-outlier", in_image(spike), "above the 99.5th percentile")
    plant("spacing-outlier", in_both_affines(lambda affine: affine @ np.diag([1, 1, 2.5, 1])), "1x1x2.5 mm")
    plant("extent-outlier", padded)
    plant("duplicate", copy_of_next, "byte-identical")
    plant("duplicate-same-subject", copy_of_same_subject)
    plant("duplicate-label", same_label_twice)
    plant("repeated-id", repeated_id, "'twin'")
    plant("divided-subject", divided_subject, "subject both")
    plant("colour", screenshot, "read as grey")
    plant("odd-ecg", ecg_with_gaps, "40 of 12000 samples are missing")
    plant("shared-report", same_report_twice, "1 of 1 held-out reports")
    return expected


def _shift(x: float) -> np.ndarray:
    shift = np.zeros((4, 4))
    shift[0, 3] = x
    return shift


@pytest.fixture(scope="module")
def planted(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Inspection]:
    folder = tmp_path_factory.mktemp("planted")
    cohort = Cohort(hippocampus, folder)
    expected = _plant(cohort)
    config = InspectConfig(data=cohort.write(), check=True, out=folder / "run")
    return expected, inspect(config)


@pytest.mark.parametrize("check", sorted(CHECKS))
def test_planted_defect_is_found(planted: tuple[dict, Inspection], check: str) -> None:
    file, words = planted[0][check]
    found = [f for f in planted[1].findings if f.check == check and (f.file.name if f.file else None) == file]
    assert found, f"{check} of {file} is not among the findings"
    assert words in found[0].message
    assert found[0].severity == CHECKS[check][0]


def test_sound_files_beside_defects_stay_without_findings(planted: tuple[dict, Inspection]) -> None:
    defects = len(planted[0])
    partners = {f"case_{CASES - back:02d}" for back in (1, 2, 3, 4)}
    touched = {f"case_{case:02d}" for case in range(defects)} | partners | {"again", "beats", "arrow"}
    assert len(touched) < CASES - 5
    for finding in planted[1].findings:
        assert finding.file is None or finding.file.name.split(".")[0][:7] in touched, str(finding)


def test_findings_are_written_and_counted(planted: tuple[dict, Inspection]) -> None:
    inspection = planted[1]
    rows = [json.loads(line) for line in (inspection.out / "findings.jsonl").read_text().splitlines()]
    assert [row["check"] for row in rows] == [finding.check for finding in inspection.findings]
    facts = RunFolder(inspection.out).read_facts()
    assert facts["findings"]["errors"] == inspection.errors > 0
    assert facts["status"] == "finished"


def test_class_missing_from_one_label_only(hippocampus: Path, tmp_path: Path) -> None:
    cohort = Cohort(hippocampus, tmp_path)
    _change(cohort.label(3), lambda data: np.where(data == 2, 1, data))
    findings = inspect(InspectConfig(data=cohort.write(), check=True, out=tmp_path / "run")).findings
    assert [(f.check, f.file) for f in findings] == [
        ("class-absent", None),
        ("class-missing", cohort.label(3)),
    ]


def test_nothing_is_found_in_clean_data(hippocampus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["inspect", str(hippocampus), "--check", "--out", str(out), "--workers", "2"])
    assert result.exit_code == 0, result.output
    assert "no problems found" in result.output
    assert "200 records of 200 subjects" in result.output
    manifest = Manifest.read(out / "manifest.jsonl")
    assert len(manifest.labelled()) == 200
    assert all(path.is_file() for record in manifest.records for path in record.files())


@pytest.mark.parametrize(
    ("name", "shown", "not_shown"),
    [
        (
            "vqa-rad",
            (
                "modalities: radiograph (244), report (243)",
                "target organ: chest (83), abdomen (81), head (80)",
                "colour",
            ),
            ("voxels", "no volume"),
        ),
        ("cxr-labs-hannover", ("ldh (in 109)", "findings present: icu (155), death (47)", "labs (146)"), ("voxels",)),
        ("ecg-12lead", ("sinus rhythm (56)", "A0001.hea", "Right bundle branch block."), ("voxels", "all of them")),
    ],
)
def test_what_has_no_volumes_is_told_by_its_modalities(
    shared: Path, tmp_path: Path, name: str, shown: tuple[str, ...], not_shown: tuple[str, ...]
) -> None:
    data = shared / "data" / name
    result = CliRunner().invoke(app, ["inspect", str(data), "--check", "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert [words for words in shown if words not in told] == []
    assert [words for words in not_shown if words in told] == []


def test_exit_code_is_one_with_errors_and_a_line_names_the_file(hippocampus: Path, tmp_path: Path) -> None:
    for number in (4, 6):
        shutil.copy(hippocampus / "imagesTr" / f"hippocampus_{number:03d}.nii.gz", tmp_path / f"scan_{number}.nii.gz")
    whole = (tmp_path / "scan_6.nii.gz").read_bytes()
    (tmp_path / "scan_6.nii.gz").write_bytes(whole[:-200])
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["inspect", str(tmp_path), "--check", "--out", str(out)])
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'scan_6.nii.gz'}: unreadable: " in result.output
    # Looking again, at something else, takes the place of the first inspection.
    (tmp_path / "scan_6.nii.gz").unlink()
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "scan_4.nii.gz"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert not (out / "findings.jsonl").exists()
    assert RunFolder(out).read_facts()["records"] == 1
