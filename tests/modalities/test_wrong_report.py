"""Reports made wrong in one point."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.modalities.wrong_report import KINDS, wrong_reports


def made(text: str, *kinds: str) -> list[str]:
    return [found.text for found in wrong_reports(text, np.random.default_rng(0), kinds or KINDS)]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("side", "Left effusion, right lung clear.", ["Right effusion, right lung clear.", "Left effusion, left lung clear."]),
        ("side", "LLL opacity.", ["RLL opacity."]),
        ("severity", "Mild edema.", ["Severe edema."]),
        ("severity", "Moderate cardiomegaly.", ["Minimal cardiomegaly."]),
        ("place", "Upper lobe mass at the apex.", ["Lower lobe mass at the apex.", "Upper lobe mass at the base."]),
        ("negation", "There is no pneumothorax.", ["There is pneumothorax."]),
        ("negation", "There is edema.", ["There is no edema."]),
        ("negation", "Lungs are clear. No effusion.", ["Lungs are clear. Effusion."]),
        ("negation", "Heart is not enlarged, without edema.", ["Heart is enlarged, without edema.", "Heart is not enlarged, with edema."]),
    ],
)  # fmt: skip
def test_each_rule_changes_one_place(kind: str, text: str, expected: list[str]) -> None:
    assert made(text, kind) == expected


def test_counts_become_other_numbers_from_two_to_ten() -> None:
    words = {made_ for seed in range(40) for made_ in
             (found.text.split()[0] for found in wrong_reports("Three small nodules.", np.random.default_rng(seed), ["number"]))}  # fmt: skip
    assert "Three" not in words
    assert words <= {"Two", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten"}
    assert len(words) > 5
    (digits,) = made("4 rib fractures", "number")
    assert digits.split()[0] in {"2", "3", "5", "6", "7", "8", "9", "10"}


@pytest.mark.parametrize(
    "text",
    ["A 3 mm nodule.", "Two views of the chest.", "2-3 nodules.", "two to three nodules", "third rib fractures", "T3 lesions", "1.5 nodules", "one nodule"],
)  # fmt: skip
def test_measurements_views_ranges_and_ordinals_are_no_counts(text: str) -> None:
    assert made(text, "number") == []


def test_nothing_to_change_gives_nothing_and_unknown_kinds_are_refused() -> None:
    assert made("Normal chest.") == []
    with pytest.raises(ValueError, match="unknown kinds colour; there are side, severity"):
        made("Normal chest.", "colour")
