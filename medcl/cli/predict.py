"""`medcl predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcl.cli.options import ShardOption


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... INPUT...", help="Fine-tuned runs, then volumes, folders, DICOM series or data sets."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of what is predicted.")],
    tta: Annotated[
        bool, typer.Option("--tta", help="Average over mirrored inputs, along the axes that training mirrored.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write class probabilities, as 4D NIfTI.")
    ] = False,
    uncertainty: Annotated[
        bool,
        typer.Option(
            "--uncertainty", help="Also write how unsure each voxel is: entropy, and variance of several runs."
        ),
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="Windows in the network at a time; default: 1 or 2 on a CPU, 4 on a GPU.", min=1)
    ] = None,
    precision: Annotated[
        str, typer.Option(help="32, bf16, or auto: bf16 where the machine has instructions for it.")
    ] = "32",
    whole: Annotated[bool, typer.Option("--whole", help="Ask also windows that do not reach into the body.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
    one_at_a_time: Annotated[
        bool, typer.Option("--one-at-a-time", help="Hold one scan in memory: do not read the next while networks work.")
    ] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave masks that are already there.")] = False,
    formats: Annotated[
        str,
        typer.Option(
            "--format", help="Of masks: nifti, and of a DICOM series seg (DICOM-SEG) or rtstruct; several with commas."
        ),
    ] = "nifti",
    keep_ids: Annotated[
        bool, typer.Option("--keep-ids", help="Write the series' patient and study into seg and rtstruct.")
    ] = False,
    shard: ShardOption = None,
) -> None:
    """Segment scans: a mask for each, on the scan's own grid. Several runs are averaged.

    A run of task=regression, classification or prompts writes one table, predictions.csv; a run of task=super_resolution a finer volume for each
    scan. Classes are told of what the run reads: images, ECGs (.hea), laboratory values (JSON), reports (.txt), or records of a data set.

    A scan that cannot be read does not stop the others; it is named at the end, and the exit code is 1.

    Example: medcl predict runs/seg new_scan.nii.gz --out masks/
    """
    from medcl.config.load import validate
    from medcl.config.predict import PredictConfig
    from medcl.errors import ConfigError

    runs = [path for path in paths if _is_run(path)]
    if not runs:
        raise ConfigError(
            f"{paths[0]}: neither a run nor weights; name the out= of medcl finetune first, then the scans"
        )
    if len(runs) == len(paths):
        raise ConfigError(f"no scans to segment; name volumes, folders or DICOM series after {runs[-1]}")
    values = {"runs": runs, "inputs": [path for path in paths if path not in runs], "out": out, "device": device}
    options = {"tta": tta, "probabilities": probabilities, "batch": batch, "skip_existing": skip_existing}
    options |= {"uncertainty": uncertainty, "precision": precision, "skip_empty": not whole}
    options |= {"formats": [part.strip() for part in formats.split(",")], "keep_ids": keep_ids, "shard": shard}
    options |= {"read_ahead": not one_at_a_time}
    config = validate(PredictConfig, {**values, **options})

    from medcl.reporting.progress import progress_bar
    from medcl.workflow.predict import predict

    with progress_bar("predicting") as progress:
        found = predict(config, progress)
    left = f", {len(found.skipped)} already there" if found.skipped else ""
    of_shard = f" (shard {config.shard}; the same command without --shard gathers)" if config.shard else ""
    print(f"{len(found.written)} {found.what} written to {out}{left}{of_shard}")
    for reasons in found.failed.values():
        for reason in reasons:
            typer.echo(f"error: {reason}", err=True)
    if found.failed:
        typer.echo(f"{len(found.failed)} of the scans could not be predicted: {', '.join(found.failed)}", err=True)
        raise typer.Exit(1)


def _is_run(path: Path) -> bool:
    """Whether the path is a run, a folder of weights or a weights file; anything else is a scan."""
    marks = (path / "run.json", path / "weights.safetensors", path / "weights" / "weights.safetensors")
    return path.suffix == ".safetensors" or any(mark.is_file() for mark in marks)
