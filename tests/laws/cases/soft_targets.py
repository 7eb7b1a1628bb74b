from __future__ import annotations

from medcl.objectives.soft_targets import Cwcl, LabelClip, SoftClip
from tests.laws.case import Case, Law

JUDGED: dict[Law, str] = {"views": "one modality judges", "cosines": "every candidate is a positive to some degree"}
LOCKED: dict[Law, str] = {
    "views": "the first modality is locked",
    "gradient": "weights of the locked modality are constants",
}

CASES = {
    "soft_clip": Case(SoftClip(temperature=0.2), exempt={**JUDGED, "gradient": "its targets are constants"}),
    "soft_clip, first judges": Case(SoftClip(temperature=0.2, judge="first", detach=False), exempt=JUDGED),
    "label_clip": Case(LabelClip(temperature=0.2)),
    "label_clip, masked": Case(LabelClip(temperature=0.2, alike="mask")),
    "cwcl": Case(Cwcl(temperature=0.2), exempt=LOCKED),
    "cwcl, gamma": Case(Cwcl(temperature=0.2, gamma=2.0), exempt=LOCKED),
}
