"""`medcl demo`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = Path("runs/demo"),
    volumes: Annotated[int, typer.Option(min=10, help="Simulated volumes.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the cohort.")] = 0,
) -> None:
    """The whole path in minutes, offline, on a simulated cohort.

    Brains are simulated from the MNI152 template (extra: demo). A network is pretrained on the unlabelled volumes,
    fine-tuned on two labelled ones, beside the same network from scratch, and scored on volumes neither has seen.
    """
    from medcl.cli.study import run_and_report
    from medcl.config.load import load_config
    from medcl.config.pipeline import PipelineConfig
    from medcl.config.shipped import find_config
    from medcl.workflow.prepare import progress_bar
    from medcl.workflow.simulate import simulate_cohort

    with progress_bar("simulating volumes") as progress:
        cohort = simulate_cohort(out / "cohort", volumes=volumes, seed=seed, progress=progress)
    overrides = [f"data.path={cohort}", f"out={out}"]
    if run_and_report(load_config(PipelineConfig, find_config("pipelines/demo.yaml"), overrides)):
        raise typer.Exit(1)
