"""`medcl zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcl.cli.options import AlignmentData, AlignmentWeights, PrintConfig


def command(
    data: AlignmentData = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as scoring=max_prompt modalities=[ecg] part=all")
    ] = None,
    weights: AlignmentWeights = None,
    prompts: Annotated[
        Path | None, typer.Option(help="YAML of classes and prompts: configs/prompts/chexpert.yaml.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; a page goes beside it.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """Tell classes of images, volumes and ECGs by prompts alone, and score that against the targets of held-out records.

    Example: medcl zeroshot cxr/ --weights runs/clip --prompts configs/prompts/chexpert.yaml --out zeroshot.json
    """
    from medcl.cli.alignment_use import settled
    from medcl.config.alignment_use import ZeroshotConfig

    options = {"prompts": prompts, "out": out}
    config = settled(ZeroshotConfig, data, weights, options, overrides, print_config, needed=("prompts",))
    if config is None:
        return

    from medcl.cli.page_tables import print_tables
    from medcl.reporting.alignment_page import methods_table
    from medcl.workflow.zeroshot import zeroshot

    print_tables([methods_table(scores, "class") for scores in zeroshot(config).values()])
    if config.out is not None:
        print(f"written: {config.out} and {config.out.with_suffix('.html')}")
