"""`medcl finetune` with ``task: classification``: from a trained alignment and labelled records to a network that tells classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medcl.config.align import ModalitiesConfig
from medcl.config.classification import ClassificationConfig
from medcl.encoders.classifier import Classifier
from medcl.errors import ConfigError, DataError
from medcl.files import atomic_path
from medcl.records.splits import labelled_subset
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.seeds import derive_seed
from medcl.tasks.classification import ClassificationTask
from medcl.training.fit import fit
from medcl.types import Array
from medcl.views.aligned import AlignedSampler
from medcl.weights.alignment import AlignmentFile, find_alignment
from medcl.weights.classifier import ClassifierCard, save_classifier
from medcl.workflow.alignment_data import AlignmentData, stream_of
from medcl.workflow.class_scores import RANDOM, logits_of, mean_auroc, score_classifiers
from medcl.workflow.labelled_records import labels_of, open_records

log = logging.getLogger(__name__)


def finetune_classification(config: ClassificationConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Train on the labelled records, score on the held-out ones, write ``config.out``.

    The scores, beside those of the same network from random weights, go to ``scores.json`` and the page, what is said of every record to
    ``predictions.csv``. Raises ConfigError or DataError before anything is trained where alignment, data and configuration do not suit.
    """
    run = RunFolder(config.out)
    with run.started("finetune", config, seed=config.seed, resume=resume):
        whole = find_alignment(config.init)
        alignment = whole.only(_names(config, whole))
        names = alignment.card.modalities.names
        data = open_records(config.data, alignment, names, config.data.store or run.path / "prepared")
        classes, labels = labels_of(data, config.target, config.findings)
        ids = _labelled(config, data, labels)
        _check(config, classes, labels, ids)
        parts = {
            name: tuple(record_id for record_id in part if record_id in labels)
            for name, part in (("validation", data.split.validation), ("test", data.split.test))
        }
        if config.select == "best" and not parts["validation"]:
            raise ConfigError("select=best needs labelled validation records; set data.validation, or select=last")
        run.record(labelled=list(ids), **{name: list(part) for name, part in parts.items()})
        if data.manifest.provenance.get("simulated"):
            run.record(simulated=True)
        trained: dict[str, Classifier] = {}
        for stage in ("finetune", *(["random"] if config.baseline else [])):
            torch.manual_seed(derive_seed(config.seed, "network", stage))
            network = alignment.untrained() if stage == "random" else alignment.network()
            classifier = Classifier(network, len(classes), config.layer, config.dropout)
            finished = run.checkpoints / f"{stage}.safetensors"
            if resume and finished.is_file():
                classifier.load_state_dict(load_file(finished))
            else:
                task = _task(
                    config, stage, classifier, alignment.card.modalities, data, ids, labels, parts["validation"]
                )
                done = fit(
                    task,
                    config.trainer,
                    run,
                    stage=stage,
                    resume=resume,
                    progress=progress,
                    validate_every=None if task.validate is None else min(config.validate_every, config.steps),
                    keep_best=config.select == "best",
                )
                if not done:
                    raise SystemExit(0)
                classifier.cpu()
                if is_first_process():
                    with atomic_path(finished) as part:
                        save_file({key: value.contiguous() for key, value in classifier.state_dict().items()}, part)
            trained["this run" if stage == "finetune" else RANDOM] = classifier.eval()
        if is_first_process():
            card = ClassifierCard(
                encoders=alignment.card.model_copy(
                    update={
                        "training": config.model_dump(mode="json"),
                        "records": tuple(sorted({*alignment.card.records, *ids})),
                    }
                ),
                layer=config.layer,
                classes=classes,
                findings=bool(config.findings),
                init=whole.card.sha256,
            )
            save_classifier(run.weights, trained["this run"], card, alignment.labs)
            part = "test" if parts["test"] else "validation"
            if parts[part]:
                scores = score_classifiers(
                    config, part, parts[part], data, classes, labels, len(ids), alignment, trained, run.path
                )
                scores.write(run.path / "scores.json")
                for line in scores.lines():
                    log.info("%s", line)
    if is_first_process():
        write_page(run)
    return run


