"""Reports of simulated studies: sections Findings and Impression, sides, severities, counts; statements of an ECG machine."""

from __future__ import annotations

import numpy as np

from medcl.seeds import derive_seed
from medcl.workflow.simulation.patients import SEVERITIES, Chest, Place

_COUNTS = ("no", "a single", "two", "three")


def report_of(chest: Chest, seed: int, *, impression: bool = True) -> str:
    """A report in the form of the MIMIC-CXR archive; wording and order of the sentences are drawn. ``impression`` may be left empty."""
    draw = np.random.default_rng(derive_seed("report", seed))

    def one_of(*wordings: str) -> str:
        return wordings[int(draw.integers(len(wordings)))]

    size = "enlarged" if chest.enlarged else "normal in size"
    found = [one_of(f"The heart is {size}.", f"The cardiac silhouette is {size}.", f"Heart size: {size}.")]
    if chest.effusion:
        effusion = _named(chest.effusion, "pleural effusion")
        found.append(one_of(f"There is a {effusion}.", f"A {effusion} is seen.", f"{effusion.capitalize()}."))
    if chest.opacity:
        opacity = _named(chest.opacity, "lung opacity")
        found.append(one_of(f"There is a {opacity}.", f"A {opacity} is present.", f"{opacity.capitalize()} is noted."))
    for side, count in chest.nodules.items():
        if count:
            noun = "nodule" if count == 1 else "nodules"
            found.append(
                one_of(
                    f"{_COUNTS[count]} {noun} in the {side} lung.", f"The {side} lung holds {_COUNTS[count]} {noun}."
                )
            )
    if not (chest.effusion or chest.opacity or any(chest.nodules.values())):
        found.append(one_of("The lungs are clear.", "No focal opacity or effusion.", "Clear lungs on both sides."))
    if chest.device:
        found.append(one_of("A pacemaker is in place.", "Pacemaker with its leads.", "There is a pacemaker."))
    order = [0, *(1 + draw.permutation(len(found) - 1))]
    findings = " ".join(found[place][:1].upper() + found[place][1:] for place in order)
    ending = f" {_conclusion(chest)}" if impression else ""
    return f" FINAL REPORT\n EXAMINATION: Chest radiograph, ___.\n \n FINDINGS: {findings}\n \n IMPRESSION:{ending or ' '}\n"


def statements_of(chest: Chest) -> tuple[str, ...]:
    """What an ECG machine says."""
    rhythm = "Sinus tachycardia" if chest.rate > 100 else "Sinus bradycardia" if chest.rate < 60 else "Sinus rhythm"
    found = [rhythm]
    if chest.block:
        found.append("Left bundle branch block")
    if chest.enlarged:
        found.append("Left ventricular hypertrophy by voltage")
    if chest.ischaemia:
        found.append("ST depression suggests ischemia")
    return (*found, "Normal ECG" if len(found) == 1 and rhythm == "Sinus rhythm" else "Abnormal ECG")


def _conclusion(chest: Chest) -> str:
    parts = ["cardiomegaly"] if chest.enlarged else []
    parts += [
        _named(place, noun)
        for place, noun in ((chest.effusion, "effusion"), (chest.opacity, "opacity, likely pneumonia"))
        if place
    ]
    if count := sum(chest.nodules.values()):
        parts.append(f"{_COUNTS[count]} lung nodule{'s' if count > 1 else ''}")
    return f"{'; '.join(parts).capitalize()}." if parts else "No acute cardiopulmonary process."


def _named(place: Place, noun: str) -> str:
    hedge = "" if place.certain else "possible "
    return f"{hedge}{SEVERITIES[place.severity]} {place.side} {noun}"
