"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path | None, typer.Argument(help="YAML file, or one that comes with medcl")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as data.path=scans/ out=runs/name")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in out.")]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the commented configuration and stop.")]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="i/n",
        help="Do the i-th of n shares, beside processes that do the others; then run once without it, to gather them.",
    ),
]
AlignmentData = Annotated[
    str | None, typer.Argument(help="CSV/JSONL table of records with their modalities, or a folder of a known layout.")
]
AlignmentWeights = Annotated[Path | None, typer.Option("--weights", help="Run folder or weights of medcl align.")]
