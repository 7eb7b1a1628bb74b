"""`medcl simulate`."""

from pathlib import Path
from typing import Annotated

import typer

WHAT = ("patients", "mimic-cxr", "ms-cxr", "chexpert", "ptbxl", "mimic-ecg", "mimic-hosp")


def command(
    what: Annotated[str, typer.Argument(help=f"One of {', '.join(WHAT)}.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    count: Annotated[
        int | None, typer.Option(min=1, help="Subjects (of patients), studies (else); default: 240, else 24.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Trees of one seed are of the same subjects and times.")] = 0,
    broken: Annotated[
        bool, typer.Option("--broken", help="With rows that no tree should have, to see what is said of them.")
    ] = False,
) -> None:
    """Simulated patients of several modalities, or a small tree of the exact layout of a data set that one must apply for.

    patients writes radiographs, ECGs, laboratory values, volumes and reports that depend on one another, some of them missing, with
    their manifest: what medcl align takes. The others let a pipeline be tried before access is granted. All of it is named as simulated.

    Example: medcl simulate patients --out simulated; medcl align configs/align/clip.yaml data.path=simulated/records.jsonl out=runs/clip
    """
    from medcl.errors import ConfigError
    from medcl.reporting.progress import progress_bar
    from medcl.workflow.simulation.cohort import simulate_patients
    from medcl.workflow.simulation.trees import TREES

    if what not in WHAT:
        raise ConfigError(f"{what}: is none of {', '.join(WHAT)}")
    if what == "patients":
        if broken:
            raise ConfigError("--broken is for the trees of data sets; leave it out for patients")
        with progress_bar("simulating patients") as progress:
            path = simulate_patients(out, subjects=count or 240, seed=seed, progress=progress)
    else:
        path = TREES[what](out, count or 24, seed, broken=broken)
    print(f"written: {path} (simulated)")
