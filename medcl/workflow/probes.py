"""What linear probes tell from every layer of a network, on records that the probes never saw (volumetric.md 8)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medcl.config.objective import ObjectiveConfig
from medcl.config.pretrain import PretrainConfig
from medcl.config.probe import ProbeConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.heads import ProjectionHead
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError
from medcl.evaluation.methods import MethodScores
from medcl.files import write_json
from medcl.inference.predictor import torch_device
from medcl.inference.windows import windows_of
from medcl.modalities.volume import read_volume
from medcl.objectives.separation import SepCLR
from medcl.preparation.apply import prepare
from medcl.preparation.recipe import Recipe
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import parts_of
from medcl.records.record import Record
from medcl.reporting.progress import progress_bar
from medcl.seeds import derive_seed
from medcl.tasks.pretraining import PretrainTask
from medcl.types import Array
from medcl.weights.kinds import is_alignment
from medcl.weights.load import build_network, find_weights
from medcl.workflow.alignment_probes import probe_alignment
from medcl.workflow.scans import Scans
from medcl.workflow.told import Codes, check_targets, told

log = logging.getLogger(__name__)

_WINDOWS = 4  # in the network at a time


@torch.no_grad()
def probe(config: ProbeConfig) -> dict[str, MethodScores]:
    """Probe the layers of ``config.weights`` for every target, of an alignment those of every modality; write them to ``config.out``, if given.

    Raises ConfigError where nothing is held out, a target or a layer is unknown.
    """
    if is_alignment(config.weights):
        return probe_alignment(config)
    manifest = open_data(config.data.path, config.data.labels)
    parts = parts_of(manifest, config.data, labels=False)
    check_targets(config.targets, "targets", manifest, parts)
    weights = find_weights(config.weights)
    store = Store(config.data.store) if config.data.store is not None else None
    if store is not None and store.recipe.voxel_digest != weights.recipe.voxel_digest:
        raise ConfigError(
            f"data.store: {store.folder} was prepared otherwise than {config.weights} was trained; leave data.store out"
        )
    device, card = torch_device(config.device), weights.card
    networks = {"": build_network(weights)}
    if config.baseline:
        torch.manual_seed(derive_seed(config.seed, "network"))
        networks["random "] = build_encoder(card.encoder, card.in_channels, weights.recipe.patch)
    known = layers_of(networks[""])
    wanted = config.layers or known
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"layers: {', '.join(unknown)}: no such layer; this network has {', '.join(known)}")
    patch = weights.recipe.patch[: networks[""].spatial_dims]
    for network in networks.values():
        network.to(device).eval()

    def codes(record: Record) -> Codes:
        found = {}
        data = _data_of(record, weights.recipe, store)
        for prefix, network in networks.items():
            here = _means(lambda windows, of=network: layer_codes(of, windows), data, patch, device)
            found |= {prefix + name: here[name] for name in wanted}
        return found

    first = "pooled" if "pooled" in wanted else wanted[-1]
    order = [first, *(name for name in wanted if name != first)]
    order += [f"random {name}" for name in order] if config.baseline else []
    found = _codes_of([*parts.train, *parts.test], manifest, codes)
    ordered = {record_id: {name: code[name] for name in order} for record_id, code in found.items()}
    scores = {name: told(name, ordered, manifest, parts, f"layers of {config.weights}") for name in config.targets}
    result = {name: score for name, score in scores.items() if score is not None}
    if config.out is not None:
        write_json(config.out, {name: score.as_dict() for name, score in result.items()})
    return result


def layers_of(encoder: Encoder) -> tuple[str, ...]:
    """The layers that :func:`layer_codes` gives: the encoder fine to coarse, the coarsest as ``pooled``, the decoder coarse to fine."""
    return (
        *(f"encoder.{level}" for level in range(len(encoder.channels) - 1)),
        "pooled",
        *(f"decoder.{level}" for level in range(len(encoder.decoder_channels))),
    )


def layer_codes(encoder: Encoder, x: Tensor) -> dict[str, Tensor]:
    """The mean over places ``(B, C)`` of every layer's map of ``x (B, in_channels, *S)``, in float32 or wider."""
    features = encoder.encode(x)
    maps = [*features, *encoder.decode(features)]
    pooled = (value.flatten(2).mean(2) for value in maps)
    return {
        name: value.to(torch.promote_types(value.dtype, torch.float32))
        for name, value in zip(layers_of(encoder), pooled, strict=True)
    }


