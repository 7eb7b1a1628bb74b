"""`medcl align`: from records with several modalities to encoders with one joint space."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import AlignConfig
from medcl.config.align_stage import AlignStageConfig
from medcl.config.text import BertConfig
from medcl.encoders.image import VolumeFeatures
from medcl.encoders.joint import JointEncoders, build_joint
from medcl.encoders.text import Tokenizer, learn_vocabulary
from medcl.errors import ConfigError
from medcl.evaluation.spectrum import spectrum
from medcl.files import atomic_path
from medcl.modalities.duplicates import text_groups
from medcl.objectives.kernel import unit, wide
from medcl.records.classes import record_classes
from medcl.reporting.run_page import write_page
from medcl.runs import RunFolder, is_first_process
from medcl.seeds import derive_seed
from medcl.tasks.alignment import AlignTask, Facts, Recent, slots_of
from medcl.tasks.alignment_requirements import check_alignment
from medcl.tasks.place_terms import place_keys
from medcl.tasks.seen import modality_of
from medcl.tasks.streams import ReportStream
from medcl.training.fit import fit
from medcl.views.aligned import AlignedSampler
from medcl.weights.alignment import AlignmentCard, find_alignment, save_alignment
from medcl.weights.kinds import is_alignment
from medcl.weights.load import LoadReport, fill, load_into
from medcl.weights.read import find_weights
from medcl.workflow.alignment_data import AlignmentData, open_alignment, sources_of, stream_of
from medcl.workflow.alignment_texts import text_of, vocabulary_texts
from medcl.workflow.alignment_validation import check_validation, validation_of
from medcl.workflow.text_cache import cacheable, cached_texts

log = logging.getLogger(__name__)


def align(config: AlignConfig, *, resume: bool = False, progress: bool = True) -> RunFolder:
    """Run the stages of ``config`` one after the other and write the run folder ``config.out``.

    With ``resume`` finished stages are not repeated and the interrupted one goes on from its last checkpoint. Raises ConfigError or
    DataError before anything is trained where data or configuration do not suit.
    """
    run = RunFolder(config.out)
    check_alignment(config)
    with run.started("align", config, seed=config.seed, resume=resume):
        data = open_alignment(config, config.data.store or run.path / "prepared")
        run.record(pool=list(data.split.train), test=list(data.split.test), data_digest=data.manifest.digest)
        run.record(data=data.facts)
        if data.manifest.provenance.get("simulated"):
            run.record(simulated=True)
        torch.manual_seed(derive_seed(config.seed, "network"))
        check_validation(config, data)
        network = _network(config, data)
        for stage in config.stages:
            finished = run.checkpoints / f"{stage.name}.safetensors"
            if resume and finished.is_file():
                network.load_state_dict(load_file(finished))
                continue
            task = _task_of(config, stage, network, data)
            done = fit(
                task,
                config.trainer,
                run,
                stage=stage.name,
                resume=resume,
                progress=progress,
                validate_every=None if task.validate is None else min(stage.validate_every, stage.steps),
                keep_best=stage.select == "best",
            )
            if not done:
                raise SystemExit(0)
            network.cpu()
            if is_first_process():
                with atomic_path(finished) as part:
                    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, part)
        if is_first_process():
            card = AlignmentCard(
                modalities=config.modalities,
                joint=config.joint,
                words=config.word_parts,
                places=places_of(config),
                recipes=data.preparations.recipes,
                training=config.model_dump(mode="json"),
                data_digest=data.manifest.digest,
                records=data.split.train,
            )
            save_alignment(run.weights, network, card, labs=data.preparations.labs)
    if is_first_process():
        write_page(run)
    return run


def _network(config: AlignConfig, data: AlignmentData) -> JointEncoders:
    """The encoders that ``config`` names, with pretrained weights where it names any."""
    settled = data.preparations
    network = build_joint(
        config.modalities,
        config.joint,
        recipes=settled.recipes,
        lab_items=len(settled.labs.columns) if settled.labs else 0,
        tokenizer=_tokenizer(config, data),
        words=config.word_parts,
        places=places_of(config),
    )
    for name in settled.recipes:
        if (init := getattr(config.modalities, name).init) is None:
            continue
        encoder = network.encoders[name]
        if is_alignment(init):
            log.info("%s", _taken_over(encoder, name, init, len(settled.recipes[name].channels)))
            continue
        if not isinstance(encoder, VolumeFeatures):
            raise ConfigError(
                f"modalities.{name}.init: weights of medcl pretrain are of a residual_unet, segresnet or swin_unetr; choose that encoder"
            )
        log.info("%s", load_into(encoder.network, find_weights(init).state))
    return network


def _taken_over(encoder: nn.Module, name: str, init: Path, channels: int) -> LoadReport:
    """Load the encoder of modality ``name`` of the alignment at ``init`` (of a run, or imported) into ``encoder``."""
    file = find_alignment(init)
    prefix = f"encoders.{name}."
    state = {key: value for key, value in file.state.items() if key.startswith(prefix)}
    if not state:
        raise ConfigError(
            f"modalities.{name}.init: {init} encodes {', '.join(file.card.modalities.names)}, no {name}; name other weights"
        )
    names = {key: prefix + key for key in encoder.state_dict()}
    return fill(encoder, names, state, channels, least_share=0.5, parts=("encoders",))


def places_of(config: AlignConfig) -> tuple[str, ...]:
    """Keys of the heads for features of places that the terms of all stages need."""
    keys = {key for stage in config.stages for term in stage.terms for key in place_keys(term)}
    return tuple(sorted(keys))


def _tokenizer(config: AlignConfig, data: AlignmentData) -> Tokenizer | None:
    """The vocabulary of a BERT that begins with random weights, learnt from the training reports unless it is given."""
    report = config.modalities.report
    if report is None or not isinstance(report.encoder, BertConfig):
        return None
    encoder = report.encoder
    if encoder.vocabulary is not None:
        return Tokenizer.read(encoder.vocabulary, encoder.max_length)
    texts = vocabulary_texts(report, data.records(data.split.train), data.captions)
    return learn_vocabulary(texts, encoder.vocabulary_size, encoder.max_length)


def _task_of(config: AlignConfig, stage: AlignStageConfig, network: JointEncoders, data: AlignmentData) -> AlignTask:
    seed = derive_seed(config.seed, stage.name)
    torch.manual_seed(seed)
    return AlignTask(
        network,
        stage,
        sampler_of(config, stage, network, data, seed),
        facts=_facts(config, data),
        frozen=config.frozen_in(stage),
        trainer=config.trainer,
        measure=measure_recent,
        validate=validation_of(config, stage, network, data),
        seed=seed,
    )


def _facts(config: AlignConfig, data: AlignmentData) -> Facts:
    """What objectives may ask about the training records."""
    if not config.classes:
        return Facts(data_digest=data.manifest.digest)
    labels, classes = record_classes(data.records(data.split.train), config.classes)
    unknown = [name for name in config.classes if name not in classes]
    if len(config.classes) > 1 and unknown:
        log.info("classes: no record has a target or attribute %s; the others are compared", ", ".join(unknown))
    return Facts(torch.from_numpy(labels), classes, data.manifest.digest)


def sampler_of(
    config: AlignConfig, stage: AlignStageConfig, network: JointEncoders, data: AlignmentData, seed: int
) -> AlignedSampler:
    """Batches of the training records for ``stage``."""
    ids, slots = data.split.train, slots_of(stage)
    streams = {
        place: stream_of(
            place,
            data,
            config.modalities,
            ids,
            slots=slots[place],
            seed=seed,
            train=True,
            tokenizer=network.tokenizer,
            spatial_dims=dims_of(config, modality_of(place)),
        )
        for place in slots
    }
    if cacheable(config, stage):
        folder = (config.data.store or config.out / "prepared") / "text"
        encoder = network.encoders["report"]
        streams = {
            place: cached_texts(encoder, stream, folder) if isinstance(stream, ReportStream) else stream
            for place, stream in streams.items()
        }
    texts = None
    if config.modalities.report is not None and config.duplicates != "none":
        report = config.modalities.report
        texts = text_groups([text_of(report, record, data.captions) for record in data.records(ids)]).tolist()
    return AlignedSampler(
        ids,
        data.manifest.subject_numbers(ids),
        streams,
        slots,
        batch=stage.batch,
        seed=seed,
        texts=texts,
        hide={place: getattr(config.modalities, modality_of(place)).hide for place in slots},
        sources=sources_of(config.sources, data.records(ids)),
    )


def dims_of(config: AlignConfig, modality: str) -> int:
    """Axes of what the encoder of ``modality`` reads."""
    return int(getattr(getattr(config.modalities, modality).encoder, "dims", 1))


def measure_recent(recent: Sequence[Recent]) -> Mapping[str, torch.Tensor]:
    """Effective rank of the codes of every place, of the records that have it."""
    found = {}
    for place in recent[0] if recent else ():
        rows = torch.cat([codes[present] for codes, present in (batch[place] for batch in recent if place in batch)])
        if len(rows) > 1:
            found[f"{place}/effective_rank"] = spectrum(unit(wide(rows))).effective_rank()
    return found
