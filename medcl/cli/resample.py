"""`medcl resample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    series: Annotated[Path, typer.Argument(help="DICOM series: a folder, or a file of it.")],
    out: Annotated[Path, typer.Option(help="NIfTI file to write.")],
    spacing: Annotated[
        float | None,
        typer.Option(help="Millimetres between the new slices; default: the median distance of the old ones."),
    ] = None,
) -> None:
    """Make a regular volume of a DICOM series whose slices are tilted (gantry tilt) or unevenly spaced, which the other commands refuse.

    Values between slices are interpolated: what lies in a gap was not measured. Masks of such a volume lie on its grid, not on the slices.

    Example: medcl resample series/ --out scan.nii.gz
    """
    from medcl.modalities.dicom_stack import read_regular
    from medcl.modalities.volume import write_volume

    found = read_regular(series, spacing=spacing)
    write_volume(out, found.volume.data, found.volume.affine)
    low, high = found.gaps
    print(
        f"{found.slices} slices, {low:.3g} to {high:.3g} mm apart and {found.tilt:.1f} degrees off their normal,"
        f" became {found.volume.data.shape[-1]} every {found.spacing:.3g} mm"
    )
    print(f"written: {out}")
