"""The data of an alignment: every modality prepared, and what of that belongs to the weights."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medcl.config.align import SECTIONS, AlignConfig, ModalitiesConfig, RadiographConfig, SourcesConfig, VolumeConfig
from medcl.config.data import DataConfig
from medcl.config.views import MiddleCentre, ViewsConfig
from medcl.encoders.text import Tokenizer
from medcl.errors import DataError
from medcl.modalities.captions import LabelCaptions
from medcl.modalities.labs import lab_names
from medcl.modalities.wrong_report import KINDS
from medcl.preparation.build import build_store
from medcl.preparation.fingerprint import fingerprint
from medcl.preparation.labs import LabEncoding, fit_labs
from medcl.preparation.recipe import EqualisedIntensity, MinMaxIntensity, Recipe, derive_recipe
from medcl.preparation.signals import SignalStore, prepare_signals
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.mimic_cxr import FRONTAL
from medcl.records.names import is_image
from medcl.records.parts import Parts, parts_of
from medcl.records.record import Record
from medcl.reporting.progress import progress_bar
from medcl.tasks.streams import ImageStream, ReportStream, SentenceStream, SignalStream, VectorStream, WrongStream
from medcl.views.aligned import Stream
from medcl.views.mirror import Mirror
from medcl.views.sampler import ViewSampler
from medcl.views.sources import Sources
from medcl.workflow.alignment_texts import SharedReports, captions_of, report_sentences, shared_reports

log = logging.getLogger(__name__)

_FRONTAL = (*FRONTAL, "frontal")

PLAIN = ViewsConfig(slots=1, centre=MiddleCentre(), spatial=None, intensity=None)
"""Views for evaluation: the middle of the image as it is."""


@dataclass(frozen=True)
class Preparations:
    """What was settled on the training records and travels with the weights: recipes of images, the encoding of laboratory values."""

    recipes: dict[str, Recipe] = field(default_factory=dict)
    labs: LabEncoding | None = None


@dataclass(frozen=True)
class AlignmentData:
    """Records with several modalities, prepared.

    ``names``: the modalities that are aligned.   ``captions``: that stand for missing reports.   ``listed``: how many records the data set has.
    ``left_out``: how many of them are not used, by the reason.   ``shared``: texts on both sides of the split.
    """

    manifest: Manifest
    split: Parts
    preparations: Preparations
    images: dict[str, Store]
    signals: SignalStore | None
    names: tuple[str, ...] = ()
    captions: LabelCaptions | None = None
    listed: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    shared: SharedReports | None = None

    @cached_property
    def present(self) -> dict[str, frozenset[str]]:
        """The modalities that every record has; a caption counts as a report."""
        return {
            record.id: frozenset(name for name in self.names if has(record, name, self.captions))
            for record in self.manifest.records
        }

    def records(self, ids: Sequence[str]) -> list[Record]:
        return [self.manifest.by_id(name) for name in ids]

    @property
    def facts(self) -> dict[str, Any]:
        """What belongs in ``run.json``: counts of what is there, what was left out and why."""
        parts = {"train": self.split.train, "validation": self.split.validation, "test": self.split.test}
        present = {
            name: {
                part: sum(name in self.present[record_id] for record_id in ids) for part, ids in parts.items() if ids
            }
            for name in self.names
        }
        return {
            "listed": self.listed,
            "left_out": dict(self.left_out),
            "present": present,
            "captions_from_labels": sum(
                not record.report and record.id in self.captions.labels for record in self.manifest.records
            )
            if self.captions
            else 0,
            "shared_texts": asdict(self.shared) if self.shared else None,
        }


def has(record: Record, modality: str, captions: LabelCaptions | None = None) -> bool:
    """Whether ``record`` has ``modality``; a caption counts as a report."""
    if modality == "report" and captions is not None and record.id in captions.labels:
        return True
    return bool(images_of(record) if modality == "radiograph" else getattr(record, modality))


def images_of(record: Record) -> tuple[Path, ...]:
    """Files of the radiograph, of frontal views where there are any; a table whose column is called ``image`` names 2D images as volumes."""
    files = record.radiograph or tuple(path for path in record.volume if is_image(path))
    views = record.attributes.get("views", "").split(";")
    frontal = tuple(file for view, file in zip(views, files, strict=False) if view in _FRONTAL)
    return frontal if frontal and len(views) == len(files) else files


def image_names(record: Record, config: RadiographConfig) -> tuple[str, ...]:
    """The names in the store of a record's radiographs: its id, and of further ones the id with a number."""
    count = len(images_of(record)) if config.images == "any" else 1
    return (record.id, *(f"{record.id}~{number}" for number in range(1, count)))


