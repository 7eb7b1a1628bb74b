"""`medcl finetune`: from a labelled subset to a segmentation network."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.classification import ClassificationConfig
from medcl.config.finetune import FinetuneConfig
from medcl.config.prompt_tuning import PromptTuningConfig
from medcl.config.regression import RegressionConfig
from medcl.config.super_resolution import SuperResolutionConfig
from medcl.config.tasks import AnyFinetune
from medcl.config.unlabelled import CrossPseudoConfig, RoundsConfig
from medcl.config.views import ViewsConfig
from medcl.distributed import wait_for_all
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.errors import ConfigError, DataError
from medcl.preparation.recipe import Recipe
from medcl.preparation.relabelled import RelabelledStore
from medcl.preparation.store import Store
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.seeds import derive_seed
from medcl.tasks.segmentation import SegmentationTask
from medcl.training.fit import fit
from medcl.views.sampler import ViewSampler
from medcl.weights.card import WeightsCard
from medcl.weights.load import build_segmenter, load_into
from medcl.weights.read import WeightsFile, find_weights
from medcl.weights.save import save_weights
from medcl.workflow.calibrate import calibrate
from medcl.workflow.classification import finetune_classification
from medcl.workflow.prompt_tuning import finetune_prompts
from medcl.workflow.pseudo_labels import label_pool
from medcl.workflow.regression import finetune_regression
from medcl.workflow.scans import Scans, open_scans
from medcl.workflow.super_resolution import finetune_super_resolution

log = logging.getLogger(__name__)


def finetune(config: AnyFinetune, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Fine-tune as ``config.task`` says and write ``config.out``."""
    match config:
        case RegressionConfig():
            return finetune_regression(config, resume=resume, progress=progress)
        case SuperResolutionConfig():
            return finetune_super_resolution(config, resume=resume, progress=progress)
        case PromptTuningConfig():
            return finetune_prompts(config, resume=resume, progress=progress)
        case ClassificationConfig():
            return finetune_classification(config, resume=resume, progress=progress)
        case FinetuneConfig():
            return finetune_segmentation(config, resume=resume, progress=progress)


