"""Wording: what ends a sentence, what cleaning takes and what it must leave, and the sides of the body."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medcl.modalities.report_text import CLEANING, clean, names_a_side, sentences, sub_captions, swap_sides


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The tip is 3.5 cm above. No effusion.", ["The tip is 3.5 cm above.", "No effusion."]),
        ("Seen by Dr. Who. Clear lungs!", ["Seen by Dr. Who.", "Clear lungs!"]),
        ("Opacity, e.g. pneumonia. Is it new? Yes.", ["Opacity, e.g. pneumonia.", "Is it new?", "Yes."]),
        ("1. Mild edema. 2. No effusion.", ["1. Mild edema.", "2. No effusion."]),
        ("The grade is 3. The heart is large.", ["The grade is 3.", "The heart is large."]),
        ("Heart normal\n \nLungs clear", ["Heart normal", "Lungs clear"]),
        ('He said "clear." Then (see below.) more', ['He said "clear."', "Then (see below.)", "more"]),
        ("", []),
        (" . ", ["."]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@given(st.text(alphabet="ab1. \n?Dr", max_size=40))
def test_no_character_but_space_is_lost(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


def test_short_sentences_caption_nothing() -> None:
    assert sub_captions("1. Edema. 2. Mild edema seen. Stable. No effusion. Heart size normal.") == [
        "2. Mild edema seen.",
        "Heart size normal.",
    ]


def test_cleaning_by_default() -> None:
    text = (
        "___F with  cough.\n Lungs are clear ___ . Findings were discussed with Dr. ___ at 7:15 pm.\n"
        " The tube is 3.5 cm above the carina, unchanged. Dictated by the resident. Dr. Who was notified."
    )
    expected = "F with cough. Lungs are clear. The tube is 3.5 cm above the carina, unchanged."
    assert clean(text) == expected
    assert clean(text, CLEANING[::-1]) == expected  # the order is fixed
    assert clean(expected) == expected
    assert clean(text, ()) == text
    with pytest.raises(ValueError, match="unknown cleaning steps polish"):
        clean(text, ("polish",))  # type: ignore[arg-type]


def test_cleaning_leaves_findings_alone() -> None:
    text = "Two-view chest shows a 2.0 x 3.0 cm nodule. Reviewed: no effusion. The team sees a mass at 3 cm."
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mild edema, unchanged. Heart large.", "Mild edema. Heart large."),
        ("Small effusion compared to the prior. Clear.", "Small effusion. Clear."),
        ("Compared with yesterday, there is a small effusion.", "There is a small effusion."),
        ("Unchanged small left effusion.", "Small left effusion."),
        ("The heart size is unchanged. Lungs are clear.", "Lungs are clear."),
        ("Interval worsening of edema.", ""),
        ("Lungs are clear.", "Lungs are clear."),
        ("pH of 7.4 is normal.", "pH of 7.4 is normal."),
        ("The tip is high relative to the carina.", "The tip is high relative to the carina."),
        ("Small effusion in comparison with the prior.", "Small effusion."),
    ],
)
def test_language_of_comparisons_is_optional(text: str, expected: str) -> None:
    assert clean(text) == text
    assert clean(text, (*CLEANING, "comparisons")) == expected


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("Left-sided effusion, RIGHT lung clear, the left, leftward shift", "Right-sided effusion, LEFT lung clear, the right, rightward shift"),
        ("bright upright leftover bilateral", "bright upright leftover bilateral"),
        ("RLL opacity and LUL nodule; RML clear", "LLL opacity and RUL nodule; RML clear"),
        ("No side here", "No side here"),
    ],
)  # fmt: skip
def test_sides_are_swapped_as_words(text: str, swapped: str) -> None:
    assert swap_sides(text) == swapped
    assert swap_sides(swapped) == text
    assert names_a_side(text) == (text != swapped)


@given(st.lists(st.sampled_from(["left", "Right", "LEFT", "RLL", "lung", "bright", ",", "-"]), max_size=8))
def test_swapping_twice_changes_nothing(words: list[str]) -> None:
    text = " ".join(words)
    assert swap_sides(swap_sides(text)) == text


def test_real_questions_and_answers(shared: Path) -> None:
    rows = json.loads((shared / "data" / "vqa-rad" / "vqa_rad.json").read_text())
    texts = [f"{row['question']} {row['answer']}." for row in rows]
    assert len(texts) == 1724
    sided = [text for text in texts if names_a_side(text)]
    assert 150 < len(sided) < 400
    for text in sided:
        assert swap_sides(text) != text
        assert swap_sides(swap_sides(text)) == text
    assert all(clean(text) for text in texts)
