"""`medcl embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcl.cli.options import AlignmentData, AlignmentWeights, PrintConfig


def command(
    data: AlignmentData = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as part=test batch=16")] = None,
    weights: AlignmentWeights = None,
    out: Annotated[Path | None, typer.Option(help="File to write: .safetensors or .npz.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """Codes of every modality of the records in the joint space of an alignment, as one file.

    Absent modalities are not encoded: their rows are 0 and marked. `medcl retrieve --codes` reads the file.

    Example: medcl embed pairs.csv --weights runs/clip --out codes.safetensors
    """
    from medcl.cli.alignment_use import settled
    from medcl.config.alignment_use import EmbedConfig

    config = settled(EmbedConfig, data, weights, {"out": out}, overrides, print_config, needed=("out",))
    if config is None:
        return

    from medcl.workflow.joint_space import embed

    codes = embed(config)
    for name, present in codes.present.items():
        print(f"{name}: {int(present.sum())} of {len(codes.ids)} records, {codes.codes[name].shape[1]} dimensions")
    print(f"written: {config.out}")
