"""The data of an alignment: every modality prepared, and what of that belongs to the weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medcl.config.align import SECTIONS, AlignConfig, ModalitiesConfig, RadiographConfig, ReportConfig, VolumeConfig
from medcl.config.views import MiddleCentre, ViewsConfig
from medcl.encoders.text import Tokenizer
from medcl.errors import DataError
from medcl.modalities.labs import lab_names
from medcl.modalities.report import read_report, split_sections
from medcl.modalities.report_text import clean, sentences
from medcl.modalities.wrong_report import KINDS
from medcl.preparation.build import build_store
from medcl.preparation.fingerprint import fingerprint
from medcl.preparation.labs import LabEncoding, fit_labs
from medcl.preparation.recipe import MinMaxIntensity, Recipe, derive_recipe
from medcl.preparation.signals import SignalStore, prepare_signals
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.names import is_image
from medcl.records.parts import Parts, parts_of
from medcl.records.record import Record
from medcl.tasks.streams import ImageStream, ReportStream, SentenceStream, SignalStream, VectorStream, WrongStream
from medcl.views.aligned import Stream
from medcl.views.sampler import ViewSampler
from medcl.workflow.prepare import progress_bar

log = logging.getLogger(__name__)

PLAIN = ViewsConfig(slots=1, centre=MiddleCentre(), spatial=None, intensity=None)
"""Views for evaluation: the middle of the image as it is."""


@dataclass(frozen=True)
class Preparations:
    """What was settled on the training records and travels with the weights: recipes of images, the encoding of laboratory values."""

    recipes: dict[str, Recipe] = field(default_factory=dict)
    labs: LabEncoding | None = None


@dataclass(frozen=True)
class AlignmentData:
    """Records with several modalities, prepared."""

    manifest: Manifest
    split: Parts
    preparations: Preparations
    images: dict[str, Store]
    signals: SignalStore | None

    def records(self, ids: Sequence[str]) -> list[Record]:
        return [self.manifest.by_id(name) for name in ids]

    def subjects(self, ids: Sequence[str]) -> list[int]:
        """A number for every subject."""
        names = [record.subject for record in self.records(ids)]
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        return [numbers[name] for name in names]


def has(record: Record, modality: str) -> bool:
    """Whether ``record`` has ``modality``."""
    return bool(images_of(record) if modality == "radiograph" else getattr(record, modality))


def images_of(record: Record) -> tuple[Path, ...]:
    """Files of the radiograph; a table whose column is called ``image`` names 2D images as volumes."""
    return record.radiograph or tuple(path for path in record.volume if is_image(path))


def open_alignment(config: AlignConfig, folder: Path, known: Preparations | None = None) -> AlignmentData:
    """Open, split and prepare what ``config`` names, into ``folder``.

    What has to be settled follows from the training records, unless it is ``known`` from weights. Records with fewer than
    ``min_present`` of the modalities are left out and counted in the log. Raises DataError with a line for every problem.
    """
    whole = open_data(config.data.path, config.data.labels)
    kept = [
        record
        for record in whole.records
        if sum(has(record, name) for name in config.modalities.names) >= config.min_present
    ]
    if left := len(whole) - len(kept):
        log.info(
            "%d of %d records have fewer than %d of the modalities and are left out",
            left,
            len(whole),
            config.min_present,
        )
    if not kept:
        raise DataError(
            f"{config.data.path}: no record has {config.min_present} of {', '.join(config.modalities.names)}; look at the columns"
        )
    manifest = replace(whole, records=tuple(kept))
    split = parts_of(manifest, config.data, labels=False)
    training = [manifest.by_id(name) for name in split.train]
    recipes, images = {}, {}
    for name in ("radiograph", "volume"):
        section = getattr(config.modalities, name)
        if section is not None:
            recipes[name] = known.recipes[name] if known else _recipe(name, section, manifest, split.train)
            images[name] = _images(name, manifest, recipes[name], folder / name)
    labs = None
    if config.modalities.labs is not None:
        labs = known.labs if known else fit_labs(training, config.modalities.labs.items or lab_names(training))
    signals = None
    if config.modalities.ecg is not None:
        with progress_bar("preparing ECGs") as progress:
            signals = prepare_signals(manifest.records, config.modalities.ecg, folder / "ecg", progress=progress)
    return AlignmentData(manifest, split, Preparations(recipes, labs), images, signals)


def _recipe(name: str, config: RadiographConfig | VolumeConfig, manifest: Manifest, training: Sequence[str]) -> Recipe:
    if isinstance(config, RadiographConfig):
        return Recipe(
            modality="radiograph",
            spacing=(None, None, None),
            shorter=config.shorter,
            intensity=MinMaxIntensity(),
            patch=(*config.patch, 1),
            channels=("radiograph",),
        )
    volumes = manifest.select(record_id for record_id in training if manifest.by_id(record_id).volume)
    with progress_bar("looking at the volumes") as progress:
        return derive_recipe(fingerprint(volumes, 1, progress), config.recipe, manifest.channel_names)


def _images(name: str, manifest: Manifest, recipe: Recipe, folder: Path) -> Store:
    """The store of every record's radiograph or volume."""
    records = [
        replace(record, volume=images_of(record)[:1] if name == "radiograph" else record.volume, label=None)
        for record in manifest.records
        if has(record, name)
    ]
    with progress_bar(f"preparing {name}s") as progress:
        return build_store(replace(manifest, records=tuple(records)), recipe, folder, progress=progress)


