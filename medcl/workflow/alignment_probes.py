"""Linear probes of what the encoders of an alignment know, each beside the same encoder with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from medcl.config.probe import ProbeConfig
from medcl.errors import ConfigError
from medcl.evaluation.methods import MethodScores
from medcl.files import write_json
from medcl.inference.predictor import torch_device
from medcl.seeds import derive_seed
from medcl.types import Array
from medcl.weights.alignment import find_alignment
from medcl.workflow.alignment_data import AlignmentData
from medcl.workflow.joint_space import JointSpace
from medcl.workflow.told import check_targets, told

LAYERS = ("pooled", "code")
"""What the encoder hands on, and what the head makes of it in the joint space."""

Layers = dict[str, dict[str, Array]]
"""By record, the vector of every layer."""


def probe_alignment(config: ProbeConfig) -> dict[str, MethodScores]:
    """Scores by target and layer, of the records that have the layer's modality; written to ``config.out``, if given.

    Layers are ``radiograph.pooled``, ``radiograph.code`` and so on. Raises ConfigError where nothing is held out, a target or a layer is unknown.
    """
    file, device = find_alignment(config.weights), torch_device(config.device)
    space = JointSpace(file, file.network().to(device), device)
    known = [f"{name}.{layer}" for name in space.modalities for layer in LAYERS]
    wanted = config.layers or known
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(f"layers: {', '.join(unknown)}: no such layer; this alignment has {', '.join(known)}")
    spaces = {"": space}
    if config.baseline:
        torch.manual_seed(derive_seed(config.seed, "network"))
        spaces["random "] = replace(space, network=file.untrained().to(device).eval())
    result = {}
    with space.opened(config.data, "test") as data:
        check_targets(config.targets, "targets", data.manifest, data.split)
        ids = tuple(sorted({*data.split.train, *data.split.test}))
        for name in space.modalities:
            layers = [each for each in wanted if each.partition(".")[0] == name]
            if not layers:
                continue
            found = [_vectors(name, prefix, of, data, ids) for prefix, of in spaces.items()]
            there = list(found[0])
            parts = replace(
                data.split,
                train=tuple(each for each in data.split.train if each in found[0]),
                test=tuple(each for each in data.split.test if each in found[0]),
            )
            for layer in layers:
                codes = {
                    each: {
                        prefix + layer: vectors[each][prefix + layer]
                        for prefix, vectors in zip(spaces, found, strict=True)
                    }
                    for each in there
                }
                for target in config.targets:
                    check_targets([target], f"targets, of records with {name}", data.manifest, parts)
                    scores = told(target, codes, data.manifest, parts, f"{layer} of {config.weights}")
                    if scores is not None:
                        count = sum(space.seen(data, scores.records))
                        note = (
                            f"Seen in pretraining (seen_in_pretraining): {count} of {len(scores.records)} test records."
                        )
                        scores = replace(scores, notes=[*scores.notes, note])
                        result[f"{target} {layer}"] = scores
    if config.out is not None:
        write_json(config.out, {name: scores.as_dict() for name, scores in result.items()})
    return result


@torch.no_grad()
def _vectors(name: str, prefix: str, space: JointSpace, data: AlignmentData, ids: Sequence[str]) -> Layers:
    """The layers of modality ``name`` of those of ``ids`` that have it, called with ``prefix``."""
    found: Layers = {}
    for rows, inputs in space.encoder(f"{prefix}features").inputs(name, data, ids):
        encoded = space.network.encode(name, inputs)
        values = zip(LAYERS, (encoded.pooled, space.network.project(name, encoded)), strict=True)
        arrays = {f"{prefix}{name}.{layer}": tensor.double().cpu().numpy() for layer, tensor in values}
        for place, row in enumerate(rows):
            found[ids[row]] = {layer: array[place] for layer, array in arrays.items()}
    return found
