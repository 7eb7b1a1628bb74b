"""What the stages of a pipeline call: medcl's own commands."""

from __future__ import annotations

from pathlib import Path

from medcl.config.finetune import FinetuneConfig
from medcl.config.pipeline import StudyPredictConfig
from medcl.config.predict import PredictConfig
from medcl.config.pretrain import PretrainConfig
from medcl.errors import DataError
from medcl.workflow.cells import Commands, StudyData
from medcl.workflow.finetune import finetune
from medcl.workflow.held_out import evaluate_records, study_data
from medcl.workflow.plan import Plan
from medcl.workflow.predict import predict
from medcl.workflow.prepare import store_for
from medcl.workflow.pretrain import pretrain


def prepare_study(plan: Plan) -> StudyData:
    """Build the one store of a study and say which records it uses for what."""
    data = study_data(plan)
    assert plan.data.store is not None
    store_for(plan.data, plan.config.recipe, plan.data.store, data.prepared, plan.config.jobs)
    return data


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


COMMANDS = Commands(pretrain_run, finetune_run, predict_records, evaluate_records)
