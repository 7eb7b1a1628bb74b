"""`medcl pair`."""

from pathlib import Path
from typing import Annotated

import typer

POLICIES = ("nearest", "all", "admission")


def command(
    radiographs: Annotated[
        Path, typer.Argument(help="Data set with radiographs, such as the folder of MIMIC-CXR-JPG.")
    ],
    ecgs: Annotated[
        Path, typer.Argument(help="Data set with ECGs of the same subjects, such as the folder of MIMIC-IV-ECG.")
    ],
    out: Annotated[Path, typer.Option(help="The manifest to write (.jsonl or .csv).")],
    policy: Annotated[str, typer.Option(help=f"One of {', '.join(POLICIES)}.")] = "nearest",
    days: Annotated[
        int, typer.Option(min=0, help="Days that a radiograph and its ECG may lie apart (nearest, all).")
    ] = 60,
    hosp: Annotated[
        Path | None, typer.Option(help="MIMIC-IV's folder hosp: admissions and laboratory values (admission).")
    ] = None,
) -> None:
    """One manifest of records with a radiograph, an ECG and, by admission, laboratory values, for medcl align.

    nearest pairs every radiograph with the ECG nearest in time; all with every ECG within the days (MoRE); admission takes the first
    ECG and laboratory values within 24 hours of an admission and the first frontal radiograph 24 to 72 hours after it (Symile-MIMIC).

    Example: medcl pair mimic-cxr/ mimic-ecg/ --policy admission --hosp mimic-iv/hosp --out pairs.jsonl
    """
    from medcl.errors import ConfigError
    from medcl.workflow.pair import pair

    if policy not in POLICIES:
        raise ConfigError(f"--policy {policy}: is none of {', '.join(POLICIES)}")
    manifest = pair(radiographs, ecgs, policy, days=days, hosp=hosp)
    manifest.write(out)
    print(
        f"written: {out} ({len(manifest)} records of {len({record.subject for record in manifest.records})} subjects)"
    )
