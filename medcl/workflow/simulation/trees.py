"""Small trees of the exact layouts of credentialed data sets, of simulated patients, with the oddities that those data sets have.

The MIMIC trees of one seed are of the same subjects and times, so that their studies pair. What no real tree should have, and a reader
has to refuse with a line that names it, comes with ``broken``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from medcl.files import atomic_path
from medcl.modalities.ecg import LEADS
from medcl.records.chexpert_labels import LABELS
from medcl.seeds import derive_seed
from medcl.workflow.simulation.layouts import (
    Row,
    cxr_folder,
    write_chexpert,
    write_ecg,
    write_mimic_cxr,
    write_mimic_ecg,
    write_mimic_hosp,
    write_ms_cxr,
    write_ptbxl,
)
from medcl.workflow.simulation.patients import EFFUSION, LESION, OPACITY, Chest, draw_chest
from medcl.workflow.simulation.signals import draw_ecg, draw_radiograph
from medcl.workflow.simulation.texts import report_of, statements_of

_MIMIC_ORDER = ("I", "II", "III", "aVF", "aVR", "aVL", *LEADS[6:])
"""The order in which MIMIC-IV-ECG stores its leads."""
_EVERY_OTHER = 6  # every how manyth study has an oddity of its kind
_FOLDS = 10


@dataclass(frozen=True)
class Study:
    """A study of a subject of MIMIC: the latent and its seed, when the admission began, and which of the subject's it is."""

    number: int
    subject: str
    admission: datetime
    chest: Chest
    seed: int

    @property
    def cxr(self) -> str:
        return str(50_000_000 + self.number)

    @property
    def ecg(self) -> str:
        return str(40_000_000 + self.number)

    @property
    def hadm(self) -> str:
        return str(20_000_000 + self.number)

    def odd(self, kind: int) -> bool:
        """Whether this study has the oddity ``kind`` (0 to 5): each study has one kind at most."""
        return self.number % _EVERY_OTHER == kind


def studies(count: int, seed: int) -> Iterator[Study]:
    """The studies of one seed, two of every third subject."""
    subject = 0
    for number in range(count):
        subject += number % 4 != 1
        own = derive_seed(seed, "study", number)
        begin = datetime(2150, 1, 1, 4) + timedelta(days=100 * number, minutes=number % 30)
        yield Study(number, str(10_000_000 + 1_000_003 * subject % 9_000_000), begin, draw_chest(own), own)


def simulate_mimic_cxr(root: Path, count: int = 24, seed: int = 0, *, broken: bool = False) -> Path:
    """MIMIC-CXR-JPG with reports: a frontal image a study, of some a lateral one too.

    Oddities, by study number modulo 6: 0 a blank view, 1 no report file, 2 an empty impression, 3 no row of labels, 4 a time that
    lost its leading zeros, 5 the same image and report once more as a study of the same subject. Uncertain labels are -1.
    """
    images: list[Row] = []
    labels: list[Row] = []
    splits: list[Row] = []
    reports: dict[tuple[str, str], str] = {}
    for study in studies(count, seed):
        pixels, _ = draw_radiograph(study.chest, study.seed)
        when = study.admission + timedelta(hours=30)
        time = "50301.0" if study.odd(4) else f"{when:%H%M%S}.0"
        views = [("a", "" if study.odd(0) else "PA"), *([("b", "LATERAL")] if study.number % 4 == 0 else [])]
        for copy in ("", "9") if study.odd(5) else ("",):
            name = study.cxr if not copy else str(59_000_000 + study.number)
            for letter, view in views:
                dicom = f"{name}-{letter}"
                images.append((dicom, study.subject, name, view, f"{when:%Y%m%d}", time, *map(str, pixels.shape)))
                splits.append((dicom, name, study.subject, _split(study.subject)))
                _save(cxr_folder(root, study.subject) / f"s{name}" / f"{dicom}.jpg", pixels)
            if not study.odd(1):
                reports[study.subject, name] = report_of(study.chest, study.seed, impression=not study.odd(2))
            if not study.odd(3):
                labels.append({"subject_id": study.subject, "study_id": name, **_cells(study.chest)})
    if broken:
        images += [images[0], ("x-a", "10000001", "59999999", "PA", "21809999", "1", "1", "1")]
        labels += [{"subject_id": "10000001", "study_id": "59999999", "Edema": "2"}]
        splits += [("x-a", "59999999", "10000001", "dev")]
    return write_mimic_cxr(root, images, labels, splits, reports)


