"""Texts that say the same: normalisation, near duplicates against a plain reference, groups."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.modalities.duplicates import near_duplicates, normalised, text_digest, text_groups

CLEAR = "No acute cardiopulmonary process. The lungs are clear and the heart is of normal size."
TEXTS = [
    CLEAR,
    "Large right pleural effusion with compressive atelectasis of the lower lobe.",
    CLEAR.upper().replace(".", " ;"),
    CLEAR.replace("normal size", "normal sizes"),
    "Endotracheal tube 3.5 cm above the carina, in the usual place.",
    "___",
    "",
]


def test_case_space_and_punctuation_do_not_count_but_numbers_do() -> None:
    assert normalised("  Tip 3.5 cm,\n ABOVE___ the carina!") == "tip 3.5 cm above the carina"
    assert text_digest("Clear. Lungs") == text_digest("clear   LUNGS___")
    assert text_digest("3.5 cm") != text_digest("35 cm")
    assert text_digest("3.5 cm") != text_digest("3 5 cm")
    assert text_digest("left effusion") != text_digest("right effusion")


def test_near_duplicates_are_found_with_their_cosine() -> None:
    pairs, cosine = near_duplicates(TEXTS, 0.8)
    assert pairs.tolist() == [[0, 2], [0, 3], [2, 3]]
    assert cosine[0] == pytest.approx(1)
    assert 0.8 < cosine[1] < 1
    assert near_duplicates(TEXTS, 1.0)[0].tolist() == [[0, 2]]
    for empty in ([], ["", "..."]):
        assert near_duplicates(empty)[0].shape == (0, 2)
    with pytest.raises(ValueError, match=r"must be in \(0, 1\], not 1\.5"):
        near_duplicates(TEXTS, 1.5)


def test_blocks_do_not_change_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    words = ["effusion", "edema", "left", "right", "small", "large"]
    texts = [" ".join(draw.choice(words, 4)) for _ in range(40)]
    whole = near_duplicates(texts, 0.7)
    assert len(whole[0]) > 10
    monkeypatch.setattr("medcl.modalities.duplicates._ROWS", 7)
    for one, other in zip(whole, near_duplicates(texts, 0.7), strict=True):
        np.testing.assert_allclose(one, other)


def test_groups() -> None:
    assert text_groups(TEXTS).tolist() == [0, 1, 0, 2, 3, 4, 5]
    assert text_groups(TEXTS, 0.8).tolist() == [0, 1, 0, 0, 2, 3, 4]
    assert text_groups([]).tolist() == []
    assert text_groups([], 0.8).tolist() == []


def test_a_chain_is_one_group_whatever_the_order() -> None:
    texts = [CLEAR, TEXTS[1], CLEAR + " No fracture.", CLEAR + " No fracture. No free air."]
    expected = np.array([0, 1, 0, 0])
    order = np.array([3, 1, 0, 2])
    pairs = near_duplicates(texts, 0.88)[0].tolist()
    assert [0, 2] in pairs
    assert [2, 3] in pairs
    for places in (np.arange(4), order):
        found = text_groups([texts[n] for n in places], 0.88)
        same = expected[places][:, None] == expected[places]
        np.testing.assert_array_equal(found[:, None] == found, same)
        assert found[0] == 0
