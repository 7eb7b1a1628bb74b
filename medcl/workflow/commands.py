"""What the stages of a pipeline call: medcl's own commands, on the records that a study holds out."""

from __future__ import annotations

from pathlib import Path

from medcl.config.data import DataConfig
from medcl.config.finetune import FinetuneConfig
from medcl.config.pipeline import StudyEvaluateConfig, StudyPredictConfig
from medcl.config.predict import PredictConfig
from medcl.config.pretrain import PretrainConfig
from medcl.errors import DataError
from medcl.evaluation import segmentation
from medcl.records.layouts import open_data
from medcl.records.splits import labelled_subset, split
from medcl.workflow.cells import Commands, StudyData
from medcl.workflow.finetune import finetune
from medcl.workflow.plan import Plan
from medcl.workflow.predict import predict
from medcl.workflow.prepare import store_for
from medcl.workflow.pretrain import pretrain


def prepare_study(plan: Plan) -> StudyData:
    """Build the one store of a study and say which records it uses for what."""
    data = study_data(plan)
    assert plan.data.store is not None
    store_for(plan.data, plan.config.recipe, plan.data.store, (*data.train, *data.validation), plan.config.jobs)
    return data


def study_data(plan: Plan) -> StudyData:
    """The records of each part and of every labelled subset. Raises DataError where there are too few."""
    config = plan.data
    manifest = open_data(config.path, config.labels)
    parts = split(manifest, config.test, config.validation, config.split_seed)
    subsets = {
        "all" if cell.labelled == "all" else f"n{cell.labelled}-s{cell.subset}": labelled_subset(
            manifest, parts.train, cell.labelled, cell.subset, config.split_seed
        )
        for cell in plan.cells
    }
    return StudyData(manifest.digest, parts.train, parts.validation, parts.test, subsets)


def pretrain_run(config: PretrainConfig) -> None:
    """`medcl pretrain --resume`."""
    pretrain(config, resume=True, progress=False)


def finetune_run(config: FinetuneConfig) -> None:
    """`medcl finetune --resume`."""
    finetune(config, resume=True, progress=False)


def predict_records(run: FinetuneConfig, ids: tuple[str, ...], masks: Path, config: StudyPredictConfig) -> None:
    """Predict the volumes of ``ids`` with the network of ``run`` into ``masks``, each named by its record."""
    found = predict(
        PredictConfig(
            runs=(run.out,),
            inputs=(run.data.path,),
            out=masks,
            ids=ids,
            tta=config.tta,
            device=run.trainer.device,
            skip_existing=True,
        )
    )
    if found.failed:
        raise DataError([reason for reasons in found.failed.values() for reason in reasons])


def evaluate_records(
    masks: Path, data: DataConfig, ids: tuple[str, ...], out: Path, config: StudyEvaluateConfig
) -> None:
    """Score the masks of ``ids`` into ``out``; DataError where one is missing, for a mean over fewer would mislead."""
    manifest = open_data(data.path, data.labels)
    names = {value: name for value, name in manifest.label_names.items() if value != 0}
    truth = data.path if data.labels is None else data.labels
    found = segmentation.evaluate(masks, truth, labels=names or None, tolerance=config.tolerance, ids=ids)
    if found.missing:
        raise DataError(f"{masks}: no prediction for {', '.join(found.missing[:5])}; run the same command again")
    found.write(out)


COMMANDS = Commands(pretrain_run, finetune_run, predict_records, evaluate_records)
