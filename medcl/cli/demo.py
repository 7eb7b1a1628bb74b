"""`medcl demo`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[
        Path | None, typer.Option(help="Folder of the demo; default: runs/demo, runs/phantoms or runs/patients.")
    ] = None,
    volumes: Annotated[
        int | None, typer.Option(min=10, help="Simulated volumes; default: 24, phantoms 60, patients 96.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the cohort.")] = 0,
    phantoms: Annotated[
        bool,
        typer.Option("--phantoms", help="Phantoms with ordered organs and one labelled volume, in place of brains."),
    ] = False,
    patients: Annotated[
        bool, typer.Option("--patients", help="Half of the brains get a lesion; learn what sets them apart (SepCLR).")
    ] = False,
) -> None:
    """The whole path in minutes, offline, on a simulated cohort.

    Brains are simulated from the MNI152 template (extra: demo). A network is pretrained on the unlabelled volumes,
    fine-tuned on two labelled ones, beside the same network from scratch, and scored on volumes neither has seen.
    With --patients it is pretrained by SepCLR, and linear probes say what its common and its salient code know.
    """
    from medcl.cli.study import run_and_report
    from medcl.cli.training import run_training
    from medcl.config.load import load_config
    from medcl.config.pipeline import PipelineConfig
    from medcl.config.shipped import find_config
    from medcl.errors import ConfigError
    from medcl.reporting.progress import progress_bar
    from medcl.workflow.phantoms import simulate_phantoms
    from medcl.workflow.simulate import simulate_cohort

    if patients and phantoms:
        raise ConfigError("--patients are brains with lesions; leave --phantoms out")
    name, simulate, count = ("phantoms", simulate_phantoms, 60) if phantoms else ("demo", simulate_cohort, 24)
    if patients:
        name, simulate, count = "patients", partial(simulate_cohort, patients=True), 96
    out = out or Path("runs") / name
    with progress_bar("simulating volumes") as progress:
        cohort = simulate(out / "cohort", volumes=volumes or count, seed=seed, progress=progress)
    if patients:
        overrides = [f"data.path={cohort / 'records.jsonl'}", f"out={out / 'separate'}"]
        run_training("pretrain", Path("configs/pretrain/sepclr.yaml"), overrides, resume=False, print_config=False)
        return
    overrides = [f"data.path={cohort}", f"out={out}"]
    if run_and_report(load_config(PipelineConfig, find_config(f"pipelines/{name}.yaml"), overrides)):
        raise typer.Exit(1)
