"""The runs of a pipeline, each skipped when it is finished and continued when it was interrupted.

A folder's ``stages.json`` says which stages were begun and finished there, and a digest of what each computes:
its configuration, the data, and the stage before. A stage whose digest is another than before is run anew, after the
old run was moved to ``replaced/``; training is never thrown away.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medcl.config.data import DataConfig
from medcl.config.finetune import FinetuneConfig
from medcl.config.pipeline import PipelineConfig, StudyEvaluateConfig, StudyPredictConfig
from medcl.config.pretrain import PretrainConfig
from medcl.errors import DataError
from medcl.files import write_json
from medcl.runs import RunFolder
from medcl.weights.read import TENSORS
from medcl.workflow.plan import Cell, Pretraining, digest, identity

SCORES = "scores.json"
_REMOVED = "removed"
_HEAVY = ("masks", "weights", "checkpoints", "tensorboard", "pseudo", "page.html", "metrics.csv", "scores.csv")


@dataclass(frozen=True)
class StudyData:
    """The data of a study: their digest, the records of each part, and those of every labelled subset by name.

    ``pool`` are the records of the fixed pool, ``prepared`` all but the test ones, ``labels`` how many can be labelled, in what ``data.count``
    counts, ``notes`` what a named split says of itself.
    """

    digest: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    subsets: dict[str, tuple[str, ...]]
    pool: tuple[str, ...]
    prepared: tuple[str, ...]
    labels: int
    notes: tuple[str, ...] = ()

    def held_out(self, part: str) -> tuple[str, ...]:
        """Ids of the records that ``evaluate.on`` names."""
        return self.test if part == "test" else self.validation


@dataclass(frozen=True)
class Commands:
    """What the runs of a pipeline call; see ``workflow.commands`` for the real ones. Members must be picklable."""

    pretrain: Callable[[PretrainConfig], object]
    finetune: Callable[[FinetuneConfig], object]
    predict: Callable[[FinetuneConfig, tuple[str, ...], Path, StudyPredictConfig], None]
    evaluate: Callable[[Path, DataConfig, tuple[str, ...], Path, StudyEvaluateConfig], None]


class Stages:
    """Which stages a folder holds, in its ``stages.json``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "stages.json"

    def digest(self, stage: str) -> str | None:
        """What the stage that was begun here computes."""
        entry = self._read().get(stage)
        return entry["digest"] if entry else None

    def is_finished(self, stage: str, digest: str) -> bool:
        """Whether the stage of this digest ended well."""
        return self._read().get(stage) == {"digest": digest, "state": "finished"}

    def note(self, stage: str, digest: str, state: str) -> None:
        """Write down that a stage was ``begun`` or ``finished``."""
        write_json(self._path, {**self._read(), stage: {"digest": digest, "state": state}})

    def note_removal(self) -> None:
        """Write down that what the stages left behind, but for their results, is being removed."""
        write_json(self._path, {**self._read(), _REMOVED: {}})

    @property
    def is_whole(self) -> bool:
        """Whether nothing of what the stages left behind was removed."""
        return _REMOVED not in self._read()

    def _read(self) -> dict[str, dict[str, str]]:
        return json.loads(self._path.read_text()) if self._path.is_file() else {}


def pretraining_digest(pretraining: Pretraining, data: StudyData) -> str:
    """What a pretraining computes."""
    return identity(pretraining.config, data.digest)


def cell_digests(cell: Cell, data: StudyData, config: PipelineConfig) -> dict[str, str]:
    """What each stage of a cell computes; a stage's digest holds that of the stage before."""
    start = pretraining_digest(cell.pretraining, data) if cell.pretraining else None
    teacher = cell_digests(cell.teacher, data, config)["finetune"] if cell.teacher else None
    trained = identity(cell.config, data.digest, start, teacher)
    predicted = digest(trained, data.held_out(config.evaluate.on), config.predict.model_dump(mode="json"))
    scored = digest(predicted, config.evaluate.model_dump(mode="json"))
    return {"finetune": trained, "predict": predicted, "evaluate": scored}


def is_finished(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether ``folder`` holds the finished stages of these digests.

    ``run.json``, ``stages.json`` and the scores say so, wherever they were copied to: masks, weights and checkpoints need
    not have come along.
    """
    stages = Stages(folder)
    done = all(stages.is_finished(stage, digest) for stage, digest in digests.items())
    return done and RunFolder(folder).is_finished() and ("evaluate" not in digests or (folder / SCORES).is_file())


def run_pretraining(pretraining: Pretraining, data: StudyData, commands: Commands, root: Path) -> None:
    """Bring a pretraining to its end."""
    expected = pretraining_digest(pretraining, data)
    _train("pretrain", expected, pretraining.folder, root, lambda: commands.pretrain(pretraining.config))


def run_cell(cell: Cell, data: StudyData, config: PipelineConfig, commands: Commands) -> None:
    """Bring a cell to its end: fine-tuned, its held-out records predicted and scored.

    A cell that is not finished, but whose weights were removed or stayed on another machine, is trained anew.
    """
    digests = cell_digests(cell, data, config)
    ids = data.held_out(config.evaluate.on)
    stages = Stages(cell.folder)
    masks, scores = cell.folder / "masks", cell.folder / SCORES
    if not (stages.is_finished("predict", digests["predict"]) and masks.is_dir() and stages.is_whole):
        _train("finetune", digests["finetune"], cell.folder, config.out, lambda: commands.finetune(cell.config))
        if stages.digest("predict") != digests["predict"]:
            shutil.rmtree(masks, ignore_errors=True)
        stages.note("predict", digests["predict"], "begun")
        commands.predict(cell.config, ids, masks, config.predict)
        stages.note("predict", digests["predict"], "finished")
    if not stages.is_finished("evaluate", digests["evaluate"]) or not scores.is_file():
        commands.evaluate(masks, cell.config.data, ids, scores, config.evaluate)
        stages.note("evaluate", digests["evaluate"], "finished")


def _train(stage: str, expected: str, folder: Path, root: Path, train: Callable[[], object]) -> None:
    stages, run = Stages(folder), RunFolder(folder)
    if stages.digest(stage) != expected or (run.is_finished() and not has_weights(folder)):
        _set_aside(folder, root)
        stages.note(stage, expected, "begun")
    if not run.is_finished():
        train()
        if not run.is_finished():
            raise DataError(f"{folder}: the {stage} ended before it was finished; run the same command again to go on")
    stages.note(stage, expected, "finished")


def has_weights(folder: Path) -> bool:
    """Whether a finished run still has what the next stage starts from."""
    return Stages(folder).is_whole and (RunFolder(folder).weights / TENSORS).is_file()


def keep_scores(folder: Path, *, masks: bool) -> None:
    """Remove what a finished cell does not need to count as finished: ``_HEAVY``, but the masks if ``masks``.

    What is being removed is written down first: an interruption leaves a finished cell, and its half of the masks is never
    taken for the whole.
    """
    Stages(folder).note_removal()
    for name in _HEAVY:
        target = folder / name
        if target.is_dir() and not (masks and name == "masks"):
            shutil.rmtree(target)
        elif target.is_file():
            target.unlink()


def _set_aside(folder: Path, root: Path) -> None:
    """Move a run of another configuration out of the way."""
    if folder.exists():
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        target = root / "replaced" / stamp / folder.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
