"""`medcl run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medcl.cli.options import PrintConfig, ShardOption

if TYPE_CHECKING:
    from medcl.config.pipeline import PipelineConfig
    from medcl.config.shard import Shard


def command(
    pipeline: Annotated[
        Path | None, typer.Argument(help="YAML file of a pipeline, or one that comes with medcl")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as data.path=scans/ out=runs/study jobs=2")
    ] = None,
    keep: Annotated[
        Literal["all", "scores"] | None,
        typer.Option(help="scores: once all is written, remove masks, weights and checkpoints of finished cells."),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Run these arms and the baseline alone, such as scratch,masked. The others can follow later in the same folder."
        ),
    ] = None,
    shard: ShardOption = None,
    print_config: PrintConfig = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would run and stop.")] = False,
) -> None:
    """Run a pipeline: pretrain, then fine-tune, predict and score every cell of a grid, and write one page.

    Run again, it skips what is finished and goes on with what was interrupted. A failed cell does not stop the others;
    it is named at the end, and the exit code is 1. A shard leaves cells for a second call whose pretraining another shard runs.

    Example: medcl run pipelines/hippocampus.yaml data.path=scans/ out=runs/hippocampus
    """
    from medcl.config.load import load_config
    from medcl.config.pipeline import PipelineConfig
    from medcl.config.shard import Shard
    from medcl.config.shipped import find_config
    from medcl.config.show import commented, commented_defaults

    if print_config and pipeline is None:
        print(commented_defaults(PipelineConfig), end="")
        return
    if pipeline is None:
        raise typer.BadParameter("name a pipeline, such as pipelines/hippocampus.yaml", param_hint="PIPELINE")
    config = load_config(
        PipelineConfig, find_config(pipeline), [*(overrides or []), *([f"keep={keep}"] if keep else [])]
    )
    if arms is not None:
        config = config.only([arm.strip() for arm in arms.split(",") if arm.strip()])
    if print_config:
        print(commented(config), end="")
        return
    part = Shard.parse(shard) if shard is not None else None

    from medcl.cli.study import run_and_report, show_plan

    if dry_run:
        show_plan(config)
    elif _run_shard(config, part) if part else run_and_report(config):
        raise typer.Exit(1)


def _run_shard(config: "PipelineConfig", shard: "Shard") -> bool:
    """Run a share of the cells with a line for each, as in the log of a cluster; whether any failed."""
    from medcl.workflow.pipeline import run_shard

    outcomes, waiting = run_shard(config, shard)
    for outcome in outcomes:
        print(f"{outcome.name}: {outcome.state} after {outcome.seconds:.0f} s")
        for problem in outcome.problems:
            typer.echo(f"error: {outcome.name}: {problem}", err=True)
    failed = sum(outcome.state == "failed" for outcome in outcomes)
    later = f", {len(waiting)} cells wait for the pretrainings of other shards" if waiting else ""
    print(
        f"shard {shard}: {len(outcomes)} runs, {failed} failed{later}; the same command without --shard ends the study"
    )
    return bool(failed)