def _names(config: ClassificationConfig, alignment: AlignmentFile) -> tuple[str, ...]:
    """What the classes are told from. ConfigError where the alignment lacks it or does not settle it."""
    there = alignment.card.modalities.names
    if lacking := [name for name in config.modalities if name not in there]:
        raise ConfigError(f"modalities: {config.init} has no {', '.join(lacking)}; it has {', '.join(there)}")
    found = config.modalities or tuple(name for name in there if name != "report")
    if not config.modalities and len(found) != 1:
        raise ConfigError(
            f"modalities: {config.init} has {', '.join(there)}; say which are read: modalities=[{found[0]}]"
        )
    return found


def _labelled(config: ClassificationConfig, data: AlignmentData, labels: dict[str, int | Array]) -> tuple[str, ...]:
    """The labelled training records that the run sees."""
    known = [record_id for record_id in data.split.train if record_id in labels]
    given = config.data.records
    if given is None:
        return labelled_subset(
            data.manifest,
            known,
            config.data.labelled,
            config.data.subset,
            config.data.split_seed,
            unit=config.data.count,
            target=config.target or config.findings,
        )
    if strange := [record_id for record_id in given if record_id not in set(known)]:
        raise DataError(f"data.records: {', '.join(strange)}: no labelled training record is called so")
    return given


def _check(
    config: ClassificationConfig, classes: Sequence[str], labels: dict[str, int | Array], ids: Sequence[str]
) -> None:
    """Raise DataError where the labelled records hold nothing to tell apart."""
    if config.target is not None:
        seen = {classes[int(labels[record_id])] for record_id in ids}  # type: ignore[arg-type]
        if len(seen) < 2:
            raise DataError(
                f"target '{config.target}': the {len(ids)} labelled records are of one class ({', '.join(seen) or 'none'}); label more"
            )
        return
    rows = np.stack([np.asarray(labels[record_id]) for record_id in ids])
    if bare := [
        name for name, column in zip(classes, rows.T, strict=True) if len(np.unique(column[~np.isnan(column)])) < 2
    ]:
        raise DataError(
            f"findings: of the {len(ids)} labelled records all or none have {', '.join(bare)}; leave them out"
        )


def _task(
    config: ClassificationConfig,
    stage: str,
    classifier: Classifier,
    modalities: ModalitiesConfig,
    data: AlignmentData,
    ids: Sequence[str],
    labels: dict[str, int | Array],
    validation: Sequence[str],
) -> ClassificationTask:
    names, subjects = classifier.names, data.manifest.subject_numbers(ids)
    sections = _training_sections(config, modalities)
    seed = derive_seed(config.seed, "finetune")  # both trainings see the same batches
    streams = {
        name: stream_of(
            name,
            data,
            sections,
            ids,
            seed=seed,
            train=True,
            tokenizer=classifier.network.tokenizer,
            spatial_dims=int(getattr(getattr(sections, name).encoder, "dims", 1)),
        )
        for name in names
    }
    sampler = AlignedSampler(
        ids,
        subjects,
        streams,
        dict.fromkeys(names, 1),
        batch=min(config.batch, len(set(subjects))),
        seed=seed,
        hide=dict.fromkeys(names, config.hide),
        spare=1,
    )

    def validate() -> float:
        device = classifier.head.weight.device
        scores = logits_of(classifier, modalities, data, validation, device, config.batch)
        return float(
            mean_auroc(scores, [labels[record_id] for record_id in validation])(np.ones((1, len(validation))))[0]
        )

    return ClassificationTask(
        classifier,
        config,
        sampler,
        labels=_as_tensor([labels[record_id] for record_id in ids]),
        pretrained=stage == "finetune",
        validate=validate if validation else None,
        stage=stage,
    )


def _training_sections(config: ClassificationConfig, modalities: ModalitiesConfig) -> ModalitiesConfig:
    """The modalities as the alignment was trained on them, or augmented as ``config`` says."""
    changes = {}
    for name in modalities.names:
        section = getattr(modalities, name)
        if config.views is not None and name in ("radiograph", "volume"):
            views = config.views.model_copy(update={"patch": section.views.patch, "slots": 1})
            section = section.model_copy(update={"views": views})
        if config.augmentation is not None and name == "ecg":
            section = section.model_copy(update={"augmentation": config.augmentation})
        changes[name] = section
    return modalities.model_copy(update=changes)


def _as_tensor(labels: Sequence[int | Array]) -> Tensor:
    rows = np.array(labels)
    return torch.from_numpy(rows if rows.ndim == 1 else rows.astype(np.float32))
