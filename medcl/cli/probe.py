"""`medcl probe`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcl.cli.options import PrintConfig

if TYPE_CHECKING:
    from rich.table import Table

    from medcl.evaluation.methods import MethodScores


def command(
    data: Annotated[
        str | None, typer.Argument(help="Folder, glob, CSV/JSONL table, dataset.json, BIDS or DICOM tree.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as data.test=0.25 layers=[encoder.1,pooled]")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Run folder or weights whose layers are probed.")] = None,
    targets: Annotated[str | None, typer.Option(help="Targets or attributes of the records: age,sex.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    print_config: PrintConfig = False,
) -> None:
    """What every layer of a network knows: a linear probe of each, beside those of a random network.

    Probes are fitted on the training records and scored on the held-out ones (data.test), with intervals over subjects. Of an alignment
    the layers are the pooled features and the joint code of every modality, and records are split as in its run.

    Example: medcl probe cohort.jsonl --weights runs/pre --targets age,sex data.test=0.25
    """
    from medcl.config.load import load_config
    from medcl.config.probe import ProbeConfig
    from medcl.config.show import commented, commented_defaults
    from medcl.errors import ConfigError

    if data is None and print_config:
        print(commented_defaults(ProbeConfig), end="")
        return
    if data is None or weights is None or not targets:
        raise ConfigError(
            "name the data, the weights and the targets: medcl probe cohort.jsonl --weights runs/pre --targets age"
        )
    given = [f"data.path={data}", f"weights={weights}", f"targets=[{targets}]"]
    given += [f"out={out}"] if out is not None else []
    config = load_config(ProbeConfig, overrides=[*given, *(overrides or [])])
    if print_config:
        print(commented(config), end="")
        return

    from rich.console import Console

    from medcl.workflow.probes import probe

    console = Console(markup=False, highlight=False)
    for scores in probe(config).values():
        console.print(_table(scores))
    if config.out is not None:
        print(f"written: {config.out}")


def _table(scores: MethodScores) -> Table:
    from rich.table import Table

    from medcl.evaluation.methods import shown

    random = f"random {next(iter(scores.scores))}"
    better = [
        f"{scores.metrics[name]} less that of the random network: {shown(value)}, p = {value.p:.2g}."
        for name, value in scores.differences.get(random, {}).items()
    ]
    table = Table(
        title=scores.title, caption=" ".join([*scores.notes, *better]), title_justify="left", caption_justify="left"
    )
    table.add_column("layer", overflow="fold")
    for title in scores.metrics.values():
        table.add_column(title, justify="right")
    for layer, found in scores.scores.items():
        table.add_row(layer, *(shown(found[metric]) for metric in scores.metrics))
    return table
