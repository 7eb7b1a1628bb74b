"""A cohort of simulated patients with several modalities, linked by what they have, some of them missing.

It shows that a path works and lets methods be compared where the truth is known; it is no evidence about patients, and whatever is
made from it is named as simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from medcl.files import atomic_path
from medcl.records.manifest import Manifest
from medcl.records.record import Record, SplitName
from medcl.seeds import derive_seed
from medcl.workflow.simulation.layouts import write_ecg
from medcl.workflow.simulation.patients import draw_chest
from medcl.workflow.simulation.signals import draw_ecg, draw_radiograph
from medcl.workflow.simulation.texts import report_of
from medcl.workflow.simulation.volumes import SPACING, STATES, draw_states, draw_volume, report_of_volume

MANIFEST = "records.jsonl"
PARTS: tuple[tuple[SplitName, float], ...] = (("train", 0.7), ("validation", 0.1), ("test", 0.2))
"""The parts of a cohort and their shares of the subjects."""

_MISSING = 0.12  # chance of every modality of a chest study, of which two remain
_VOLUMES = 4  # every how manyth subject has a volume and its report in place of a chest study
_TWICE = 5  # every how manyth subject has two studies
_CHEST = ("radiograph", "ecg", "labs", "report")


def simulate_patients(
    folder: Path, *, subjects: int = 240, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write ``subjects`` simulated patients to ``folder`` and return their manifest ``records.jsonl``.

    Records are of the source ``chest`` (radiograph, ECG, laboratory values, report; of some, some are missing) or ``abdomen`` (a volume
    with a report of one sentence an organ; where each organ lies is in ``organs/``); the attribute ``source`` says which. ``targets``
    hold what is to be found, by CheXpert's and PTB-XL's names or by organ and state. A cohort that is complete there is left as it is.
    """
    path = folder / MANIFEST
    name = f"{subjects} simulated patients, seed {seed}"
    if path.is_file() and Manifest.read(path).provenance.get("name") == name:
        return path
    records: list[Record] = []
    for number, split in enumerate(_parts(subjects, seed)):
        subject = f"subject_{number:04d}"
        for study in range(2 if number % _TWICE == 0 else 1):
            own = derive_seed(seed, "patient", number, study)
            write = _abdomen if number % _VOLUMES == _VOLUMES - 1 else _chest
            records.append(write(folder, f"{subject}_{study}", subject, split, own))
        if progress:
            progress(number + 1, subjects)
    provenance = {"name": name, "simulated": "yes", "licence": "none needed: drawn by medcl, of no patient"}
    Manifest(tuple(records), source="SIMULATED patients", provenance=provenance).write(path)
    return path


def _parts(subjects: int, seed: int) -> list[SplitName]:
    """The part of every subject, in exact shares."""
    place = np.random.default_rng(derive_seed(seed, "parts")).permutation(subjects) / subjects
    within = np.cumsum([share for _, share in PARTS])[:-1]
    return [PARTS[number][0] for number in np.searchsorted(within, place, side="right")]


def _chest(folder: Path, name: str, subject: str, split: SplitName, seed: int) -> Record:
    chest = draw_chest(seed)
    draw = np.random.default_rng(derive_seed("missing", seed))
    there = _present(draw)
    radiograph, ecg = folder / "radiographs" / f"{name}.png", folder / "ecgs" / f"{name}.hea"
    if "radiograph" in there:
        with atomic_path(radiograph) as part:
            Image.fromarray(draw_radiograph(chest, seed)[0]).save(part)
    if "ecg" in there:
        write_ecg(ecg, draw_ecg(chest, seed))
    return Record(
        id=name,
        subject=subject,
        radiograph=(radiograph,) if "radiograph" in there else (),
        ecg=ecg if "ecg" in there else None,
        report=report_of(chest, seed, impression=bool(draw.random() < 0.95)) if "report" in there else None,
        labs=chest.labs(seed) if "labs" in there else {},
        targets={**chest.labels(), **chest.superclasses()},
        split=split,
        attributes={"source": "chest"},
    )


def _present(draw: np.random.Generator) -> Sequence[str]:
    """The modalities of a chest study: two at least."""
    chance = draw.random(len(_CHEST))
    spared = np.argsort(-chance)[:2]
    return [name for place, name in enumerate(_CHEST) if chance[place] >= _MISSING or place in spared]


def _abdomen(folder: Path, name: str, subject: str, split: SplitName, seed: int) -> Record:
    states = draw_states(seed)
    volume, organs = draw_volume(states, seed)
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    files = {"volumes": volume, "organs": organs}
    for kind, data in files.items():
        with atomic_path(folder / kind / f"{name}.nii.gz") as part:
            nib.save(nib.Nifti1Image(data, affine), part)
    return Record(
        id=name,
        subject=subject,
        volume=(folder / "volumes" / f"{name}.nii.gz",),
        report=report_of_volume(states, seed),
        targets={
            f"{organ} {state}": float(found == state)
            for organ, found in states.items()
            for state in STATES
            if state != "normal"
        },
        split=split,
        attributes={"source": "abdomen"},
    )
