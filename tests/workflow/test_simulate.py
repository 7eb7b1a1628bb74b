"""The simulated cohort: who is a patient, and what a patient has that a control has not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.records.layouts import open_data
from medcl.workflow.simulate import simulate_cohort

pytest.importorskip("nilearn")


def test_every_second_subject_is_a_patient_with_a_lesion(tmp_path: Path) -> None:
    plain = simulate_cohort(tmp_path / "plain", volumes=4, spacing=8.0)
    with_patients = simulate_cohort(tmp_path / "patients", volumes=4, spacing=8.0, patients=True)
    manifest = open_data(with_patients / "records.jsonl")
    assert manifest.provenance["simulated"] == "yes"
    assert [record.attributes["group"] for record in manifest.records] == ["control", "patient"] * 2
    for record in manifest.records:
        own, other = (
            np.asarray(nib.load(f / "imagesTr" / f"{record.id}.nii.gz").dataobj) for f in (with_patients, plain)
        )
        if record.attributes["group"] == "control":
            assert "lesion" not in record.attributes
            np.testing.assert_array_equal(own, other)
        else:
            changed = own - other
            sign = {"bright": 1, "dark": -1}[record.attributes["lesion"]]
            assert sign * changed[np.abs(changed) > 0].mean() > 0.1 * other.mean()
            assert 0 < (np.abs(changed) > 0.05 * other.mean()).mean() < 0.05
    assert {record.attributes["size"] for record in manifest.records} <= {"small", "large"}
