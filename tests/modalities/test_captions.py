"""Captions from labels: what is present is stated, what is uncertain hedged, and nothing else named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcl.modalities.captions import captions, draw_caption, label_sentence, report_pair
from medcl.records.chexpert_labels import LABELS

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
    labels = dict.fromkeys(DISEASES[:6], 1.0) | {"Fracture": 0.0}
    drawn = [draw_caption(labels, **CHEST, seed=seed) for seed in range(200)]
    assert drawn == [draw_caption(labels, **CHEST, seed=seed) for seed in range(200)]
    assert all(any(name.lower() in text for text in drawn) for name in DISEASES[:6])
    assert len(set(drawn)) > 100
    assert all(sum(name.lower() in text.lower() for name in DISEASES[:6]) == 3 for text in drawn)


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
