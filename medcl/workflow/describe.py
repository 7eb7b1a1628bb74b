"""`medcl describe`: what a run, weights, a data set or a store is, and how it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcl.errors import DataError, WeightsError
from medcl.preparation.recipe import Recipe
from medcl.preparation.store import INDEX, Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.runs import RunFolder
from medcl.workflow.exported import format_of

if TYPE_CHECKING:
    from medcl.weights.card import WeightsSheet
    from medcl.workflow.joint_cards import JointCards

_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
_IDS_SHOWN = 6
_LONGEST = 160


@dataclass(frozen=True)
class Section:
    """A table: a title, names of the columns (none: name and value), rows of text."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[str, ...] = ()


def describe(what: Path | str) -> list[Section]:
    """The tables that say what ``what`` is: a run folder, weights (folder or file), what was exported, nnU-Net results, a store, or a data set.

    Raises MedclError where it is none of them, or is damaged.
    """
    path = Path(what)
    if path.name == "recipe.yaml":
        path = path.parent
    if path.is_file() and path.suffix in _WEIGHTS:
        return _weights(path)
    if RunFolder(path).facts.is_file():
        return _run(RunFolder(path))
    if (path / "weights.safetensors").is_file():
        return _weights(path / "weights.safetensors")
    if (path / INDEX).is_file():
        return _store(Store(path))
    if format_of(path) is not None:
        from medcl.workflow.describe_exported import describe_exported

        return describe_exported(path)
    if not path.exists() and not any(sign in str(path) for sign in "*?["):
        raise DataError(f"{path}: no such file or folder; name a run folder, weights, a store or a data set")
    return _data(open_data(path))


def _run(run: RunFolder) -> list[Section]:
    facts = run.read_facts()
    known = (
        "command",
        "status",
        "started",
        "ended",
        "wall_seconds",
        "cpu_seconds",
        "peak_memory_mib",
        "seed",
        "device",
    )
    rows = [(name.replace("_", " "), _short(facts[name])) for name in known if facts.get(name) is not None]
    rows += [(name, str(facts[name])) for name in ("python", "platform", "cpus", "git") if facts.get(name)]
    rows += [(f"version of {name}", str(version)) for name, version in facts.get("versions", {}).items()]
    sections = [Section(f"run {run.path}", tuple(rows))]
    lists = [(name, value) for name, value in facts.items() if isinstance(value, list) and value and name != "argv"]
    if lists:
        counted = tuple((name, str(len(value)), _some(value)) for name, value in lists)
        sections.append(Section("records", counted, ("set", "count", "ids")))
    if run.config.is_file():
        config = run.read_config() or {}
        sections.append(Section("configuration (config.yaml)", _pairs(config)))
    metrics = run.read_metrics()
    if metrics:
        sections.append(Section(f"last of {len(metrics)} logged rows", _pairs(metrics[-1])))
    file = run.weights / "weights.safetensors"
    if file.is_file():
        sections += _weights(file, training=False)  # its configuration stands above
    return sections


def _weights(file: Path, *, training: bool = True) -> list[Section]:
    from medcl.weights.keys import part_of  # these import torch; a data set is described without it
    from medcl.weights.read import read_sheet, read_tensors
    from medcl.workflow.joint_cards import joint_card, joint_part_of

    tensors = read_tensors(file)
    aligned = joint_card(file)
    part_named = part_of if aligned is None else joint_part_of
    parts = list(dict.fromkeys(part_named(name) for name in tensors))
    counted = []
    for part in parts:
        mine = [tensor for name, tensor in tensors.items() if part_named(name) == part]
        types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in mine})
        counted.append((part, str(len(mine)), f"{sum(tensor.numel() for tensor in mine):,}", ", ".join(types)))
    contents = Section(f"tensors of {file}", tuple(counted), ("part", "tensors", "numbers", "type"))
    if aligned is not None:
        return [*_joint(file, aligned, training=training), contents]
    try:
        sheet = read_sheet(file)
    except WeightsError as error:
        return [contents, Section("not described", (("why", str(error)),))]
    card = sheet.card
    sections = [Section(f"weights {file.parent}", _made(sheet)), _levels(card, sheet.recipe), contents]
    sections.append(_recipe(sheet.recipe))
    if training and card.training:
        sections.append(Section("trained with", _pairs(card.training)))
    return sections


def _made(sheet: WeightsSheet) -> tuple[tuple[str, str], ...]:
    """What the card of weights says."""
    card = sheet.card
    return (
        ("stage", card.stage),
        ("written by", f"medcl {card.medcl}"),
        ("network", _flow(card.encoder.model_dump(mode="json"))),
        ("input channels", str(card.in_channels)),
        ("classes", str(card.classes) if card.classes else "no segmentation head"),
        *([("expected Dice", str(card.calibration))] if card.calibration else []),
        ("training data", card.data_digest or "not stated"),
        ("records seen", f"{len(card.records)}: {_some(card.records)}" if card.records else "not stated"),
        ("licence", card.licence or "not stated"),
        ("cite", "; ".join(card.citations) or "not stated"),
        ("sha256", sheet.sha256),
    )


