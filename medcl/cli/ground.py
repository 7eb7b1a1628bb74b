"""`medcl ground`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcl.cli.options import AlignmentData, AlignmentWeights, PrintConfig


def command(
    data: AlignmentData = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as sigma=1 part=test")] = None,
    weights: AlignmentWeights = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; a page goes beside it.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """Where in a radiograph a phrase is, scored against the boxes of experts: contrast to noise and overlap.

    The head of the alignment is applied to every place of the encoder's last map.

    Example: medcl ground MS_CXR_Local_Alignment.json --weights runs/biovil --out grounding.json
    """
    from medcl.cli.alignment_use import settled
    from medcl.config.alignment_use import GroundConfig

    config = settled(GroundConfig, data, weights, {"out": out}, overrides, print_config)
    if config is None:
        return

    from medcl.cli.page_tables import print_tables
    from medcl.reporting.alignment_page import methods_table
    from medcl.workflow.ground import ground

    print_tables([methods_table(ground(config), "finding")])
    if config.out is not None:
        print(f"written: {config.out} and {config.out.with_suffix('.html')}")
