"""Radiology reports: reading one, its sections, and the part that concludes.

The strict splitter follows the conventions of the MIMIC-CXR text archive (headers in capitals, one space from the margin), so that
its sections are those that published work used. The lenient one is for reports of other houses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from medcl.errors import DataError


class Section(NamedTuple):
    """A part of a report: its normalised name and its stripped text."""

    name: str
    text: str


_VARIANTS = {
    "impression": (
        "impressions", "conclusion", "conclusions", "findings and impression", "impression and findings", "findings/impression",
        "impression/findings", "findings impression", "final impression", "impresson", "impession", "imperssion", "impressoin",
        "imression", "impresion",
    ),
    "findings": (
        "finding", "findins", "findngs", "finidings", "finidngs", "findigns", "fingings", "chest, two views", "chest two views",
        "two views of the chest", "chest, single view", "chest findings",
    ),
    "indication": (
        "indications", "clinical indication", "clinical indications", "reason for exam", "reason for the exam",
        "reason for examination", "reason for the examination", "reason for study", "reason", "indcation", "inidcation",
    ),
    "history": ("clinical history", "patient history", "medical history", "clinical information", "brief history", "hisotry"),
    "comparison": (
        "comparisons", "comparison study", "comparison studies", "comparison exam", "comparison(s)", "comparision",
        "comparisions", "comparsion",
    ),
    "examination": ("exam", "examinations", "study", "procedure and examination"),
    "technique": ("techniques", "technqiue", "technnique"),
}  # fmt: skip
_NAMES = {variant: name for name, variants in _VARIANTS.items() for variant in (name, *variants)}

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
_LENIENT_HEADER = re.compile(r"^[ \t]*([A-Za-z][A-Za-z ()/,-]*):(?=\s|\Z)", re.MULTILINE)
_BLANK_LINE = "\n \n"
_LENIENT_BLANK_LINE = re.compile(r"\n[ \t]*\n")
_CONCLUDING = ("impression", "findings", "last_paragraph", "comparison")


def read_report(report: Path | str) -> str:
    """The text of a record's report: the file's (UTF-8, else Latin-1), or the text itself. DataError for an unreadable file."""
    if isinstance(report, str):
        return report
    try:
        content = report.read_bytes()
    except OSError as error:
        raise DataError(f"{report}: cannot be read ({error.strerror})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def split_sections(text: str, *, lenient: bool = False) -> tuple[Section, ...]:
    """The sections of a report in their order, names in lower case and of one spelling.

    What precedes the first header is ``preamble``; a text without headers is one section ``full report``. Empty findings and
    impressions are left out. Where neither remains, what follows the first blank line of the last section is
    ``last_paragraph``. ``lenient`` finds headers on the first line too, right after another header, at any indent, and in
    lower case where the name is a known one.
    """
    found = list(_lenient_sections(text) if lenient else _strict_sections(text))
    found = [(name, body) for name, body in found if name not in _CONCLUDING[:2] or body.strip()]
    if not any(name in _CONCLUDING[:2] for name, _ in found) and found:
        name, body = found[-1]
        parts = _LENIENT_BLANK_LINE.split(body, 1) if lenient else body.split(_BLANK_LINE, 1)
        if len(parts) == 2:
            found[-1:] = [(name, parts[0]), ("last_paragraph", parts[1])]
    return tuple(Section(name, body.strip()) for name, body in found)


def conclusion(sections: Sequence[Section]) -> str:
    """The last impression, else the last findings, else the last paragraph, else the comparison, else nothing."""
    for wanted in _CONCLUDING:
        texts = [section.text for section in sections if section.name == wanted]
        if texts:
            return texts[-1]
    return ""


def _strict_sections(text: str) -> Iterator[tuple[str, str]]:
    header = _HEADER.search(text)
    if header is None:
        yield "full report", text
        return
    yield "preamble", text[: header.start()]
    while header is not None:
        # The archive's own reading goes on behind the line of a header: a header right below an empty one is not seen.
        line_end = text.find("\n", header.end())
        following = _HEADER.search(text, line_end if line_end >= 0 else header.end())
        yield _normalised(header[1]), text[header.end() : following.start() if following else len(text)]
        header = following


def _lenient_sections(text: str) -> Iterator[tuple[str, str]]:
    headers = [
        each for each in _LENIENT_HEADER.finditer(text) if each[1].isupper() or each[1].strip().lower() in _NAMES
    ]
    if not headers:
        yield "full report", text
        return
    if before := text[: headers[0].start()].strip():
        yield "preamble", before
    ends = [*(header.start() for header in headers[1:]), len(text)]
    for header, end in zip(headers, ends, strict=True):
        yield _normalised(header[1]), text[header.end() : end]


def _normalised(name: str) -> str:
    name = " ".join(name.lower().split())
    return _NAMES.get(name, name)
