"""`medcl retrieve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medcl.cli.options import AlignmentData, AlignmentWeights, PrintConfig


def command(
    data: AlignmentData = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as data.test=0.25 relevance=subject part=all")
    ] = None,
    weights: AlignmentWeights = None,
    query: Annotated[str | None, typer.Option(help="Search: a text, or a file of any modality.")] = None,
    top: Annotated[int | None, typer.Option(help="Hits of a search; default 10.", min=1)] = None,
    asking: Annotated[
        str | None, typer.Option("--from", help="Modalities that ask: report,ecg or, two at once, ecg+labs.")
    ] = None,
    searched: Annotated[str | None, typer.Option("--to", help="Modalities that are searched: radiograph.")] = None,
    codes: Annotated[Path | None, typer.Option(help="What medcl embed wrote of these data.")] = None,
    triplets: Annotated[Path | None, typer.Option(help="CSV: record, paraphrase, wrong, and kind.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write; a page goes beside it.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """Search one modality by another, or score how well each finds the others.

    Without --query: every direction between modalities on the held-out records, with the size of the gallery, chance, ties, intervals over
    subjects, and the gap between modalities. With --query: a ranked list of records of all data.

    Example: medcl retrieve pairs.csv --weights runs/clip --query "left pleural effusion" --out hits.json
    """
    from medcl.cli.alignment_use import settled
    from medcl.config.alignment_use import RetrieveConfig

    options = {
        "query": query,
        "top": top,
        "queries": _names(asking),
        "galleries": _names(searched),
        "codes": codes,
        "triplets": triplets,
        "out": out,
    }
    if query is not None:
        options["part"] = "all"
    config = settled(RetrieveConfig, data, weights, options, overrides, print_config)
    if config is None:
        return

    from medcl.cli.page_tables import print_tables

    if config.query is not None:
        from medcl.reporting.alignment_page import PageTable
        from medcl.workflow.search import search

        found = search(config)
        rows = [
            [str(rank), hit.record, f"{hit.cosine:.4f}", "yes" if hit.seen_in_pretraining else "no"]
            for rank, hit in enumerate(found.hits, 1)
        ]
        title = f"{found.asked} \N{RIGHTWARDS ARROW} {found.gallery}: nearest of {found.size}"
        print_tables([PageTable(title, ["rank", "record", "cosine", "seen in pretraining"], rows)])
    else:
        from medcl.reporting.alignment_page import retrieval_tables
        from medcl.workflow.retrieve import retrieve

        report = retrieve(config)
        print_tables(retrieval_tables(report))
        for note in report.notes:
            print(note)
    if config.out is not None:
        print(f"written: {config.out} and {config.out.with_suffix('.html')}")


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())
