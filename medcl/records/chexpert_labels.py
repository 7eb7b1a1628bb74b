"""The fourteen labels of CheXpert, which MIMIC-CXR shares: their names, and the four things a cell can say."""

from __future__ import annotations

from collections.abc import Mapping

from medcl.errors import DataError

NO_FINDING = "No Finding"
LABELS = (
    NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five that CheXpert's competition scored. MoRE uses these without Consolidation."""

PRESENT, ABSENT, UNCERTAIN = 1.0, 0.0, -1.0


def labels_from_cells(row: Mapping[str, str]) -> dict[str, float]:
    """The labels that a row of a table mentions: 1 present, 0 absent, -1 uncertain; blanks are left out.

    DataError for any other value, and where the table has none of the labels.
    """
    cells = {name: str(row[name]).strip() for name in LABELS if name in row}
    if not cells:
        raise DataError(f"has none of the columns {', '.join(LABELS[:3])}, ...; not a table of CheXpert labels")
    found, problems = {}, []
    for name, cell in cells.items():
        if cell in ("", "nan"):
            continue
        try:
            value = float(cell)
        except ValueError:
            value = float("nan")
        if value not in (PRESENT, ABSENT, UNCERTAIN):
            problems.append(f"{name} is {cell!r}; a label is 1, 0, -1 or blank")
        found[name] = value
    if problems:
        raise DataError(problems)
    return found