def described_sheet(sheet: WeightsSheet, title: str) -> list[Section]:
    """What a card and its recipe say of weights that lie elsewhere, or in another format."""
    return [Section(title, _made(sheet)), _levels(sheet.card, sheet.recipe), _recipe(sheet.recipe)]


def _joint(file: Path, cards: JointCards, *, training: bool) -> list[Section]:
    """Weights of an alignment, of a classifier made of one, or of one with prompts."""
    card = cards.alignment
    rows = [
        ("what", cards.what),
        ("written by", f"medcl {card.medcl}"),
        ("joint space", f"{card.joint} dimensions"),
        *cards.told,
        ("training data", card.data_digest or "not stated"),
        ("records seen", f"{len(card.records)}: {_some(card.records)}" if card.records else "not stated"),
        ("licence", card.licence or "not stated"),
        ("cite", "; ".join(card.citations) or "not stated"),
        ("sha256", cards.sha256),
    ]
    encoders = [
        (name, _flow(getattr(card.modalities, name).encoder.model_dump(mode="json"))) for name in card.modalities.names
    ]
    sections = [
        Section(f"weights {file.parent}", tuple(rows)),
        Section("encoders", tuple(encoders), ("modality", "network")),
    ]
    sections += [
        replace(_recipe(recipe), title=f"recipe: how a {name} is prepared") for name, recipe in card.recipes.items()
    ]
    if training and card.training:
        sections.append(Section("trained with", _pairs(card.training)))
    return sections


def _levels(card: Any, recipe: Recipe) -> Section:
    """Channels and strides of the network's levels."""
    from medcl.encoders.build import build_encoder

    network = build_encoder(card.encoder, card.in_channels, recipe.patch)
    decoder = {len(network.channels) - 2 - index: width for index, width in enumerate(network.decoder_channels)}
    rows = [
        (
            f"encoder.{level}",
            str(width),
            " x ".join(map(str, stride)),
            f"{decoder[level]} (decoder.{len(decoder) - 1 - level})",
        )
        if level in decoder
        else (f"encoder.{level}, pooled", str(width), " x ".join(map(str, stride)), "")
        for level, (width, stride) in enumerate(zip(network.channels, network.strides, strict=True))
    ]
    return Section("levels", tuple(rows), ("features", "channels", "stride", "decoder channels"))


def _store(store: Store) -> list[Section]:
    entries = [store.open(record_id) for record_id in store.ids]
    labelled = sum(entry.label is not None for entry in entries)
    size = sum(entry.data.nbytes + (entry.label.nbytes if entry.label is not None else 0) for entry in entries)
    rows = (
        ("records", f"{len(entries)}: {_some(store.ids)}"),
        ("with a label", str(labelled)),
        ("size", f"{size / 2**20:,.1f} MiB"),
        ("check", "medcl prepare --check hashes every file again"),
    )
    shapes = Counter(" x ".join(map(str, entry.data.shape)) for entry in entries).most_common(_IDS_SHOWN)
    found = tuple((shape, str(count)) for shape, count in shapes)
    return [
        Section(f"store {store.folder}", rows),
        Section("most common arrays", found, ("channels x voxels", "records")),
        _recipe(store.recipe),
    ]


def _recipe(recipe: Recipe) -> Section:
    return Section(
        "recipe: how scans are prepared", _pairs({**recipe.model_dump(mode="json"), "digest": recipe.digest})
    )


def _data(manifest: Manifest) -> list[Section]:
    records = manifest.records
    kinds = ("volume", "radiograph", "ecg", "report", "labs", "label", "targets")
    rows = [
        ("source", manifest.source),
        ("records", f"{len(records)}: {_some(manifest.ids)}"),
        ("subjects", str(len({record.subject for record in records}))),
        ("channels", ", ".join(manifest.channel_names) or "not named"),
        ("labels", ", ".join(f"{value} {name}" for value, name in sorted(manifest.label_names.items())) or "not named"),
        ("digest", manifest.digest),
        *manifest.provenance.items(),
    ]
    counted = [(kind, str(sum(bool(getattr(record, kind)) for record in records))) for kind in kinds]
    splits = Counter(record.split or "none declared" for record in records)
    return [
        Section("data set", tuple(rows)),
        Section("what the records hold", tuple(row for row in counted if row[1] != "0"), ("kind", "records")),
        Section("declared splits", tuple((name, str(count)) for name, count in splits.items()), ("split", "records")),
    ]


def _pairs(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((str(name), _short(value)) for name, value in values.items() if value not in (None, {}, []))


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _flow(value) if isinstance(value, Mapping | list | tuple) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _flow(value: Any) -> str:
    """Nested values on one line, without quotes and braces around the whole."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_nested(item)}" for name, item in value.items() if item is not None)
    return ", ".join(_nested(item) for item in value)


def _nested(value: Any) -> str:
    return f"({_flow(value)})" if isinstance(value, Mapping | list | tuple) else str(value)


def _some(ids: Iterable[Any]) -> str:
    names = [str(name) for name in ids]
    rest = len(names) - _IDS_SHOWN
    return " ".join(names[:_IDS_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
