"""`medcl finetune`: from a labelled subset to a segmentation network."""

from __future__ import annotations

import logging

import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.finetune import FinetuneConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.errors import ConfigError, DataError
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.seeds import derive_seed
from medcl.tasks.segmentation import SegmentationTask
from medcl.training.fit import fit
from medcl.views.sampler import ViewSampler
from medcl.weights.card import WeightsCard
from medcl.weights.load import load_into
from medcl.weights.read import find_weights
from medcl.weights.save import save_weights
from medcl.workflow.scans import labelled_ids, open_scans

log = logging.getLogger(__name__)


def finetune(config: FinetuneConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Train on the labelled subset of ``config.data``, from ``config.init`` or from scratch, and write ``config.out``.

    A pretrained network brings its encoder and its recipe; ``config.encoder`` and ``config.recipe`` then do not count.
    """
    run = RunFolder(config.out)
    with run.started("finetune", config, seed=config.seed, resume=resume):
        weights = find_weights(config.init) if config.init is not None else None
        scans = open_scans(config.data, weights.recipe if weights else config.recipe, run.path)
        if config.select == "best" and not scans.split.validation:
            raise ConfigError("select=best needs validation records; set data.validation, or select=last")
        recipe = scans.store.recipe
        ids = labelled_ids(scans, config.data)
        labels = recipe.labels or scans.manifest.label_names
        if len(labels) < 2:
            raise DataError(
                f"{config.data.path}: no label names are known; give labels, or a dataset.json that names them"
            )
        torch.manual_seed(derive_seed(config.seed, "network"))
        encoder = build_encoder(weights.card.encoder if weights else config.encoder, len(recipe.channels), recipe.patch)
        segmenter = Segmenter(encoder, max(labels) + 1)
        if weights is not None:
            report = load_into(encoder, weights.state)
            log.info("%s", report)
            run.record(load_report=report.as_dict())
        patch = (config.views.patch or recipe.patch)[: encoder.spatial_dims]
        sampler = ViewSampler(
            scans.store,
            ids,
            config.views,
            patch=patch,
            batch=config.batch,
            seed=derive_seed(config.seed, "finetune"),
            spatial_dims=encoder.spatial_dims,
        )
        run.record(labelled=list(ids), validation=list(scans.split.validation), test=list(scans.split.test))
        task = SegmentationTask(
            segmenter,
            config,
            sampler,
            patch=patch,
            validation=(scans.store, scans.split.validation) if scans.split.validation else None,
            pretrained=weights is not None,
        )
        done = fit(
            task,
            config.trainer,
            run,
            stage="finetune",
            resume=resume,
            progress=progress,
            validate_every=min(config.validate_every, config.steps),
            keep_best=config.select == "best",
        )
        if not done:
            raise SystemExit(0)
        card = WeightsCard(
            encoder=weights.card.encoder if weights else config.encoder,
            in_channels=len(recipe.channels),
            classes=segmenter.classes,
            stage="finetuned",
            data_digest=scans.manifest.digest,
            training=config.model_dump(mode="json"),
            records=ids,
        )
        if is_first_process():
            save_weights(run.weights, segmenter, card, recipe)
    if is_first_process():
        write_page(run)
    return run
