"""`medcl predict`: masks, numbers or finer volumes of many volumes, classes of many records, whatever happens to one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medcl.config.predict import PredictConfig
from medcl.errors import MedclError
from medcl.files import remove_leftovers
from medcl.inference.inputs import Input
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder
from medcl.workflow.writers import choose_writer

log = logging.getLogger(__name__)


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
    """
    writer = choose_writer(config)
    inputs = writer.inputs(config)
    run = RunFolder(config.out)
    written: list[Path] = []
    skipped: list[Path] = []
    failed: dict[str, tuple[str, ...]] = {}
    with run.started("predict", config, resume=_continues(run, config)):
        for maps in ("probabilities", "entropy", "variance"):
            remove_leftovers(config.out / maps)
        for done, item in enumerate(inputs, 1):
            if config.skip_existing and writer.is_there(item):
                skipped.append(writer.target(item))
            else:
                try:
                    written.append(writer.write(item))
                except Exception as error:  # a file can be bad in ways nobody foresaw; the others still count
                    log.debug("%s", item.name, exc_info=True)
                    failed[item.name] = _reasons(error, item)
            if progress:
                progress(done, len(inputs))
        run.record(
            **writer.facts(),
            written=list(dict.fromkeys(path.name for path in written)),
            skipped=list(dict.fromkeys(path.name for path in skipped)),
            failed={name: list(reasons) for name, reasons in failed.items()},
        )
    write_page(run)
    return Predicted(writer.what, run, tuple(written), tuple(skipped), failed)


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