def finetune_segmentation(config: FinetuneConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Train on the labelled subset of ``config.data``, from ``config.init`` or from scratch, and write ``config.out``.

    A pretrained network brings its encoder and its recipe; ``config.encoder`` and ``config.recipe`` then do not count.
    """
    run = RunFolder(config.out)
    with run.started("finetune", config, seed=config.seed, resume=resume):
        weights = find_weights(config.init) if config.init is not None else None
        teaching = find_weights(config.distil.teacher) if config.distil is not None else None
        given = weights or teaching
        scans = open_scans(config.data, given.recipe if given else config.recipe, run.path, labels=True)
        if config.select == "best" and not scans.split.validation:
            raise ConfigError("select=best needs validation records; set data.validation, or select=last")
        recipe = scans.store.recipe
        ids = scans.split.labelled
        labels = recipe.labels or scans.manifest.label_names
        if len(labels) < 2:
            raise DataError(
                f"{config.data.path}: no label names are known; give labels, or a dataset.json that names them"
            )
        teacher = None if teaching is None else _teacher(teaching, recipe, max(labels) + 1)
        run.record(labelled=list(ids), validation=list(scans.split.validation), test=list(scans.split.test))
        rounds = config.unlabelled.rounds if isinstance(config.unlabelled, RoundsConfig) else 0
        segmenter = None
        for number in range(rounds + 1):
            following = _labels_folder(run, number + 1)
            if resume and number < rounds and following.is_dir():
                continue  # this round ended with the labels for the next
            segmenter = _build(config, weights, recipe, max(labels) + 1, run)
            pseudo = _labels_folder(run, number) if number else None
            task = _task(segmenter, config, weights, scans, ids, pseudo, run, teacher)
            done = fit(
                task,
                config.trainer,
                run,
                stage=f"round{number}" if number else "finetune",
                resume=resume,
                progress=progress,
                validate_every=min(config.validate_every, config.steps) if scans.split.validation else None,
                keep_best=config.select == "best",
            )
            if not done:
                raise SystemExit(0)
            segmenter = task.kept
            if number < rounds:
                if is_first_process():
                    label_pool(segmenter, config, scans.store, _others(scans, ids), task.patch, following)
                wait_for_all()
        assert segmenter is not None
        calibration = None
        if is_first_process() and scans.split.validation:
            calibration = calibrate(segmenter, scans.store, scans.split.validation, task.patch)
        card = WeightsCard(
            encoder=weights.card.encoder if weights else config.encoder,
            in_channels=len(recipe.channels),
            classes=segmenter.classes,
            task="segmentation",
            stage="finetuned",
            calibration=calibration,
            data_digest=scans.manifest.digest,
            training=config.model_dump(mode="json"),
            records=ids,
        )
        if is_first_process():
            save_weights(run.weights, segmenter, card, recipe)
    if is_first_process():
        write_page(run)
    return run


def _labels_folder(run: RunFolder, number: int) -> Path:
    """Where the labels lie that round ``number`` of a self-training learns from."""
    return run.path / "pseudo" / str(number)


def _others(scans: Scans, ids: tuple[str, ...]) -> tuple[str, ...]:
    """The records of the pool that are not labelled."""
    return tuple(record_id for record_id in scans.pool if record_id not in set(ids))


def _build(
    config: FinetuneConfig,
    weights: WeightsFile | None,
    recipe: Recipe,
    classes: int,
    run: RunFolder,
    part: str = "network",
) -> Segmenter:
    """The segmentation network, random but for what the weights bring; ``part`` tells networks of one run apart."""
    torch.manual_seed(derive_seed(config.seed, part))
    encoder = build_encoder(weights.card.encoder if weights else config.encoder, len(recipe.channels), recipe.patch)
    segmenter = Segmenter(encoder, classes)
    if weights is not None:
        report = load_into(encoder, weights.state)
        log.info("%s", report)
        run.record(load_report=report.as_dict())
    return segmenter


def _task(
    segmenter: Segmenter,
    config: FinetuneConfig,
    weights: WeightsFile | None,
    scans: Scans,
    ids: tuple[str, ...],
    pseudo: Path | None,
    run: RunFolder,
    teacher: Segmenter | None,
) -> SegmentationTask:
    """The training of a round. ``pseudo``: labels of the pool that it learns from.   ``teacher``: a finished network, or None."""
    encoder, recipe = segmenter.encoder, scans.store.recipe
    patch = (config.views.patch or recipe.patch)[: encoder.spatial_dims]

    def sampler(
        store: Store, ids: tuple[str, ...], views: ViewsConfig, batch: int, name: str, *, labels: bool
    ) -> ViewSampler:
        return ViewSampler(
            store,
            ids,
            views,
            patch=patch,
            batch=batch,
            seed=derive_seed(config.seed, name),
            spatial_dims=encoder.spatial_dims,
            labels=labels,
        )

    pool, extra = None, config.unlabelled
    if isinstance(extra, RoundsConfig):
        if pseudo is not None:
            relabelled = RelabelledStore(scans.store, pseudo)
            pool = sampler(relabelled, relabelled.ids, extra.views, extra.batch, "pool", labels=True)
    elif extra is not None:
        others = _others(scans, ids)
        if not others:
            raise ConfigError("unlabelled: every record of the pool is labelled; set unlabelled=null")
        pool = sampler(scans.store, others, extra.views, extra.batch, "pool", labels=False)
    partner = None
    if isinstance(extra, CrossPseudoConfig):
        partner = _build(config, weights, recipe, segmenter.classes, run, "partner")
    return SegmentationTask(
        segmenter,
        config,
        sampler(scans.store, ids, config.views, config.batch, "finetune", labels=True),
        patch=patch,
        validation=(scans.store, scans.split.validation) if scans.split.validation else None,
        pretrained=weights is not None,
        pool=pool,
        partner=partner,
        teacher=teacher,
    )


def _teacher(weights: WeightsFile, recipe: Recipe, classes: int) -> Segmenter:
    """The finished network that ``distil`` names; ConfigError where it cannot teach this one."""
    found = build_segmenter(weights)
    theirs = weights.recipe
    if found.classes != classes:
        raise ConfigError(f"distil.teacher: {weights.path} tells {found.classes} classes, the labels name {classes}")
    for name in ("channels", "spacing", "intensity"):
        mine, other = getattr(recipe, name), getattr(theirs, name)
        if mine != other:
            raise ConfigError(
                f"distil.teacher: {weights.path} was trained with {name} {other}, this run prepares with {mine}; leave init out, or "
                "take a teacher of the same recipe"
            )
    return found
