"""Several processes on one output folder, a shard each, on a file system that they share.

Every shard has a run folder of its own, ``shards/3-of-8/``, for its facts and for what others write too (tables, an index). Files
of single records go where they belong at once: no two shards have a record in common. A call without a shard, which has the
folder for itself, gathers what the shards left and removes their folders.
"""

from __future__ import annotations

import csv
import fcntl
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medcl.config.shard import Shard
from medcl.errors import ConfigError, DataError
from medcl.files import atomic_path
from medcl.records.csv_tables import read_written
from medcl.runs import RunFolder

_FOLDER, _NAME = "shards", re.compile(r"[0-9]+-of-[0-9]+")
STARTING, PREPARING, AGREEING, AGREED = ".starting", ".preparing", ".agreeing", "recipe.json"
_SHARED = (STARTING, PREPARING, AGREEING, AGREED)
"""Files beside the folders of shards: three to take turns by, and the recipe that they share."""
_COUNTED = ("wall_seconds", "cpu_seconds", "peak_memory_mib")


def shards_folder(out: Path) -> Path:
    """Where the shards of ``out`` keep what is not gathered yet."""
    return out / _FOLDER


def shard_run(out: Path, shard: Shard) -> RunFolder:
    """The run folder of one shard of ``out``."""
    return RunFolder(shards_folder(out) / shard.folder)


def shards_in(out: Path) -> list[RunFolder]:
    """The run folders of shards that are not gathered yet, in the order of their names."""
    found = (path for path in shards_folder(out).glob("*-of-*") if path.is_dir() and _NAME.fullmatch(path.name))
    return [RunFolder(path) for path in sorted(found)]


@contextmanager
def beside_shards(out: Path) -> Iterator[None]:
    """Use ``out`` together with other shards. Raises ConfigError where a process without a shard has it for itself."""
    with _opened(out / ".lock") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"{out}: another medcl process is writing here, without --shard; wait for it or choose another out="
            ) from error
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until no other process is between these lines with the same ``path``, a file that is made for it."""
    with _opened(path) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def gather_tables(run: RunFolder, names: Sequence[str]) -> None:
    """Lay the rows that shards wrote to their tables ``names`` over those of ``run``, by id.

    Done twice it is as if done once. Raises DataError where a table is damaged or has other columns.
    """
    for name in names:
        tables = [read_written(each.path / name) for each in (run, *shards_in(run.path))]
        if not any(tables[1:]):
            continue
        rows: dict[str, list[Any]] = {}
        for table in tables:
            fresh: dict[str, list[Any]] = {}
            for row in table:
                fresh.setdefault(row["id"], []).append(row)
            rows.update(fresh)
        columns = {tuple(table[0]) for table in tables if table}
        if len(columns) > 1:
            raise DataError(
                f"{run.path / name}: the tables of its shards differ in their columns; choose another --out"
            )
        with atomic_path(run.path / name) as part, open(part, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns.pop())
            writer.writeheader()
            writer.writerows(row for record_id in sorted(rows) for row in rows[record_id])


def forget_shards(run: RunFolder) -> None:
    """Note in ``run`` what its shards took and remove their folders, once all they hold was gathered."""
    took = {each.path.name: each.read_facts() for each in shards_in(run.path) if each.facts.is_file()}
    if took:
        noted = {name: {key: facts[key] for key in _COUNTED if key in facts} for name, facts in took.items()}
        before = run.read_facts().get("shards", {}) if run.facts.is_file() else {}
        run.record(shards={**before, **noted})
    for each in shards_in(run.path):
        shutil.rmtree(each.path)
    for name in _SHARED:
        (shards_folder(run.path) / name).unlink(missing_ok=True)
    with suppress(OSError):  # where there is none, or something of someone else lies in it
        shards_folder(run.path).rmdir()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A lock file; readable and writable, as the locks of NFS want it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+")  # noqa: SIM115  (closed below; the lock lives as long)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot write here ({error.strerror}); choose another output folder") from error
    with handle:
        yield handle
