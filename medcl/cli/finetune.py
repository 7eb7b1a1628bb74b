"""`medcl finetune`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path | None, typer.Argument(help="YAML file, or one that comes with medcl")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as data.labelled=2 init=runs/pre out=runs/seg")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in out.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the commented configuration and stop.")
    ] = False,
) -> None:
    """Train a segmentation network on a few labelled volumes.

    Example: medcl finetune configs/finetune/segment.yaml data.path=scans/ data.labelled=2 init=runs/pre out=runs/seg
    """
    from medcl.cli.training import run_training

    run_training("finetune", config, overrides or [], resume=resume, print_config=print_config)
