"""`medcl predict`: masks, numbers or finer volumes of many volumes, classes of many records, whatever happens to one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from medcl.config.predict import PredictConfig
from medcl.config.shard import Shard
from medcl.errors import ConfigError, MedclError
from medcl.files import remove_leftovers
from medcl.inference.inputs import Input
from medcl.records.csv_tables import read_written
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder
from medcl.workflow.quality import FILE as QUALITY
from medcl.workflow.shards import (
    STARTING,
    beside_shards,
    forget_shards,
    gather_tables,
    in_turn,
    shard_run,
    shards_folder,
    shards_in,
)
from medcl.workflow.stages import in_stages
from medcl.workflow.writers import Writer, choose_writer

log = logging.getLogger(__name__)

_PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class Predicted:
    """What came of every input: ``what`` it is; the files written, those left as they were, and the reasons of those that failed."""

    what: str
    run: RunFolder
    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: dict[str, tuple[str, ...]]


def predict(config: PredictConfig, progress: Callable[[int, int], None] | None = None) -> Predicted:
    """Write into ``config.out`` for every input what the runs were trained for, see :mod:`medcl.workflow.writers`.

    ``progress(done, total)`` is called after each volume.

    A volume that cannot be read does not stop the others: its name and the reason are in ``failed`` and in
    ``run.json``. More volumes may be added to a folder with the same runs; other runs need another folder.

    With ``config.shard`` only that share of the inputs, by sorted name, in the company of processes that do the others. A shard, and
    the call without one that gathers the tables of shards, leave what is there. Raises ConfigError where another process is in the way, or the
    folder holds what other runs predicted.
    """
    writer = choose_writer(config)
    inputs = writer.inputs(config)
    if config.shard is not None:
        return _predict_shard(config, config.shard, writer, inputs, progress)
    run = RunFolder(config.out)
    _refuse_others(shards_in(config.out), config)
    with run.started("predict", config, resume=_continues(run, config)):
        for maps in ("probabilities", "entropy", "variance"):
            remove_leftovers(config.out / maps)
        shards = shards_in(config.out)
        gather_tables(run, (QUALITY, _PREDICTIONS))
        found = _predict_each(
            writer, inputs, run, progress, keep=config.skip_existing or bool(shards), ahead=config.read_ahead
        )
        forget_shards(run)
    write_page(run)
    return found


def _predict_shard(
    config: PredictConfig,
    shard: Shard,
    writer: Writer,
    inputs: Sequence[Input],
    progress: Callable[[int, int], None] | None,
) -> Predicted:
    """Masks and volumes go to ``config.out``, rows of tables to the shard's own folder."""
    run, whole = shard_run(config.out, shard), RunFolder(config.out)
    with beside_shards(config.out), ExitStack() as running:
        with in_turn(shards_folder(config.out) / STARTING):  # so that none starts unseen by another
            folders = [whole, *shards_in(config.out)]
            _refuse_others(folders, config)
            running.enter_context(run.started("predict", config, resume=True))
        told = {row["id"] for each in folders for row in read_written(each.path / _PREDICTIONS)}
        writer.tables_in(run.path)
        share = set(shard.share(item.name for item in inputs))
        mine = [item for item in inputs if item.name in share]
        return _predict_each(writer, mine, run, progress, keep=True, ahead=config.read_ahead, told=told)


def _predict_each(
    writer: Writer,
    inputs: Sequence[Input],
    run: RunFolder,
    progress: Callable[[int, int], None] | None,
    *,
    keep: bool,
    ahead: bool,
    told: Collection[str] = (),
) -> Predicted:
    """Predict ``inputs`` and note in ``run`` what came of them. ``keep``: leave what is there.   ``ahead``: read the next while one is told.
    ``told``: names that tables have a row of."""
    written: list[Path] = []
    skipped: list[Path] = []
    failed: dict[str, tuple[str, ...]] = {}
    try:
        missing: list[Input] = []
        for item in inputs:
            if keep and (item.name in told or writer.is_there(item)):
                skipped.append(writer.target(item))
            else:
                missing.append(item)
        if progress and skipped:
            progress(len(skipped), len(inputs))
        with closing(in_stages(missing, writer.read, writer.tell, writer.save, ahead=ahead)) as outcomes:
            for done, (item, outcome) in enumerate(outcomes, len(skipped) + 1):
                if isinstance(outcome, Exception):  # a file can be bad in ways nobody foresaw; the others still count
                    log.debug("%s", item.name, exc_info=outcome)
                    failed[item.name] = _reasons(outcome, item)
                else:
                    written.append(outcome)
                if progress:
                    progress(done, len(inputs))
    finally:
        writer.finish()
    run.record(
        **writer.facts(),
        written=list(dict.fromkeys(path.name for path in written)),
        skipped=list(dict.fromkeys(path.name for path in skipped)),
        failed={name: list(reasons) for name, reasons in failed.items()},
    )
    return Predicted(writer.what, run, tuple(written), tuple(skipped), failed)


def _refuse_others(runs: Sequence[RunFolder], config: PredictConfig) -> None:
    """Raise ConfigError where one of ``runs`` is of other networks or options, whose masks would be mixed with these."""
    for run in runs:
        if run.config.is_file() and not _continues(run, config):
            raise ConfigError(f"{run.path}: holds a run with another configuration; choose another --out or remove it")


def _reasons(error: Exception, item: Input) -> tuple[str, ...]:
    if isinstance(error, MedclError):
        return error.problems
    text = str(error).strip().splitlines()
    return (
        f"{item.files[0] if item.files else item.name}: {type(error).__name__}: {text[0] if text else 'no message'} (unexpected; see --debug)",
    )


def _continues(run: RunFolder, config: PredictConfig) -> bool:
    """Whether the folder holds masks of the same networks, so that more may be added."""
    if not run.config.is_file():
        return False
    before = run.read_config()
    now, fields = config.model_dump(mode="json"), PredictConfig.model_fields
    keys = ("runs", "tta", "skip_empty", "precision")
    return isinstance(before, dict) and all(before.get(key, fields[key].default) == now[key] for key in keys)