def report_sentences(config: ReportConfig, record: Record, section: str = "") -> list[str]:
    """The sentences of a report that a network reads: of one ``section``, of the first of ``config.sections`` that is there, or of all."""
    if not record.report:
        return []
    text = read_report(record.report)
    wanted = (section,) if section else config.sections
    if wanted:
        sections = split_sections(text, lenient=True)
        text = next((part.text for name in wanted for part in sections if part.name == name), "" if section else text)
    return sentences(clean(text) if config.clean else text)


def stream_of(
    place: str,
    data: AlignmentData,
    modalities: ModalitiesConfig,
    ids: Sequence[str],
    *,
    slots: int = 1,
    seed: int = 0,
    train: bool = False,
    tokenizer: Tokenizer | None = None,
    spatial_dims: int = 2,
) -> Stream:
    """Where the inputs of ``place`` come from for the records ``ids``; without ``train`` nothing about them is random."""
    modality, _, section = place.partition(".")
    config = getattr(modalities, modality)
    records = data.records(ids)
    if modality == "report":
        assert tokenizer is not None
        named = section if section in SECTIONS else ""
        found = {record.id: report_sentences(config, record, named) for record in records}
        if section == "sentence":
            return SentenceStream(found, tokenizer, config, seed, train=train)
        if section.startswith("wrong"):
            kind = section.removeprefix("wrong").removeprefix("_")
            kinds = [known for known in KINDS if kind in ("", known)]
            return WrongStream(found, tokenizer, config, seed, train=train, kinds=kinds)
        return ReportStream(found, tokenizer, config, seed, train=train)
    if modality == "labs":
        assert data.preparations.labs is not None
        there = [record for record in records if record.labs]
        rows = data.preparations.labs.encode_records(there)
        return VectorStream(dict(zip([record.id for record in there], rows, strict=True)))
    if modality == "ecg":
        assert data.signals is not None
        return SignalStream(data.signals.of(ids), config.augmentation if train else None, seed)
    store = data.images[modality]
    views = config.views if train else PLAIN
    return ImageStream(
        ViewSampler(
            store,
            [record_id for record_id in ids if record_id in store],
            views.model_copy(update={"slots": slots}),
            patch=(views.patch or store.recipe.patch)[:spatial_dims],
            batch=1,
            seed=seed,
            spatial_dims=spatial_dims,
            labels=False,
        )
    )
