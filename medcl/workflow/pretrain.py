"""`medcl pretrain`: from unlabelled volumes to an encoder's weights."""

from __future__ import annotations

import logging

import torch
from safetensors.torch import load_file, save_file

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.pretrain import PretrainConfig, StageConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.volume import Encoder
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
from medcl.workflow.probes import check_probes, probe_stage
from medcl.workflow.scans import Scans, open_scans
from medcl.workflow.strategies import CONTINUAL, StageClusters, Tasks, record_features

log = logging.getLogger(__name__)


def pretrain(config: PretrainConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Run the stages of ``config`` one after the other and write the run folder ``config.out``.

    A stage may begin with a fresh encoder; then the last of every encoder is also written to a folder of its own beside the
    weights, for :func:`~medcl.weights.load.build_concatenated`. With ``resume`` finished stages are not repeated and the interrupted one goes on from its last checkpoint.
    Raises ConfigError before anything is trained where a term lacks what it needs.
    """
    check_requirements(config)
    if config.init is None and "encoder" not in config.stages[0].train:
        log.warning(
            "stage '%s' trains no encoder, and none was trained before it; give the run of one as init=RUN",
            config.stages[0].name,
        )
    run = RunFolder(config.out)
    with run.started("pretrain", config, seed=config.seed, resume=resume):
        scans = open_scans(config.data, config.recipe, run.path, labels=False)
        recipe = scans.store.recipe
        torch.manual_seed(derive_seed(config.seed, "network"))
        encoder = build_encoder(config.encoder, len(recipe.channels), recipe.patch)
        if config.init is not None:
            log.info("%s", load_into(encoder, find_weights(config.init).state))
        run.record(pool=list(scans.pool), test=list(scans.split.test), data_digest=scans.manifest.digest)
        pool = scans.pool
        classes = dict(zip(pool, scans.class_names(pool, config.classes), strict=True)) if config.classes else {}
        clusters = StageClusters(pool, run.checkpoints)
        tasks = Tasks(pool, classes, scans.manifest.subject_numbers(pool))
        concatenated: list[str] = []
        device = torch_device(config.trainer.device)
        for stage in config.stages:
            tasks.check(stage)
        check_probes(config, scans)
        if scans.manifest.provenance.get("simulated"):
            run.record(simulated=True)
        for number, stage in enumerate(config.stages):
            seed = derive_seed(config.seed, stage.name)
            if stage.fresh and number:
                torch.manual_seed(derive_seed(seed, "network"))
                encoder = build_encoder(config.encoder, len(recipe.channels), recipe.patch)
            last_of_its_encoder = number + 1 == len(config.stages) or config.stages[number + 1].fresh
            concatenated += [stage.name] if last_of_its_encoder else []
            finished = run.checkpoints / f"{stage.name}.safetensors"
            if resume and finished.is_file():
                encoder.load_state_dict(load_file(finished))
                if stage.clusters is not None:
                    clusters.read(stage)
                if stage.only is not None:
                    tasks.read(run.path / CONTINUAL, upto=stage)
                continue
            task = _task_of(config, stage, encoder, scans, clusters, tasks, seed)
            if not fit(task, config.trainer, run, stage=stage.name, resume=resume, progress=progress):
                raise SystemExit(0)
            if stage.clusters is not None or stage.only is not None:
                features = record_features(encoder, scans, pool, stage, seed=seed, device=device)
                if stage.clusters is not None:
                    clusters.add(stage, features, seed)
                if stage.only is not None:
                    tasks.end(stage, features)
                encoder.cpu()
            if is_first_process():
                if stage.only is not None:
                    tasks.write(run.path / CONTINUAL)
                diagnose_stage(task, run.path / "diagnostics", device)
                if config.probe:
                    probe_stage(task, objectives_of(config, stage), config, scans, run.path, device)
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
            if len(concatenated) > 1:
                for name in concatenated:
                    encoder.load_state_dict(load_file(run.checkpoints / f"{name}.safetensors"))
                    save_weights(run.weights / name, encoder, card, recipe)
                run.record(concatenated=concatenated)
    if is_first_process():
        write_page(run)
    return run


def _task_of(
    config: PretrainConfig,
    stage: StageConfig,
    encoder: Encoder,
    scans: Scans,
    clusters: StageClusters,
    tasks: Tasks,
    seed: int,
) -> PretrainTask:
    """The task of ``stage``: its records, their views, and what is known of them."""
    views, objectives = stage.views, objectives_of(config, stage)
    ids = tasks.records(stage, objectives)
    labels = tasks.labels(ids)
    groups = labels if stage.balanced else clusters.composite(ids) if stage.single_cluster_batches else None
    sampler = ViewSampler(
        scans.store,
        ids,
        views,
        patch=(views.patch or scans.store.recipe.patch)[: encoder.spatial_dims],
        batch=stage.batch,
        seed=seed,
        spatial_dims=encoder.spatial_dims,
        labels=False,
        body=any(isinstance(entry, LocalEntry) and entry.inside is not None for entry in objectives)
        or any(term.quality is not None and term.quality.mask == "body" for term in stage.terms),
        groups=None if groups is None else groups.tolist(),
        balanced=stage.balanced,
        places=scans.places(tuple(ids)),
    )
    facts = RecordFacts(
        subject=torch.tensor(scans.manifest.subject_numbers(sampler.ids)),
        label=tasks.labels(sampler.ids),
        classes=tuple(sorted(set(tasks.classes.values()))),
        cluster=clusters.composite(sampler.ids),
        target=None
        if config.targets is None
        else torch.tensor(scans.numbers(sampler.ids, config.targets), dtype=torch.float64),
        data_digest=scans.manifest.digest,
    )
    torch.manual_seed(seed)  # the heads' first weights
    task = PretrainTask(
        encoder, stage, objectives, sampler, facts, trainer=config.trainer, measure=measure_codes, seed=seed
    )
    tasks.fill(task)
    return task
