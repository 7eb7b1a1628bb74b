"""`medcl explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[
        Path, typer.Argument(help="Folder, glob, CSV/JSONL table or another layout that holds the record.")
    ],
    weights: Annotated[Path | None, typer.Option(help="Run folder or weights of medcl align.")] = None,
    record: Annotated[str | None, typer.Option(help="Id of the record.")] = None,
    text: Annotated[str | None, typer.Option(help="Text to compare with; default: the record's report.")] = None,
    modality: Annotated[str | None, typer.Option(help="radiograph, volume or ecg; default: what there is.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to write; the page is page.html in it.")] = None,
    rankings: Annotated[int, typer.Option(help="Random orders for the deletion curve.", min=1)] = 20,
    device: Annotated[str, typer.Option(help="auto, cpu or gpu.")] = "auto",
) -> None:
    """Where in an image or ECG, and in which words, the similarity of the two rests: one page with overlay, words, deletion curve.

    Needs an alignment whose encoders are transformers (vit, ecg_vit; bert or pretrained_text).

    Example: medcl explain records.csv --weights runs/align --record r17 --text "pleural effusion" --out runs/why
    """
    from medcl.config.explain import ExplainConfig
    from medcl.config.load import validate
    from medcl.errors import ConfigError

    if weights is None or record is None or out is None:
        raise ConfigError(
            "name the weights, the record and the folder to write: medcl explain records.csv --weights runs/align --record r17 --out runs/why"
        )
    values = {"data": data, "weights": weights, "record": record, "text": text, "modality": modality, "out": out}
    config = validate(ExplainConfig, {**values, "rankings": rankings, "device": device})

    from medcl.workflow.explain import explain

    run = explain(config)
    facts = run.read_facts()
    print(f"cosine {facts['similarity']:.3f}; falls faster than in {facts['falls_faster_than']:.0%} of random orders")
    print(f"written: {run.page}")
