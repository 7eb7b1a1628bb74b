"""`medcl prepare`."""

from pathlib import Path
from typing import Annotated

import typer

from medcl.cli.options import PrintConfig, ShardOption


def command(
    data: Annotated[
        str | None, typer.Argument(help="Folder, glob, CSV/JSONL table, dataset.json, BIDS or DICOM tree.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as recipe.spacing=[1,1,1]")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the store; give it to training as data.store.")] = Path(
        "prepared"
    ),
    labels: Annotated[Path | None, typer.Option(help="Folder of labels, where the layout has none.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that read and prepare.", min=1)] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Read an existing store again; exit code 1 if it is damaged.")
    ] = False,
    shard: ShardOption = None,
    recipe_only: Annotated[
        bool, typer.Option("--recipe-only", help="Derive the recipe that the shards will share, and stop.")
    ] = False,
    print_config: PrintConfig = False,
) -> None:
    """Reorient, resample, normalise and store volumes once. Run again, it does what is new or was interrupted.

    Example: medcl prepare scans/ --out prepared/ recipe.spacing=[1,1,1]
    """
    from medcl.config.load import load_config
    from medcl.config.prepare import PrepareConfig
    from medcl.config.show import commented, commented_defaults
    from medcl.errors import ConfigError

    if check:
        _check(out)
        return
    if data is None and print_config:
        print(commented_defaults(PrepareConfig), end="")
        return
    if data is None:
        raise ConfigError("name the data: medcl prepare scans/ --out prepared/")
    given = [f"data.path={data}", f"out={out}", f"workers={workers}"]
    given += [f"data.labels={labels}"] if labels is not None else []
    given += [f"shard={shard}"] if shard is not None else []
    config = load_config(PrepareConfig, overrides=[*given, *(overrides or [])])
    if print_config:
        print(commented(config), end="")
        return

    from medcl.workflow.prepare import agree_on_recipe, prepare

    if recipe_only:
        agree_on_recipe(config, announce=_announce)
        print(f"the recipe of the shards of {config.out}")
        return
    store = prepare(config, announce=_announce)
    of_shard = f" (shard {config.shard}; the same command without --shard gathers)" if config.shard else ""
    print(f"prepared: {len(store)} records in {config.out}{of_shard}")


def _check(out: Path) -> None:
    from medcl.workflow.prepare import check_store

    problems = check_store(out)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    print(f"{out}: every file is as it was written")


def _announce(fingerprint, recipe) -> None:  # type: ignore[no-untyped-def]  # their modules are imported when needed
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(fingerprint.records)} training records", title_justify="left")
    for column in ("", "least", "median", "most"):
        table.add_column(column, justify="left" if not column else "right")
    for row in fingerprint.rows():
        table.add_row(*row)
    Console().print(table)
    print(f"\nrecipe\n{recipe.to_yaml()}", end="")