def open_alignment(config: AlignConfig, folder: Path, known: Preparations | None = None) -> AlignmentData:
    """Open, split and prepare what ``config`` names, into ``folder``.

    What has to be settled follows from the training records, unless it is ``known`` from weights. Records with fewer than
    ``min_present`` of the modalities are left out and counted in the log. Raises DataError with a line for every problem.
    """
    whole = open_data(config.data.path, config.data.labels)
    names, report = config.modalities.names, config.modalities.report
    captions = captions_of(report, whole.records)
    kept = [record for record in whole.records if sum(has(record, n, captions) for n in names) >= config.min_present]
    left_out = {}
    if left := len(whole) - len(kept):
        left_out[f"fewer than {config.min_present} of {', '.join(names)}"] = left
        log.info(
            "%d of %d records have fewer than %d of the modalities: left out", left, len(whole), config.min_present
        )
    if not kept:
        raise DataError(
            f"{config.data.path}: no record has {config.min_present} of {', '.join(names)}; look at the columns"
        )
    manifest = replace(whole, records=tuple(kept))
    split, shared = parts_of(manifest, config.data, labels=False), None
    if report is not None and config.near_duplicates is not None:
        split, shared = shared_reports(report, config.near_duplicates, manifest, split, captions)
        if shared is not None and shared.dropped:
            left_out["text on both sides of the split"] = shared.dropped
    training = [manifest.by_id(name) for name in split.train]
    recipes, images = {}, {}
    for name in ("radiograph", "volume"):
        section = getattr(config.modalities, name)
        if section is not None:
            recipes[name] = known.recipes[name] if known else _recipe(name, section, manifest, split.train)
            images[name] = _images(name, section, manifest, recipes[name], folder / name)
    labs = None
    if config.modalities.labs is not None:
        labs = known.labs if known else fit_labs(training, config.modalities.labs.items or lab_names(training))
    signals = None
    if config.modalities.ecg is not None:
        with progress_bar("preparing ECGs") as progress:
            signals = prepare_signals(manifest.records, config.modalities.ecg, folder / "ecg", progress=progress)
    return AlignmentData(
        manifest,
        split,
        Preparations(recipes, labs),
        images,
        signals,
        names=names,
        captions=captions,
        listed=len(whole),
        left_out=left_out,
        shared=shared,
    )


def open_for_use(
    data: DataConfig, modalities: ModalitiesConfig, known: Preparations, folder: Path, *, min_present: int = 1
) -> AlignmentData:
    """As :func:`open_alignment`, for weights that are finished: what was settled on their training records is ``known``."""
    # the rest of an alignment's configuration is about training, and one modality alone is enough here
    config = AlignConfig.model_construct(data=data, modalities=modalities, min_present=min_present)
    return open_alignment(config, folder, known)


@contextmanager
def opened_few(manifest: Manifest, modalities: ModalitiesConfig, known: Preparations) -> Iterator[AlignmentData]:
    """All records of ``manifest``, prepared for as long as they are needed."""
    with tempfile.TemporaryDirectory(prefix="medcl-") as folder:
        path = Path(folder) / "records.jsonl"
        manifest.write(path)
        yield open_for_use(DataConfig(path=path), modalities, known, Path(folder))