def check_probes(config: PretrainConfig, scans: Scans) -> None:
    """Raise ConfigError where there is no record to score a probe on, or no record has the attribute."""
    if config.probe:
        check_targets(config.probe, "probe", scans.manifest, scans.split)


@torch.no_grad()
def probe_stage(
    task: PretrainTask,
    objectives: Sequence[ObjectiveConfig],
    config: PretrainConfig,
    scans: Scans,
    folder: Path,
    device: torch.device,
) -> None:
    """Probe every target of ``config.probe`` after a stage and write ``scores_<stage>_<target>.json`` to ``folder``.

    Probes are fitted on the training records and scored on the test records; records without the target take no part.
    """
    task = task.to(device).eval()

    def codes(record: Record) -> Codes:
        store = scans.store if record.id in scans.store else None
        data = _data_of(record, scans.store.recipe, store)
        return _means(lambda windows: _task_codes(task, objectives, windows), data, task.sampler.patch, device)

    found = _codes_of([*scans.split.train, *scans.split.test], scans.manifest, codes)
    task.cpu()
    for name in config.probe:
        scores = told(name, found, scans.manifest, scans.split, task.stage.name)
        if scores is not None:
            scores.write(folder / f"scores_{task.stage.name}_{name}.json")


def _task_codes(task: PretrainTask, objectives: Sequence[ObjectiveConfig], windows: Tensor) -> dict[str, Tensor]:
    """Every layer of the encoder, and of every term with a vector head the layers of that head and its code."""
    layers = layer_codes(task.encoder, windows)
    codes = {"pooled": layers.pop("pooled"), **layers}
    outputs = task(windows, range(len(task.terms)))
    for entry, place, head, code in zip(objectives, task.places, task.heads, outputs, strict=True):
        if code.ndim > 2:
            continue  # a map
        if isinstance(head, ProjectionHead) and place in codes:
            codes |= {f"{entry.name} head.{k}": hidden for k, hidden in enumerate(head.hidden(codes[place]))}
        if isinstance(entry, SepCLR):
            codes |= {"common code": code[:, : -entry.salient], "salient code": code[:, -entry.salient :]}
        else:
            codes[f"{entry.name} code"] = code
    return codes


def _means(
    codes: Callable[[Tensor], Mapping[str, Tensor]], data: Array, patch: Sequence[int], device: torch.device
) -> Codes:
    """The mean over the windows of ``data (C, X, Y, Z)`` of what ``codes`` gives for each."""
    parts = [codes(windows.to(device)) for windows in windows_of(torch.from_numpy(data), patch).split(_WINDOWS)]
    return {name: torch.cat([part[name] for part in parts]).mean(0).cpu().double().numpy() for name in parts[0]}


def _data_of(record: Record, recipe: Recipe, store: Store | None) -> Array:
    """The prepared volume ``(C, X, Y, Z)``: from ``store``, or made now."""
    if store is not None:
        return np.array(store.open(record.id).data)
    return prepare(read_volume(record.volume, channels=len(recipe.channels)), recipe).data


def _codes_of(ids: Iterable[str], manifest: Manifest, codes: Callable[[Record], Codes]) -> dict[str, Codes]:
    found, ids = {}, sorted(set(ids))
    with progress_bar("features of the volumes") as progress:
        for done, record_id in enumerate(ids, 1):
            found[record_id] = codes(manifest.by_id(record_id))
            progress(done, len(ids))
    return found
