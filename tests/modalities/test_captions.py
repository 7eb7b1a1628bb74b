"""Captions from labels: what is present is stated, what is uncertain hedged, and nothing else named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcl.config.captions import CaptionsConfig, read_captions
from medcl.errors import ConfigError, DataError
from medcl.modalities.captions import captions, captions_by, label_captions, label_sentence, report_pair
from medcl.records.chexpert_labels import LABELS
from medcl.records.ptbxl import SUPERCLASSES
from medcl.records.record import Record

CHEST = {"modality": "X-ray", "anatomy": "chest"}
HEDGES = ("possible", "may", "question", "suspected", "cannot be confirmed", "equivocal", "suspicious", "uncertain")
DISEASES = [name for name in LABELS if name != "No Finding"]


@given(st.dictionaries(st.sampled_from(LABELS), st.sampled_from([1.0, 0.0, -1.0])))
def test_only_what_the_labels_state_is_named(labels: dict[str, float]) -> None:
    stated = {name for name, value in labels.items() if value != 0 and name != "No Finding"}
    for text in captions(labels, **CHEST):
        named = {name for name in DISEASES if name.lower() in text.lower()}
        assert named <= stated
        assert "{" not in text
        assert text[0].isupper()
        assert text.endswith(".")
        assert "X-ray" in text
        assert "chest" in text
        if not stated and labels.get("No Finding") != 1:
            assert not any(word in text.lower() for word in ("no ", "normal", "without", "healthy", "unremarkable"))


@given(st.dictionaries(st.sampled_from(DISEASES), st.sampled_from([1.0, -1.0]), min_size=1, max_size=3))
def test_uncertain_findings_stand_behind_a_hedge_and_present_ones_do_not(labels: dict[str, float]) -> None:
    uncertain = [name.lower() for name, value in labels.items() if value == -1]
    present = [name.lower() for name, value in labels.items() if value == 1]
    for text in captions(labels, **CHEST):
        low = text.lower()
        first, second = low.split(". ", 1) if present and uncertain else (low, low)
        assert all(name in first for name in present)
        assert all(name in second for name in uncertain)
        assert any(hedge in second for hedge in HEDGES) == bool(uncertain)
        if present:
            assert not any(hedge in first for hedge in HEDGES)


def test_wordings_are_many_and_different() -> None:
    for labels in ({"Edema": 1.0}, {"Edema": -1.0}, {"No Finding": 1.0}):
        found = captions(labels, **CHEST)
        assert len(found) == len(set(found)) == 10
    assert len(set(captions({"Edema": 1.0, "Fracture": -1.0}, **CHEST))) == 30
    assert "X-ray of the chest showing edema, fracture and pneumonia." in captions(
        {"Edema": 1.0, "Fracture": 1.0, "Pneumonia": 1.0, "Lung Lesion": 1.0}, **CHEST
    )
    phrased = captions({"Pleural Other": 1.0}, **CHEST, phrases={"Pleural Other": "a pleural abnormality"})
    assert "X-ray of the chest with a pleural abnormality." in phrased


def test_drawing_is_by_seed_and_reaches_every_finding() -> None:
    record = Record("r", "s", targets=dict.fromkeys(DISEASES[:6], 1.0) | {"Fracture": 0.0, "x": 7.0})
    config = CaptionsConfig(modality="X-ray", anatomy="chest", labels={name: {} for name in LABELS})
    written = label_captions([record, Record("none", "s", targets={"x": 7.0})], config)
    assert list(written.labels) == ["r"]
    drawn = [written.draw("r", seed) for seed in range(200)]
    assert drawn == [written.draw("r", seed) for seed in range(200)]
    assert all(any(name.lower() in text.lower() for text in drawn) for name in DISEASES[:6])
    assert len(set(drawn)) > 100
    assert all(sum(name.lower() in text.lower() for name in DISEASES[:6]) == 3 for text in drawn)


class TestFiles:
    def test_shipped_wordings(self) -> None:
        chest, ecg = (read_captions(f"configs/captions/{name}.yaml") for name in ("chexpert", "ptbxl"))
        assert set(chest.labels) == set(LABELS)
        assert set(ecg.labels) == set(SUPERCLASSES)
        assert "Chest X-ray with an enlarged heart." in captions_by(chest, {"Cardiomegaly": 1.0, "Edema": 0.0})
        assert "Normal ECG." in captions_by(ecg, {"NORM": 1.0, "MI": 0.0})
        assert "Resting ECG with myocardial infarction and hypertrophy." in captions_by(ecg, {"MI": 1.0, "HYP": 1.0})
        assert captions_by(ecg, {"MI": 0.0})[0] == "12-lead ECG."

    def test_a_class_by_name_is_present(self) -> None:
        config = CaptionsConfig(
            modality="MRI", anatomy="brain", labels={"Glioma": {"phrase": "a glioma"}, "None": {}}, normal="None"
        )
        records = [Record("a", "s", targets={"class": "Glioma"}), Record("b", "s", targets={"class": "None"})]
        found = label_captions(records, config)
        assert found.all("a")[0] == "MRI of the brain showing a glioma."
        assert found.all("b")[0] == "MRI of the brain without abnormality."
        with pytest.raises(DataError, match=r"record c: Glioma is 0\.5; a label is 1, 0, -1 or blank"):
            label_captions([Record("c", "s", targets={"Glioma": 0.5})], config)

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            ("labels: {Edema: {phrse: edema}}", r"captions.yaml:4: .*phrse.*did you mean .*phrase"),
            ("labels: {Edema: {}}\npresent: ['{modality} shows {finding}.']", "has {finding}; a template knows"),
            ("labels: {Edema: {}}\nsilent: ['{findings} here']", "states {findings}"),
            ("labels: {Edema: {}}\nnormal: Fine", "normal: 'Fine' is none of the labels"),
        ],
    )
    def test_a_wrong_file_is_named_with_its_line(self, tmp_path: Path, lines: str, said: str) -> None:
        path = tmp_path / "captions.yaml"
        path.write_text(f"version: 1\nmodality: X-ray\nanatomy: chest\n{lines}\n")
        with pytest.raises(ConfigError, match=said):
            read_captions(path)


def test_labels_of_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="wrong for Edema"):
        captions({"Edema": 0.5}, **CHEST)


def test_composite_reports() -> None:
    labels = {"Edema": 1.0, "Pneumonia": 1.0, "Fracture": -1.0, "Lung Lesion": 0.0}
    assert label_sentence(labels) == "Edema, Pneumonia is present. uncertain finding of Fracture"
    assert label_sentence({"Edema": 0.0}) == ""
    assert report_pair(" ", "", labels) == (
        "The report from Xray is: Edema, Pneumonia is present. uncertain finding of Fracture",
        "The report from ECG is: ECG note not available.",
    )
    assert report_pair("Clear.", "Sinus rhythm", labels)[0] == "The report from Xray is: Clear."
