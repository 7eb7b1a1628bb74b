"""What file names say: which files are volumes or 2D images, the id in a name, its BIDS entities."""

from __future__ import annotations

import re
from pathlib import Path

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".hdr")
"""File kinds that hold one volume; the ``.img`` and ``.raw`` beside a header are never listed themselves."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""File kinds that hold one 2D image, which is read as a volume of one slice."""

_ENTITY = re.compile(r"(?:^|_)([a-zA-Z]+)-([a-zA-Z0-9]+)(?=_|$)")


def is_volume(path: Path) -> bool:
    """Whether the name is that of a volume. Hidden files (``._scan.nii.gz`` of some archives) are not."""
    return not path.name.startswith(".") and path.name.lower().endswith(VOLUME_SUFFIXES)


def is_image(path: Path) -> bool:
    """Whether the name is that of a 2D image. Layouts look for these only where there are no volumes: a preview is no scan."""
    return not path.name.startswith(".") and path.name.lower().endswith(IMAGE_SUFFIXES)


def stem(path: Path | str) -> str:
    """The file name without its volume or image suffix: ``case_01.nii.gz`` -> ``case_01``."""
    name = Path(path).name
    for suffix in (*VOLUME_SUFFIXES, *IMAGE_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def entities(name: str) -> dict[str, str]:
    """The BIDS entities of a name: ``sub-01_ses-2_T1w`` -> ``{"sub": "01", "ses": "2"}``."""
    return dict(_ENTITY.findall(name))


def subject_of(record_id: str) -> str:
    """The subject that an id names by a BIDS ``sub-`` entity, else the id itself: nothing more can be known."""
    subject = entities(record_id).get("sub")
    return f"sub-{subject}" if subject else record_id


def volume_files(folder: Path, pattern: str = "*") -> list[Path]:
    """The volumes directly in ``folder``, by name; none where it is no folder."""
    return sorted(path for path in folder.glob(pattern) if is_volume(path) and path.is_file())


def scan_files(folder: Path) -> list[Path]:
    """The volumes directly in ``folder``, or where there are none its 2D images, by name."""
    return volume_files(folder) or sorted(path for path in folder.glob("*") if is_image(path) and path.is_file())