def simulate_ms_cxr(root: Path, count: int = 24, seed: int = 0, *, broken: bool = False) -> Path:
    """MS-CXR of the images of :func:`simulate_mimic_cxr`, which are written too; its JSON file is returned.

    A sentence with a box for every finding of a lung. Oddities: some sentences are lists, as some releases have them.
    """
    simulate_mimic_cxr(root, count, seed)
    images, annotations = [], []
    names = (EFFUSION, OPACITY, LESION)
    for study in studies(count, seed):
        pixels, boxes = draw_radiograph(study.chest, study.seed)
        dicom = f"{study.cxr}-a"
        path = (cxr_folder(Path(), study.subject) / f"s{study.cxr}" / f"{dicom}.jpg").as_posix()
        height, width = pixels.shape
        images.append({"id": study.number, "file_name": f"{dicom}.jpg", "width": width, "height": height, "path": path})
        for finding, found in boxes.items():
            sentence = phrase_of(study.chest, finding)
            for box in found:
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": study.number,
                        "category_id": names.index(finding),
                        "bbox": list(box),
                        "label_text": [sentence] if study.odd(3) else sentence,
                    }
                )
    if broken:
        annotations.append({**annotations[0], "id": len(annotations), "bbox": [80, 80, 40, 40]})
    categories = [{"id": place, "name": name} for place, name in enumerate(names)]
    content = {
        "info": {"description": "SIMULATED"},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return write_ms_cxr(root / "MS_CXR_Local_Alignment_v1.1.0.json", content)


def phrase_of(chest: Chest, finding: str) -> str:
    """A sentence that names one finding of a lung with its side."""
    if finding == LESION:
        sides = [side for side, number in chest.nodules.items() if number]
        return f"Nodules in the {' and '.join(sides)} lung."
    place = chest.effusion if finding == EFFUSION else chest.opacity
    assert place is not None
    return f"{place.side.capitalize()} {finding.lower()}."


def simulate_chexpert(root: Path, count: int = 24, seed: int = 0, *, broken: bool = False) -> Path:
    """CheXpert, the small release. Oddities: uncertain labels, blank ages, lateral views, a second study of a patient."""
    tables: dict[str, list[Row]] = {"train.csv": [], "valid.csv": []}
    for study in studies(count, seed):
        part = "valid" if study.number % 5 == 4 else "train"
        patient = f"patient{10_000 * (part == 'valid') + int(study.subject) % 10_000:05d}"
        views = (("view1_frontal", "Frontal", "AP"), *([("view2_lateral", "Lateral", "")] if study.odd(1) else []))
        for view, direction, projection in views:
            place = f"{part}/{patient}/study{1 + study.number % 4 % 2}/{view}.jpg"
            cells = {
                "Sex": "Female",
                "Age": "" if study.odd(0) else "60",
                "Frontal/Lateral": direction,
                "AP/PA": projection,
            }
            tables[f"{part}.csv"].append({"Path": f"CheXpert-v1.0-small/{place}", **cells, **_cells(study.chest)})
            _save(root / place, draw_radiograph(study.chest, study.seed)[0])
    if broken:
        tables["valid.csv"].append({**dict(tables["train.csv"][0])})
    return write_chexpert(root, tables)


def simulate_ptbxl(root: Path, count: int = 24, seed: int = 0, *, broken: bool = False) -> Path:
    """PTB-XL at 100 and 500 Hz. Oddities: blank ages and reports, codes of likelihood 0, codes that are no diagnosis."""
    rows: list[Row] = []
    for study in studies(count, seed):
        number, subject = f"{study.number + 1:05d}", str(int(study.subject) % 100_000)
        codes = {"SR": 0.0, **{f"{name}_A": 100.0 for name, there in study.chest.superclasses().items() if there}}
        if study.odd(0):
            codes["MI_A"] = 0.0
        names = [f"records{rate}/00000/{number}_{kind}" for rate, kind in ((100, "lr"), (500, "hr"))]
        data = draw_ecg(study.chest, study.seed)
        for name, step in zip(names, (5, 1), strict=True):
            write_ecg(root / f"{name}.hea", data[:, ::step], 500 // step)
        report = "" if study.odd(1) else "sinusrhythmus " + " ".join(statements_of(study.chest)).lower()
        age = "" if study.odd(2) else "61.0"
        fold = str(1 + int(subject) % _FOLDS)
        when = f"{study.admission:%Y-%m-%d %H:%M:%S}"
        rows.append((str(study.number + 1), f"{subject}.0", age, "1", when, report, str(codes), fold, *names))
    if broken:
        rows.append(("999", "7.0", "", "0", "", "", "['NORM']", "1", "records100/x", "records500/x"))
    statements = [(f"{name}_A", name, "1.0", name) for name in ("NORM", "MI", "STTC", "CD", "HYP")]
    return write_ptbxl(root, rows, [*statements, ("SR", "sinus rhythm", "", "")])


def simulate_mimic_ecg(root: Path, count: int = 24, seed: int = 0, *, broken: bool = False) -> Path:
    """MIMIC-IV-ECG, an hour after each admission of the seed.

    Oddities, by study number modulo 6: 0 no statements, 1 missing samples (NaN) in a lead, 2 taken 30 hours after the admission, 3 no
    time. With ``broken`` the signal of the first recording is 0 throughout and a study is listed twice.
    """
    recordings: list[Row] = []
    measurements: list[Row] = []
    for study in studies(count, seed):
        when = study.admission + timedelta(hours=30 if study.odd(2) else 1)
        time = "" if study.odd(3) else f"{when:%Y-%m-%d %H:%M:%S}"
        place = f"files/p{study.subject[:4]}/p{study.subject}/s{study.ecg}/{study.ecg}"
        recordings.append((study.subject, study.ecg, study.ecg, time, place))
        said = () if study.odd(0) else statements_of(study.chest)
        measurements.append((study.subject, study.ecg, "1", time, *said))
        data = draw_ecg(study.chest, study.seed)
        if study.odd(1):
            data[3, 100:200] = np.nan
        if broken and study.number == 0:
            data[:] = 0
        order = [LEADS.index(name) for name in _MIMIC_ORDER]
        write_ecg(root / f"{place}.hea", data[order], leads=_MIMIC_ORDER)
    return write_mimic_ecg(root, [*recordings, *(recordings[:1] if broken else [])], measurements)


def simulate_mimic_hosp(root: Path, count: int = 24, seed: int = 0, *, broken: bool = False) -> Path:
    """Admissions and laboratory events of MIMIC-IV, two hours after each admission of the seed.

    Oddities: values without a number, items that nobody asked for, a second and later value of an item.
    """
    admissions: list[Row] = []
    events: list[tuple[str, ...]] = []
    for study in studies(count, seed):
        admissions.append((study.subject, study.hadm, f"{study.admission:%Y-%m-%d %H:%M:%S}"))
        values = study.chest.labs(study.seed)
        early, late = (f"{study.admission + timedelta(hours=hours):%Y-%m-%d %H:%M:%S}" for hours in (2, 9))
        cells = [(item, early, str(value), str(value)) for item, value in values.items()]
        cells += [(next(iter(values)), late, "99", "99.0"), ("50822", early, "HEMOLYZED", ""), ("1", early, "3", "3.0")]
        events += [(str(len(events) + n), study.subject, study.hadm, *row) for n, row in enumerate(cells)]
    if broken:
        events.append((str(len(events)), "10000001", "", "50912", "2150-01-01 00:00:00", "high", "high"))
    return write_mimic_hosp(root, admissions, events)


TREES: dict[str, Callable[..., Path]] = {
    "mimic-cxr": simulate_mimic_cxr,
    "ms-cxr": simulate_ms_cxr,
    "chexpert": simulate_chexpert,
    "ptbxl": simulate_ptbxl,
    "mimic-ecg": simulate_mimic_ecg,
    "mimic-hosp": simulate_mimic_hosp,
}
"""Writers by the name of the layout: ``write(root, count, seed, broken=False)``."""


def _split(subject: str) -> str:
    """By the subject, so that none is on two sides."""
    draw = np.random.default_rng(derive_seed("split", subject)).random()
    return "train" if draw < 0.7 else "validate" if draw < 0.85 else "test"


def _cells(chest: Chest) -> dict[str, str]:
    """Labels as cells: absent ones of the lung are blank, as most are."""
    found = chest.labels()
    return {name: str(found[name]) for name in LABELS if name in found and (found[name] or name == "Cardiomegaly")}


def _save(path: Path, pixels: np.ndarray) -> None:
    with atomic_path(path) as part:
        Image.fromarray(pixels).save(part, quality=92)
