"""`medcl pretrain`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path | None, typer.Argument(help="YAML file, or one that comes with medcl")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as data.path=scans/ out=runs/pre")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in out.")] = False,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the commented configuration and stop.")
    ] = False,
) -> None:
    """Learn an encoder from unlabelled volumes.

    Example: medcl pretrain configs/pretrain/hippocampus.yaml data.path=scans/ out=runs/pre
    """
    from medcl.cli.training import run_training

    run_training("pretrain", config, overrides or [], resume=resume, print_config=print_config)
