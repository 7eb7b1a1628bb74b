"""`medcl finetune` with ``task: prompts``: from a trained alignment and few labelled records to a classifier by texts."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medcl.config.prompt_tuning import ClassAwareTuning, GoproTuning, MsgcoopTuning, PromptTuningConfig
from medcl.encoders.tuned import Tuned, build_tuned
from medcl.errors import ConfigError
from medcl.evaluation.base_novel import score_base_novel
from medcl.evaluation.methods import MethodScores
from medcl.evaluation.statistics import paired_difference
from medcl.files import atomic_path
from medcl.inference.predictor import torch_device
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.seeds import derive_seed
from medcl.tasks.prompt_tuning import PLAIN_VIEW, STRONG, TRAINING, PromptTuningTask, finding_scores
from medcl.training.fit import fit
from medcl.types import Array
from medcl.views.aligned import AlignedSampler, Stream
from medcl.weights.alignment import AlignmentFile, find_alignment
from medcl.weights.prompts import PromptsCard, save_prompts
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.labelled_records import Classes, classes_of, open_records, plain_section, shots_of, stream_for

log = logging.getLogger(__name__)


def finetune_prompts(config: PromptTuningConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Learn from ``config.shots`` records of every base class, score on the held-out records, write ``config.out``.

    The scores, beside those of the alignment with the same texts and nothing learnt, go to ``scores.json`` and the page, those of every
    record to ``predictions.csv``.
    """
    run = RunFolder(config.out)
    with run.started("finetune", config, seed=config.seed, resume=resume):
        alignment = find_alignment(config.init)
        modality = _modality(config, alignment)
        data = open_records(config.data, alignment, [modality], config.data.store or run.path / "prepared")
        classes = classes_of(config, data)
        ids, labels = shots_of(config, classes, data)
        part, held_out = ("test", data.split.test) if data.split.test else ("validation", data.split.validation)
        run.record(labelled=list(ids), validation=list(data.split.validation), test=list(data.split.test))
        if data.manifest.provenance.get("simulated"):
            run.record(simulated=True)
        card = _card(config, modality, classes, ids)
        torch.manual_seed(derive_seed(config.seed, "network"))
        tuned = build_tuned(alignment.network(), modality, config.method, card.leads())
        task = PromptTuningTask(
            tuned,
            config,
            _sampler(config, data, modality, ids, alignment, len(classes.base)),
            texts=tuned.texts.tokenizer(card.texts(classes.base)),
            labels=torch.from_numpy(labels),
            descriptions=_descriptions(config, card, classes.base, tuned),
        )
        trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
        log.info(
            "%s learns %d numbers, %.2g %% of the alignment's, from %d records",
            config.method.name,
            trained,
            100 * trained / sum(value.numel() for value in alignment.state.values()),
            len(ids),
        )
        if not fit(task, config.trainer, run, stage="finetune", resume=resume, progress=progress):
            raise SystemExit(0)
        tuned.cpu().eval()
        if is_first_process():
            save_prompts(run.weights, tuned, card, alignment)
            held_out = tuple(name for name in held_out if name in classes.labels)
            if held_out:
                scores = _scores(config, part, held_out, data, classes, card, alignment, tuned, run.path)
                scores.write(run.path / "scores.json")
                for line in scores.lines():
                    log.info("%s", line)
    if is_first_process():
        write_page(run)
    return run


def _modality(config: PromptTuningConfig, alignment: AlignmentFile) -> str:
    """What is classified. ConfigError where the alignment does not settle it, or has no texts."""
    names = alignment.card.modalities.names
    found = [name for name in ("radiograph", "volume", "ecg") if name in names]
    wanted = config.modality or (found[0] if len(found) == 1 else None)
    if "report" not in names:
        raise ConfigError(f"init: {config.init} aligned {', '.join(names)}; prompts need an alignment with report")
    if wanted is None:
        raise ConfigError(
            f"modality: {config.init} has {', '.join(found) or 'none to classify'}; set modality to one of them"
        )
    if wanted not in names:
        raise ConfigError(f"modality: {config.init} has no {wanted}; it has {', '.join(found)}")
    return wanted


