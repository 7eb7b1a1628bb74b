"""The PhysioNet/CinC Challenges of 2020 and 2021: WFDB records whose headers hold age, sex and coded diagnoses.

The names of the SNOMED-CT codes come from a table beside them: the Challenge's ``dx_mapping_scored.csv`` and ``dx_mapping_unscored.csv``,
or ``dx_codes.csv`` with the columns ``snomed_ct`` and ``diagnosis``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from medcl.errors import DataError
from medcl.records.csv_tables import read_table
from medcl.records.manifest import Manifest
from medcl.records.record import Record

# Which of the Challenge's sources a record's name tells of.
_SOURCES = {
    "A": "CPSC",
    "Q": "CPSC-Extra",
    "HR": "PTB-XL",
    "E": "Georgia",
    "JS": "Chapman-Shaoxing or Ningbo",
    "S": "PTB",
}
_TABLES = (
    ("dx_codes.csv", "snomed_ct", "diagnosis"),
    ("dx_mapping_scored.csv", "SNOMEDCTCode", "Dx"),
    ("dx_mapping_unscored.csv", "SNOMEDCTCode", "Dx"),
)
_RHYTHMS = {
    "sinus rhythm",
    "normal sinus rhythm",
    "sinus bradycardia",
    "sinus tachycardia",
    "sinus arrhythmia",
    "atrial fibrillation",
    "atrial flutter",
    "atrial tachycardia",
    "supraventricular tachycardia",
    "pacing rhythm",
}
_FACT = re.compile(r"#\s*(Age|Sex|Dx)\s*:\s*(.*)")
_MOST = 8192  # characters of a header that are looked at: a record of twelve leads has about 800


def is_cinc_challenge(folder: Path) -> bool:
    """Whether the first WFDB header in or below ``folder`` names diagnoses."""
    first = next(iter(_headers(folder)), None)
    return first is not None and "Dx" in _facts(first)


def open_cinc_challenge(folder: Path) -> Manifest:
    """One record a recording: ``ecg``, ``targets`` 1 or 0 for every diagnosis of the collection, and as ``report`` the names of its own.

    The target ``rhythm`` is the only rhythm among its diagnoses; a recording with several or none has no such target.
    The report is made from the codes and says no more than they do. Attributes: ``age``, ``sex``, ``source`` (told by the
    record's name). A code without a name keeps its number. Every record is a subject of its own: the Challenge names no patients.
    """
    names = _names(folder)
    found = {header: _facts(header) for header in _headers(folder)}
    coded = {header: _diagnoses(facts.get("Dx", ""), names) for header, facts in found.items()}
    every = sorted({name for own in coded.values() for name in own})
    records, problems = [], []
    seen: dict[str, Path] = {}
    for header, facts in found.items():
        if header.stem in seen:
            problems.append(f"{header}: {seen[header.stem]} has the same name")
        seen[header.stem] = header
        own = coded[header]
        rhythms = _RHYTHMS & set(own)
        attributes = {"age": facts.get("Age", ""), "sex": facts.get("Sex", "").lower(), "source": _source(header.stem)}
        records.append(
            Record(
                id=header.stem,
                subject=header.stem,
                ecg=header,
                report=" ".join(f"{name[0].upper()}{name[1:]}." for name in own) or None,
                targets={name: float(name in own) for name in every}
                | ({"rhythm": min(rhythms)} if len(rhythms) == 1 else {}),
                attributes={
                    name: value
                    for name, value in attributes.items()
                    if value and value.lower() not in ("nan", "unknown")
                },
            )
        )
    if problems:
        raise DataError(problems)
    return Manifest(
        tuple(records),
        source=f"PhysioNet/CinC Challenge {folder}",
        provenance={
            "name": "PhysioNet/CinC Challenge 2021",
            "licence": "CC BY 4.0",
            "reference": "M. A. Reyna et al., Computing in Cardiology 48 (2021)",
            "reports": "made from diagnosis codes",
        },
    )


def _headers(folder: Path) -> Iterator[Path]:
    """In ``folder``, else in its folders, in the order of their names."""
    for pattern in ("*.hea", "*/*.hea", "*/*/*.hea"):
        if found := sorted(folder.glob(pattern)):
            yield from found
            return


def _facts(header: Path) -> dict[str, str]:
    """Age, sex and codes as the comments of a header give them."""
    with open(header, encoding="utf-8", errors="replace") as stream:
        lines = stream.read(_MOST).splitlines()
    matches = [_FACT.fullmatch(line.strip()) for line in lines]
    return {match[1]: match[2].strip() for match in matches if match}


def _names(folder: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, code, title in _TABLES:
        if (folder / name).is_file():
            table = read_table(folder / name, (code, title))
            found.update(zip(table[code], table[title].str.lower(), strict=True))
    if not found:
        raise DataError(
            f"{folder}: no table names the diagnoses of its headers; put dx_mapping_scored.csv and dx_mapping_unscored.csv of the Challenge there"
        )
    return found


def _diagnoses(codes: str, names: Mapping[str, str]) -> list[str]:
    """The names of codes in their order, each once; one header of the collection has an empty code."""
    return list(dict.fromkeys(names.get(code, f"code {code}") for code in map(str.strip, codes.split(",")) if code))


def _source(name: str) -> str:
    return _SOURCES.get(re.match(r"[A-Za-z]*", name)[0].upper(), "")  # type: ignore[index]
