"""Reports made wrong in one point by rules: another side, severity, place or number, or present instead of absent (multimodal.md 6.10, 6.18).

Every rule changes one place of a text and leaves the rest as it is, so that only meaning tells the two apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple, get_args

import numpy as np

Kind = Literal["side", "severity", "place", "negation", "number"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class WrongReport(NamedTuple):
    """``kind``: what was changed.   ``text``: the whole report with the change."""

    kind: Kind
    text: str


def wrong_reports(text: str, rng: np.random.Generator, kinds: Collection[Kind] = KINDS) -> list[WrongReport]:
    """All that the rules of ``kinds`` make of ``text``, one for every place they apply to; () where none applies.

    ``rng``: draws the number that stands for a count of two to ten findings. Measurements (3 mm), numbers of views, ranges and ordinals
    are no counts. Raises ValueError for an unknown kind.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"unknown kinds {', '.join(unknown)}; there are {', '.join(KINDS)}")
    found = []
    for kind in KINDS:
        if kind in kinds:
            changed = _numbers(text, rng) if kind == "number" else _swapped(text, *_SWAPS[kind])
            found += [WrongReport(kind, other) for other in changed if other != text]
    return found


def _both_ways(pairs: dict[str, str]) -> dict[str, str]:
    return {**pairs, **{other: one for one, other in pairs.items()}}


def _words(words: Collection[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(sorted(words, key=len, reverse=True))})\b", re.IGNORECASE)


_SIDES = _both_ways({"left": "right", "lll": "rll", "lul": "rul"})
_SEVERITIES = {
    **_both_ways({"mild": "severe", "mildly": "severely", "small": "large", "minimal": "extensive"}),
    "moderate": "minimal",
    "moderately": "minimally",
    "slight": "marked",
    "marked": "slight",
    "tiny": "large",
}
_PLACES = _both_ways(
    {
        "upper": "lower",
        "apical": "basal",
        "apex": "base",
        "apices": "bases",
        "anterior": "posterior",
        "medial": "lateral",
    }
)
_ABSENCES: dict[str, str] = {
    "there is no evidence of": "there is",
    "there is no": "there is",
    "there are no": "there are",
    "no evidence of": "evidence of",
    "without": "with",
    "is not": "is",
    "are not": "are",
    "was not": "was",
    "were not": "were",
    "there is": "there is no",
    "there are": "there are no",
}
_SWAPS: dict[str, tuple[re.Pattern[str], dict[str, str]]] = {
    "side": (_words(_SIDES), _SIDES),
    "severity": (_words(_SEVERITIES), _SEVERITIES),
    "place": (_words(_PLACES), _PLACES),
    "negation": (_words(_ABSENCES), _ABSENCES),
}
_OPENING_NO = re.compile(r"(?:(?<=[.!?:]\s)|^)No (?!evidence\b)(?:\w)")

_NUMBER_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNTED = (
    r"nodules|masses|lesions|fractures|metastases|opacities|cysts|calcifications|granulomas|effusions|infiltrates|"
    r"leads|tubes|catheters|lines|drains|clips|wires|stents|ribs|aneurysms|haemorrhages|hemorrhages|infarcts|foci"
)
_COUNT = re.compile(
    rf"(?<![\d.,/-])(?<!\bto )(?<!\bor )\b({'|'.join(_NUMBER_WORDS)}|[2-9]|10)\b"
    rf"(?=(?:\s+(?!mm\b|cm\b|views?\b|or\b|to\b|and\b)[a-z-]+){{0,3}}?\s+(?:{_COUNTED})\b)",
    re.IGNORECASE,
)


def _swapped(text: str, pattern: re.Pattern[str], words: dict[str, str]) -> Iterator[str]:
    for match in pattern.finditer(text):
        yield _with(text, match, _like(match[0], words[match[0].lower()]))
    if words is _ABSENCES:
        for match in _OPENING_NO.finditer(text):
            yield _with(text, match, match[0][-1].upper())


def _numbers(text: str, rng: np.random.Generator) -> Iterator[str]:
    for match in _COUNT.finditer(text):
        word = match[1].lower()
        own = int(word) if word.isdigit() else _NUMBER_WORDS.index(word) + 2
        other = int(rng.choice([number for number in range(2, 11) if number != own]))
        yield _with(text, match, str(other) if word.isdigit() else _like(match[0], _NUMBER_WORDS[other - 2]))


def _with(text: str, match: re.Match[str], other: str) -> str:
    return text[: match.start()] + other + text[match.end() :]


def _like(model: str, word: str) -> str:
    """``word`` in the case of ``model``."""
    if model.isupper():
        return word.upper()
    return word[0].upper() + word[1:] if model[0].isupper() else word
