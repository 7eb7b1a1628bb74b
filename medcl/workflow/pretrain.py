"""`medcl pretrain`: from unlabelled volumes to an encoder's weights."""

from __future__ import annotations

import logging

import torch
from safetensors.torch import load_file, save_file

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.pretrain import PretrainConfig
from medcl.encoders.build import build_encoder
from medcl.files import atomic_path
from medcl.inference.predictor import torch_device
from medcl.objectives.dense import LocalEntry
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.seeds import derive_seed
from medcl.tasks.pretraining import PretrainTask, RecordFacts
from medcl.tasks.requirements import check_requirements, objectives_of
from medcl.training.fit import fit
from medcl.views.sampler import ViewSampler
from medcl.weights.card import WeightsCard
from medcl.weights.load import load_into
from medcl.weights.read import find_weights
from medcl.weights.save import save_weights
from medcl.workflow.diagnosis import diagnose_stage, measure_codes
from medcl.workflow.scans import open_scans

log = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Run the stages of ``config`` one after the other and write the run folder ``config.out``.

    With ``resume`` finished stages are not repeated and the interrupted one goes on from its last checkpoint.
    Raises ConfigError before anything is trained where a term lacks what it needs.
    """
    check_requirements(config)
    run = RunFolder(config.out)
    with run.started("pretrain", config, seed=config.seed, resume=resume):
        scans = open_scans(config.data, config.recipe, run.path)
        recipe = scans.store.recipe
        torch.manual_seed(derive_seed(config.seed, "network"))
        encoder = build_encoder(config.encoder, len(recipe.channels), recipe.patch)
        if config.init is not None:
            log.info("%s", load_into(encoder, find_weights(config.init).state))
        run.record(pool=list(scans.pool), test=list(scans.split.test), data_digest=scans.manifest.digest)
        for stage in config.stages:
            finished = run.checkpoints / f"{stage.name}.safetensors"
            if resume and finished.is_file():
                encoder.load_state_dict(load_file(finished))
                continue
            views, objectives = stage.views, objectives_of(config, stage)
            seed = derive_seed(config.seed, stage.name)
            sampler = ViewSampler(
                scans.store,
                scans.pool,
                views,
                patch=(views.patch or recipe.patch)[: encoder.spatial_dims],
                batch=stage.batch,
                seed=seed,
                spatial_dims=encoder.spatial_dims,
                labels=False,
                body=any(isinstance(entry, LocalEntry) and entry.inside is not None for entry in objectives),
            )
            facts = RecordFacts(
                subject=torch.tensor(scans.subjects(sampler.ids)),
                label=None if config.classes is None else torch.tensor(scans.classes(sampler.ids, config.classes)),
                data_digest=scans.manifest.digest,
            )
            torch.manual_seed(seed)  # the heads' first weights
            task = PretrainTask(
                encoder,
                stage,
                objectives,
                sampler,
                facts,
                trainer=config.trainer,
                measure=measure_codes,
                seed=seed,
            )
            if not fit(task, config.trainer, run, stage=stage.name, resume=resume, progress=progress):
                raise SystemExit(0)
            if is_first_process():
                diagnose_stage(task, run.path / "diagnostics", torch_device(config.trainer.device))
                with atomic_path(finished) as part:
                    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, part)
        card = WeightsCard(
            encoder=config.encoder,
            in_channels=len(recipe.channels),
            stage="pretrained",
            data_digest=scans.manifest.digest,
            training=config.model_dump(mode="json"),
            records=scans.pool,
        )
        if is_first_process():
            save_weights(run.weights, encoder, card, recipe)
    if is_first_process():
        write_page(run)
    return run
