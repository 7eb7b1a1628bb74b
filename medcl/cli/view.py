"""`medcl view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    volume: Annotated[
        Path, typer.Argument(help="NIfTI, MHA or NRRD file, DICOM series (a folder or a file of it), or 2D image.")
    ],
    masks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MASK...]", help="Masks on the volume's grid; NAME=FILE gives one a name."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Page to write; default: NAME.view.html in this folder.")] = None,
    name: Annotated[
        str | None, typer.Option(help="What the page calls the volume; default: as its file is called.")
    ] = None,
    channel: Annotated[int, typer.Option(help="Which channel of a 4D volume to show.", min=1)] = 1,
    limit: Annotated[
        float, typer.Option(help="Largest page in MB; a larger volume is shown at a lower resolution.", min=0)
    ] = 300,
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in the browser, where there is one.")
    ] = True,
) -> None:
    """Look at a volume with its masks: one HTML page with slices, 3D, window, opacity and legend, which works offline and can be sent on.

    The page holds the voxels, the names of the files and nothing else of them. It needs the viewer NiiVue: pip install "medcl[view]".

    Example: medcl view scan.nii.gz masks/scan.nii.gz
    """
    from medcl.reporting.progress import progress_bar
    from medcl.reporting.viewer import write_view

    with progress_bar("writing the page"):
        page = write_view(
            volume, [_named(mask) for mask in masks or ()], out=out, name=name, channel=channel, limit_mb=limit
        )
    for note in page.notes:
        print(note)
    print(f"written: {page.path} ({page.size / 1e6:.1f} MB)")
    if show and not _opened(page.path):
        print("no browser could be opened here; open the page yourself")


def _named(mask: str) -> tuple[str | None, Path]:
    """``NAME=FILE`` in its parts; a file whose own name holds a ``=`` is just that file."""
    name, sign, path = mask.partition("=")
    return (name, Path(path)) if sign and name and path and not Path(mask).exists() else (None, Path(mask))


def _opened(page: Path) -> bool:
    """Whether a graphical browser took the page. Never an error: a server has none."""
    import os
    import sys
    import webbrowser

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return False  # webbrowser would start a text browser in this terminal
    try:
        return webbrowser.open(page.resolve().as_uri())
    except (webbrowser.Error, OSError):
        return False