def _card(config: PromptTuningConfig, modality: str, classes: Classes, ids: Sequence[str]) -> PromptsCard:
    return PromptsCard(
        method=config.method,
        modality=modality,
        classes=classes.texts,
        findings=bool(config.findings),
        novel=config.novel,
        template=config.template,
        absent=config.absent,
        temperature=config.temperature,
        records=tuple(ids),
    )


def _sampler(
    config: PromptTuningConfig,
    data: AlignmentData,
    modality: str,
    ids: Sequence[str],
    alignment: AlignmentFile,
    classes: int,
) -> AlignedSampler:
    """Batches of augmented views; with GOPro also of the images as they are, and of strongly augmented ones."""
    section = getattr(alignment.card.modalities, modality)
    method, ecg = config.method, modality == "ecg"
    augmented = {"augmentation": config.augmentation} if ecg else {"views": config.views}
    sections = {TRAINING: plain_section(section, **augmented)}
    if isinstance(method, GoproTuning):
        strong = {"augmentation": method.strong_ecg} if ecg else {"views": method.strong}
        sections |= {PLAIN_VIEW: plain_section(section), STRONG: plain_section(section, **strong)}
    streams: dict[str, Stream] = {
        name: stream_for(modality, own, data, ids, derive_seed(config.seed, name)) for name, own in sections.items()
    }
    subjects = data.manifest.subject_numbers(ids)
    batch = min(config.batch, len(set(subjects)))
    if isinstance(method, GoproTuning) and batch < 2:
        raise ConfigError("batch: gopro contrasts the records of a batch and needs two subjects at least")
    if isinstance(method, GoproTuning | ClassAwareTuning):
        texts = batch * classes * (2 if config.findings else 1) * len(streams)
        if texts > method.most_texts:
            raise ConfigError(
                f"method.most_texts: a batch of {batch} records and {classes} classes are {texts} texts a step, above {method.most_texts}; lower "
                "batch, or raise it"
            )
    return AlignedSampler(
        ids, subjects, streams, dict.fromkeys(streams, 1), batch=batch, seed=derive_seed(config.seed, "finetune")
    )


@torch.no_grad()
def _descriptions(config: PromptTuningConfig, card: PromptsCard, names: Sequence[str], tuned: Tuned) -> Tensor | None:
    """Unit codes of the descriptions of the texts, as MSGCoOp reads them: NaN where there is none, and for what is absent."""
    if not isinstance(config.method, MsgcoopTuning) or not config.method.guidance:
        return None
    if not any(card.classes[name].description for name in names):
        raise ConfigError(
            "descriptions: msgcoop needs one of the base classes at least; give a file such as configs/descriptions/chest.yaml, or set "
            "method.guidance=0"
        )
    count = len(card.texts(tuple(names)))
    found = torch.full((count, tuned.network.joint), float("nan"))
    for row, name in enumerate(names):
        if sentences := card.classes[name].description:
            tuned.eval()
            found[row] = tuned.text_code(tuned.texts(tuned.texts.tokenizer(list(sentences))).pooled).mean(0)
    return found


@torch.no_grad()
def similarities(
    tuned: Tuned, stream: Stream, ids: Sequence[str], texts: Sequence[str], device: torch.device, batch: int = 16
) -> Array:
    """``(N, T)``: of every record with every text, from images as they are."""
    tuned = tuned.to(device).eval()
    tokens = tuned.texts.tokenizer(list(texts)).to(device)
    rows = []
    for begin in range(0, len(ids), batch):
        names = ids[begin : begin + batch]
        inputs = stream.render(stream.plan(names, [0] * len(names), 1), device)[0]
        rows.append(tuned(inputs, tokens).similarity.cpu().double())
    return torch.cat(rows).numpy()


