"""Facts of files: right for real ones, and never an exception for damaged ones."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medcl.modalities.facts import read_all_facts, read_facts
from medcl.records.layouts import open_data


def test_facts_of_a_real_volume_and_its_label(hippocampus: Path) -> None:
    path = hippocampus / "imagesTr" / "hippocampus_004.nii.gz"
    voxels = np.asarray(nibabel.load(path).dataobj)
    facts = read_facts(path, "image")
    assert facts.error is None
    assert facts.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts.shape, facts.spacing, facts.orientation, facts.dtype) == ((36, 52, 38), (1, 1, 1), "RAS", "float32")
    assert facts.mean == pytest.approx(voxels.mean(dtype=np.float64))
    assert facts.percentile(95.0) == pytest.approx(np.percentile(voxels, 95))
    assert np.array_equal(facts.matrix, nibabel.load(path).affine)
    label = read_facts(hippocampus / "labelsTr" / path.name, "label")
    assert label.values == {0: 36 * 52 * 38 - 1832 - 1866, 1: 1832, 2: 1866}


def test_workers_and_their_number_do_not_change_the_facts(hippocampus: Path) -> None:
    manifest = open_data(hippocampus)
    few = manifest.select(manifest.ids[:3])
    seen: list[tuple[int, int]] = []
    assert read_all_facts(few, 2, lambda done, of: seen.append((done, of))) == read_all_facts(few)
    assert seen == [(n, 6) for n in range(1, 7)]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd", ".hdr", ".dcm"])
def test_damaged_files_are_facts_not_exceptions(hippocampus: Path, tmp_path: Path, suffix: str) -> None:
    source = hippocampus / "imagesTr" / "hippocampus_004.nii.gz"
    path = tmp_path / f"scan{suffix}"
    if suffix in (".mha", ".nrrd"):
        sitk.WriteImage(sitk.ReadImage(str(source)), str(path))
        whole = path.read_bytes()
    else:
        content = gzip.decompress(source.read_bytes())
        whole = source.read_bytes() if suffix == ".nii.gz" else content
    random = np.random.default_rng(0)
    for damage in (0, 1, 100, 200, 348, 400, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:damage])
        assert read_facts(path, "image").error, f"{damage} bytes of {len(whole)}"
    for _ in range(40):
        noisy = bytearray(whole)
        for place in random.integers(0, min(len(whole), 600), 6):
            noisy[place] = random.integers(256)
        path.write_bytes(bytes(noisy))
        error = read_facts(path, "label").error
        assert error is None or (error and "\n" not in error)
