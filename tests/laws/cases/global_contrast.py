from __future__ import annotations

from typing import Any

from medcl.objectives.global_contrast import ISogCLIP, ISogCLR, SogCLIP, SogCLR
from tests.laws.case import Case, Law

SURROGATE: dict[Law, str] = {
    "gradient": "its value is a surrogate, of which only the gradient counts",
    "equal": "its value for identical embeddings is 0, whatever the batch",
}


def _case(entry: Any, **more: Any) -> Case:
    return Case(entry, exempt=SURROGATE, **more)


CASES = {
    "sog_clr": _case(SogCLR()),
    "sog_clr, patients": _case(SogCLR(gamma=0.5, gamma_schedule="cosine", exclude_same_subject=True)),
    "isog_clr": _case(ISogCLR(range=(0.01, 0.7))),
    "sog_clip": _case(SogCLIP(published_scale=True)),
    "sog_clip, global": _case(SogCLIP(temperature_mode="global", range=(0.01, 1.0))),
    "isog_clip": _case(ISogCLIP()),
}