def class_scores(tuned: Tuned, stream: Stream, ids: Sequence[str], card: PromptsCard, device: torch.device) -> Array:
    """``(N, C)``: of every record and class; base and novel classes each among themselves, as images may read the classes too."""
    names = list(card.classes)
    found = np.zeros((len(ids), len(names)))
    for kind in (False, True):
        own = [name for name in names if (name in card.novel) == kind]
        if own:
            told = similarities(tuned, stream, ids, card.texts(tuple(own)), device)
            scores = finding_scores(torch.from_numpy(told)).numpy() if card.findings else told
            found[:, [names.index(name) for name in own]] = scores
    return found


def _scores(
    config: PromptTuningConfig,
    part: str,
    held_out: Sequence[str],
    data: AlignmentData,
    classes: Classes,
    card: PromptsCard,
    alignment: AlignmentFile,
    tuned: Tuned,
    folder: Path,
) -> MethodScores:
    """The run beside the alignment of which nothing was changed."""
    section = getattr(alignment.card.modalities, card.modality)
    stream = stream_for(card.modality, plain_section(section), data, held_out, config.seed)
    device = torch_device(config.trainer.device)
    networks = {"this run": tuned, "the alignment, nothing learnt": Tuned(alignment.network(), card.modality)}
    found: Mapping[str, Array] = {
        name: class_scores(network, stream, held_out, card, device) for name, network in networks.items()
    }
    labels = np.array([classes.labels[name] for name in held_out], dtype=float)
    subjects = [data.manifest.by_id(name).subject for name in held_out]
    novel = [name in config.novel for name in classes.texts]
    scores = {name: score_base_novel(told, labels, novel, subjects) for name, told in found.items()}
    what = "mean AUROC" if config.findings else "accuracy"
    named = {"base": f"{what}, base classes", "novel": f"{what}, novel classes", "harmonic": "harmonic mean"}
    metrics = {key: text for key, text in named.items() if key in scores["this run"]}
    first, *others = found
    differences = {}
    if not config.findings:
        right = {name: _right(told, labels, np.array(novel)) for name, told in found.items()}
        differences = {name: {"base": paired_difference(right[first], right[name], subjects)} for name in others}
        metrics_of_difference = "of all records, each among the classes of its own kind"
    _write_predictions(folder / "predictions.csv", held_out, list(classes.texts), found[first], labels, config)
    notes = [
        f"{config.method.name}, {config.shots} labelled records of each of {len(classes.base)} base classes at most; of {len(config.novel)} novel classes "
        "none. Base records are told among base classes, novel ones among novel classes."
    ]
    if seen := len(set(held_out) & set(alignment.card.records)):
        notes.append(
            f"Seen in the training of the alignment (images and texts, no labels): {seen} of these {len(held_out)}."
        )
    if differences:
        notes.append(f"The difference of accuracies is {metrics_of_difference}.")
    return MethodScores(
        title=f"{config.target or 'findings'} of {len(held_out)} {part} records by prompts",
        part=part,
        records=list(held_out),
        metrics=metrics,
        scores=scores,
        differences=differences,
        notes=notes,
    )


def _right(scores: Array, labels: Array, novel: Array) -> Array:
    """1 where the class of a record is told right among those of its kind, base or novel."""
    rivals = novel[labels.astype(int)][:, None] == novel
    return (np.where(rivals, scores, -np.inf).argmax(1) == labels).astype(float)


def _write_predictions(
    path: Path, ids: Sequence[str], names: Sequence[str], scores: Array, labels: Array, config: PromptTuningConfig
) -> None:
    """A row a record and class: the score, and the truth (blank where it is unknown)."""
    with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "class", "novel", "score", "true"])
        for record, row, truth in zip(ids, scores, labels, strict=True):
            for number, (name, score) in enumerate(zip(names, row, strict=True)):
                known = float(truth == number) if not config.findings else float(truth[number])
                true = "" if known != known else int(known)
                writer.writerow([record, name, int(name in config.novel), f"{score:.6g}", true])
