"""`medcl demo`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path | None, typer.Option(help="Folder of the demo; default: runs/demo or runs/phantoms.")] = None,
    volumes: Annotated[int | None, typer.Option(min=10, help="Simulated volumes; default: 24, phantoms 60.")] = None,
    seed: Annotated[int, typer.Option(help="Of the cohort.")] = 0,
    phantoms: Annotated[
        bool,
        typer.Option("--phantoms", help="Phantoms with ordered organs and one labelled volume, in place of brains."),
    ] = False,
) -> None:
    """The whole path in minutes, offline, on a simulated cohort.

    Brains are simulated from the MNI152 template (extra: demo). A network is pretrained on the unlabelled volumes,
    fine-tuned on two labelled ones, beside the same network from scratch, and scored on volumes neither has seen.
    """
    from medcl.cli.study import run_and_report
    from medcl.config.load import load_config
    from medcl.config.pipeline import PipelineConfig
    from medcl.config.shipped import find_config
    from medcl.workflow.phantoms import simulate_phantoms
    from medcl.workflow.prepare import progress_bar
    from medcl.workflow.simulate import simulate_cohort

    name, simulate, count = ("phantoms", simulate_phantoms, 60) if phantoms else ("demo", simulate_cohort, 24)
    out = out or Path("runs") / name
    with progress_bar("simulating volumes") as progress:
        cohort = simulate(out / "cohort", volumes=volumes or count, seed=seed, progress=progress)
    overrides = [f"data.path={cohort}", f"out={out}"]
    if run_and_report(load_config(PipelineConfig, find_config(f"pipelines/{name}.yaml"), overrides)):
        raise typer.Exit(1)