def _recipe(name: str, config: RadiographConfig | VolumeConfig, manifest: Manifest, training: Sequence[str]) -> Recipe:
    if isinstance(config, RadiographConfig):
        return Recipe(
            modality="radiograph",
            spacing=(None, None, None),
            shorter=config.shorter,
            intensity=EqualisedIntensity(**config.equalise.model_dump()) if config.equalise else MinMaxIntensity(),
            patch=(*config.patch, 1),
            channels=("radiograph",),
        )
    volumes = manifest.select(record_id for record_id in training if manifest.by_id(record_id).volume)
    with progress_bar("looking at the volumes") as progress:
        return derive_recipe(fingerprint(volumes, 1, progress), config.recipe, manifest.channel_names)


def _images(
    name: str, section: RadiographConfig | VolumeConfig, manifest: Manifest, recipe: Recipe, folder: Path
) -> Store:
    """The store of every record's radiographs or volume."""
    records: list[Record] = []
    for record in manifest.records:
        if isinstance(section, RadiographConfig) and has(record, name):
            for own, file in zip(image_names(record, section), images_of(record), strict=False):
                records.append(replace(record, id=own, volume=(file,), label=None))
        elif has(record, name):
            records.append(replace(record, label=None))
    with progress_bar(f"preparing {name}s") as progress:
        return build_store(replace(manifest, records=tuple(records)), recipe, folder, progress=progress)


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
        mirror = mirror_of(modalities, seed) if train else None
        if section == "sentence":
            return SentenceStream(found, tokenizer, config, seed, train=train, mirror=mirror)
        if section.startswith("wrong"):
            kind = section.removeprefix("wrong").removeprefix("_")
            kinds = [known for known in KINDS if kind in ("", known)]
            return WrongStream(found, tokenizer, config, seed, train=train, mirror=mirror, kinds=kinds)
        captions = None if section else data.captions
        return ReportStream(found, tokenizer, config, seed, train=train, captions=captions, mirror=mirror)
    if modality == "labs":
        assert data.preparations.labs is not None
        there = [record for record in records if record.labs]
        rows = data.preparations.labs.encode_records(there)
        return VectorStream(dict(zip([record.id for record in there], rows, strict=True)))
    if modality == "ecg":
        assert data.signals is not None
        return SignalStream(data.signals.of(ids), config.augmentation if train else None, seed)
    store = data.images[modality]
    views = config.views if train else PLAIN.model_copy(update={"patch": config.views.patch})
    mirror = mirror_of(modalities, seed) if train else None
    if mirror is not None:  # it takes the place of each view's own flip along x
        spatial = views.spatial.model_copy(update={"flip": (0.0, *views.spatial.flip[1:])})
        views = views.model_copy(update={"spatial": spatial})
    names = {record.id: image_names(record, config) for record in records} if train and modality == "radiograph" else {}
    return ImageStream(
        ViewSampler(
            store,
            [
                name
                for record_id in ids
                if has(data.manifest.by_id(record_id), modality)  # a store that is kept may hold more
                for name in names.get(record_id, (record_id,))
            ],
            views.model_copy(update={"slots": slots}),
            patch=(views.patch or store.recipe.patch)[:spatial_dims],
            batch=1,
            seed=seed,
            spatial_dims=spatial_dims,
            labels=False,
        ),
        mirror,
        names,
    )


def sources_of(config: SourcesConfig | None, records: Sequence[Record]) -> Sources | None:
    """The source of every record, by its attribute. Raises DataError with a line for every record without one."""
    if config is None:
        return None
    problems = [
        f"record {record.id}: has no attribute '{config.attribute}' for sources.attribute; it has {', '.join(record.attributes) or 'none'}"
        for record in records
        if not record.attributes.get(config.attribute)
    ]
    if problems:
        raise DataError(problems)
    names = tuple(record.attributes[config.attribute] for record in records)
    return Sources(names, within=config.within_source, alpha=config.alpha)


def mirror_of(modalities: ModalitiesConfig, seed: int) -> Mirror | None:
    """Which records are mirrored in images and text together; None where each image is flipped by itself, or none is."""
    if modalities.report is None or not modalities.report.flip_text:
        return None
    sections = [modalities.radiograph, modalities.volume]
    chance = max((one.views.spatial.flip[0] for one in sections if one and one.views.spatial), default=0.0)
    return Mirror(chance, seed) if chance else None
