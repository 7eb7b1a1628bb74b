"""The wording of reports: sentences, cleaning in a fixed order, and swapping the sides of the body."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Literal, get_args

CleaningStep = Literal["whitespace", "blanks", "clock_times", "boilerplate", "comparisons"]
CLEANING: tuple[CleaningStep, ...] = get_args(CleaningStep)[:-1]
"""What is cleaned by default: everything but the language of comparisons."""

SHORTEST_SUB_CAPTION = 3
"""Words that a sentence needs to serve as a caption of its own."""

_ABBREVIATIONS = frozenset(
    (
        "dr",
        "drs",
        "mr",
        "mrs",
        "ms",
        "prof",
        "st",
        "vs",
        "cf",
        "ca",
        "approx",
        "e.g",
        "i.e",
        "a.m",
        "p.m",
        "fig",
        "incl",
    )
)
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s)|\n[ \t]*\n")
_ENUMERATION = re.compile(r"(?:\d{1,2}|[a-z])[.)]", re.IGNORECASE)
_WORD = re.compile(r"\w+")

_BLANK = re.compile(r"_{2,}")
_BEFORE_STOP = re.compile(r"\s+([.,;:!?])")
_CLOCK_TIME = re.compile(r"\b\d{1,2}\s*:\s*\d{2}\b|\b\d{1,2}\s*[ap]\.?m\b", re.IGNORECASE)
_BOILERPLATE = re.compile(
    r"\b(?:dictat\w+|transcri(?:bed|ption\w*)|electronically signed|attending (?:radiologist|physician)|"
    r"(?:reviewed|approved|interpreted) (?:by|with) (?:dr|the attending)\b|"
    r"(?:telephone|phone|pager?|paged|telephoned)\b|(?:discussed|communicated) (?:with|to|by)\b|"
    r"(?:physician|team|dr|nurse)\b.*\b(?:was|were) (?:notified|informed)|notif(?:ied|ication) (?:of|to|by)\b|"
    r"wet read(?:ing)?)\b",
    re.IGNORECASE,
)
_CHANGE = r"(?:(?:essentially|largely|relatively|grossly|overall)\s+)?(?:unchanged|stable)"
_COMPARED = r"(?:(?:as\s+)?compared\s+(?:to|with)|in\s+comparison\s+(?:to|with))"
_LATER_ASIDE = re.compile(
    rf"\s*,\s*{_CHANGE}\b(?:\s+(?:from|since)\s+[^,.;]*)?|\s*,?\s*\b{_COMPARED}\s+[^,.;]*", re.IGNORECASE
)
_OPENING = re.compile(rf"^(\s*(?:\d{{1,2}}[.)]\s*)?)(?:{_COMPARED}\s+[^,.;]*,\s*|{_CHANGE}\s+(?=\w))", re.IGNORECASE)
_COMPARISON = re.compile(
    r"\b(?:unchanged|stable|prior|previous(?:ly)?|compar(?:ed|ison)|interval|again|worsen\w*|improv\w*|"
    r"no (?:significant |relevant )?change)\b",
    re.IGNORECASE,
)

_SIDES = {"left": "right", "right": "left", "lll": "rll", "rll": "lll", "lul": "rul", "rul": "lul"}
_SIDE = re.compile(r"\b(left|right)(?=\b|_|wards?\b|most\b)|\b(LLL|RLL|LUL|RUL)\b", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """The sentences of ``text`` in their order.

    Decimals, abbreviations (``Dr.``, ``e.g.``) and the numbers of a list (``1. Mild edema. 2. ...``) end none; a blank line
    ends one.
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        head = text[start : end.start()].strip()
        before = head.split()[-1] if head else ""
        is_number = _ENUMERATION.fullmatch(f"{head}.") is not None
        if not end[0].startswith("\n") and (is_number or before.lower().lstrip("(") in _ABBREVIATIONS):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    found.append(text[start:].strip())
    return [sentence for sentence in found if sentence]


def sub_captions(text: str) -> list[str]:
    """The sentences that can caption an image alone: those of at least :data:`SHORTEST_SUB_CAPTION` words, numbers of a list not
    counted."""
    kept = []
    for sentence in sentences(text):
        first, _, rest = sentence.partition(" ")
        counted = rest if _ENUMERATION.fullmatch(first) else sentence
        if len(_WORD.findall(counted)) >= SHORTEST_SUB_CAPTION:
            kept.append(sentence)
    return kept


def clean(text: str, steps: Collection[CleaningStep] = CLEANING) -> str:
    """``text`` cleaned by ``steps``, whose order is fixed whatever order they are given in.

    ``whitespace``: any run is one space. ``blanks``: de-identified spans (``___``) go. ``clock_times``: sentences with a time of
    day go (MoRE). ``boilerplate``: sentences on dictation, signing and notifying go. ``comparisons``: asides such as
    ", unchanged" or "compared to the prior" go, and whole sentences that still compare: one image cannot bear them out.
    Raises ValueError for an unknown step.
    """
    if unknown := [step for step in steps if step not in _STEPS]:
        raise ValueError(f"unknown cleaning steps {', '.join(unknown)}; there are {', '.join(_STEPS)}")
    for step, change in _STEPS.items():
        if step in steps:
            text = change(text)
    return text


def swap_sides(text: str) -> str:
    """``text`` with left and right exchanged, as a mirrored image needs it: words (``left-sided``, ``rightward``) and the lobes
    LUL, LLL, RUL, RLL, in the case they stand in.

    RML stays, since the left lung has no middle lobe; nor can it know what lies on one side in everyone (heart, liver).
    """
    return _SIDE.sub(lambda match: _in_case_of(match[0], _SIDES[match[0].lower()]), text)


def names_a_side(text: str) -> bool:
    """Whether mirroring the image would make ``text`` wrong, as far as :func:`swap_sides` can tell."""
    return _SIDE.search(text) is not None


def _in_case_of(model: str, word: str) -> str:
    if model.isupper():
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _without_blanks(text: str) -> str:
    return _BEFORE_STOP.sub(r"\1", re.sub(r" {2,}", " ", _BLANK.sub("", text))).strip()


def _without(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def change(text: str) -> str:
        if not pattern.search(text):
            return text
        return " ".join(sentence for sentence in sentences(text) if not pattern.search(sentence))

    return change


def _without_comparisons(text: str) -> str:
    if not _COMPARISON.search(text) and not re.search(_COMPARED, text, re.IGNORECASE):
        return text
    kept = []
    for sentence in sentences(text):
        opened = _OPENING.sub(r"\1", sentence)
        plain = _LATER_ASIDE.sub("", opened)
        if not _WORD.search(plain) or _COMPARISON.search(plain):
            continue
        begins = plain[:1].upper() if opened != sentence else plain[:1]
        kept.append(begins + plain[1:])
    return " ".join(kept)


_STEPS: dict[str, Callable[[str], str]] = {
    "whitespace": _collapse,
    "blanks": _without_blanks,
    "clock_times": _without(_CLOCK_TIME),
    "boilerplate": _without(_BOILERPLATE),
    "comparisons": _without_comparisons,
}
