"""Reports: sections strict and lenient, and which text concludes."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcl.errors import DataError
from medcl.modalities.report import Section, conclusion, read_report, split_sections

MIMIC = (
    "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n INDICATION:  ___F with cough\n"
    " \n FINDINGS: \n \n Small left effusion.\n Size: 3 cm.\n \n IMPRESSION: \n \n Effusion.\n"
)
OTHER_HOUSE = "Findings: Small left effusion.\nSize: 3 cm.\nImpression:\nEffusion.\n"


def names(text: str, *, lenient: bool = False) -> list[str]:
    return [section.name for section in split_sections(text, lenient=lenient)]


def test_sections_keep_their_order_and_text() -> None:
    found = split_sections(MIMIC)
    assert found == (
        Section("preamble", "FINAL REPORT"),
        Section("examination", "CHEST (PA AND LAT)"),
        Section("indication", "___F with cough"),
        Section("findings", "Small left effusion.\n Size: 3 cm."),
        Section("impression", "Effusion."),
    )
    assert conclusion(found) == "Effusion."
    assert split_sections(MIMIC, lenient=True) == found


def test_no_word_is_lost() -> None:
    words = " ".join(section.text for section in split_sections(MIMIC)).split()
    headers = {"EXAMINATION:", "INDICATION:", "FINDINGS:", "IMPRESSION:"}
    assert words == [word for word in MIMIC.split() if word not in headers]


def test_only_the_lenient_reading_sees_other_headers() -> None:
    assert names(OTHER_HOUSE) == ["full report"]
    assert conclusion(split_sections(OTHER_HOUSE)) == ""
    found = split_sections(OTHER_HOUSE, lenient=True)
    assert found == (Section("findings", "Small left effusion.\nSize: 3 cm."), Section("impression", "Effusion."))
    assert names("FINDINGS: clear.", lenient=True) == ["findings"]
    assert names("FINDINGS: clear.") == ["full report"]


def test_a_header_right_below_an_empty_one() -> None:
    text = "\n HISTORY:\n FINDINGS: clear.\n \n IMPRESSION: none.\n"
    assert names(text) == ["preamble", "history", "impression"]  # as the archive's own reading has it
    assert names(text, lenient=True) == ["history", "findings", "impression"]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("CONCLUSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("IMPRESSOIN", "impression"),
        ("REASON  FOR EXAMINATION", "indication"),
        ("CLINICAL HISTORY", "history"),
        ("COMPARISONS", "comparison"),
        ("CHEST, TWO VIEWS", "findings"),
        ("WET READ", "wet read"),
    ],
)
def test_names_are_of_one_spelling(header: str, name: str) -> None:
    assert names(f"\n {header}:  text\n \n IMPRESSION: x\n")[1] == name


def test_the_conclusion_falls_back_in_order() -> None:
    impression, findings = "\n IMPRESSION: a\n", "\n FINDINGS: b\n"
    last, comparison = "\n COMPARISON: c\n \n d e\n", "\n COMPARISON: c\n"
    for text, expected in (
        (impression + findings, "a"),
        (impression + "\n IMPRESSION: z\n", "z"),
        (findings + "\n IMPRESSION:\n \n \n", "b"),
        (last, "d e"),
        (comparison, "c"),
        ("\n HISTORY: h\n", ""),
        ("", ""),
        ("first\n \n second", "second"),
    ):
        assert conclusion(split_sections(text)) == expected, text


def test_an_empty_text_is_an_empty_full_report() -> None:
    for lenient in (False, True):
        assert split_sections("", lenient=lenient) == (Section("full report", ""),)


def test_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Größe", encoding="utf-8-sig")
    (tmp_path / "b.txt").write_bytes("Größe".encode("latin-1"))
    assert read_report(tmp_path / "a.txt") == read_report(tmp_path / "b.txt") == read_report("Größe") == "Größe"
    with pytest.raises(DataError, match=r"c\.txt: cannot be read \(No such file"):
        read_report(tmp_path / "c.txt")
