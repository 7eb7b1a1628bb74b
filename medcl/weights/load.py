"""Putting weights into a network, and saying exactly what went where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from medcl.encoders.build import build_encoder
from medcl.encoders.concatenated import ConcatEncoder
from medcl.encoders.regressor import Regressor
from medcl.encoders.restorer import Restorer
from medcl.encoders.segmenter import Segmenter
from medcl.encoders.volume import Encoder
from medcl.errors import WeightsError
from medcl.runs import RunFolder
from medcl.weights.keys import file_names, part_of
from medcl.weights.read import WeightsFile, find_weights

__all__ = [
    "LoadReport",
    "WeightsFile",
    "build_concatenated",
    "build_network",
    "build_regressor",
    "build_restorer",
    "build_segmenter",
    "fill",
    "find_weights",
    "load_into",
]

_MISFITS_SHOWN = 3
_Network = TypeVar("_Network", Encoder, Segmenter, Regressor, Restorer)


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors, as in the file: what a network got, and what of the file it did not take.

    Attributes:
        loaded: taken over as they are.
        adapted: taken over after fitting them to another number of input channels, or to what the network needs beside it.
        random: of the network, left as it was: not in the file, of another shape, or not asked for.
        unused: of the file, for which the network has no place.
    """

    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    random: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        rows = (
            ("loaded", self.loaded),
            ("adapted", self.adapted),
            ("left random", self.random),
            ("unused", self.unused),
        )
        return "\n".join(f"{title:<12}{len(names):>5}  {summary(names)}".rstrip() for title, names in rows)

    def as_dict(self) -> dict[str, Any]:
        """The four lists, for ``run.json``."""
        return {name: list(getattr(self, name)) for name in ("loaded", "adapted", "random", "unused")}


def load_into(
    module: Encoder | Segmenter,
    state: Mapping[str, Tensor],
    *,
    least_share: float = 0.5,
    parts: Sequence[str] = ("encoder", "decoder"),
) -> LoadReport:
    """Copy the tensors of ``state`` that belong to ``parts`` and fit into ``module``, in place.

    Convolutions that read the image are fitted to another number of input channels: every new channel gets the mean of
    the old kernels, scaled so that an image repeated over its channels gives what it gave before. Any other tensor of
    another shape is left random. Raises WeightsError, and changes nothing, where less than ``least_share`` of the
    encoder's tensors would be filled (volumetric.md 14).
    """
    network = module if isinstance(module, Encoder) else module.encoder
    return fill(module, file_names(module), state, network.in_channels, least_share=least_share, parts=parts)


def fill(
    module: nn.Module,
    names: Mapping[str, str],
    state: Mapping[str, Tensor],
    in_channels: int,
    *,
    least_share: float,
    parts: Sequence[str],
) -> LoadReport:
    """As :func:`load_into`, of any ``module`` for images of ``in_channels``; ``names``: of its tensors in ``state``."""
    own = module.state_dict()
    taken: dict[str, Tensor] = {}
    loaded, adapted, random, misfits = [], [], [], []
    for name, target in own.items():
        at = names[name]
        source = state.get(at) if part_of(at) in parts else None
        if source is None:
            random.append(at)
        elif source.shape == target.shape:
            taken[name] = source
            loaded.append(at)
        elif (fitted := _fit_image_channels(source, target, in_channels)) is not None:
            taken[name] = fitted
            adapted.append(at)
        else:
            random.append(at)
            misfits.append(f"{at} has the shape {_shape(source)} in the file and {_shape(target)} here")
    report = LoadReport(tuple(loaded), tuple(adapted), tuple(random), tuple(sorted(set(state) - {*loaded, *adapted})))
    _check_share(report, misfits, least_share)
    module.load_state_dict(taken, strict=False)
    return report


def build_network(weights: WeightsFile) -> Encoder:
    """The encoder and decoder that ``weights`` hold, as they were trained. Raises WeightsError where a tensor is missing."""
    card = weights.card
    network = build_encoder(card.encoder, card.in_channels, weights.recipe.patch)
    return _filled(network, weights)


def build_concatenated(run: Path | str) -> ConcatEncoder:
    """The encoders of all stages of a multistage pretraining, in their order. Raises WeightsError where ``run`` is none."""
    folder = RunFolder(run)
    names = folder.read_facts().get("concatenated")
    if not names:
        raise WeightsError(f"{run}: has one encoder only; stages with fresh=true make several")
    return ConcatEncoder([build_network(find_weights(folder.weights / name)) for name in names]).eval()


def build_segmenter(weights: WeightsFile) -> Segmenter:
    """The segmentation network that ``weights`` hold. Raises WeightsError where they have no segmentation head."""
    card = weights.card
    if card.classes is None:
        raise WeightsError(
            f"{weights.path}: pretrained weights without a segmentation head; fine-tune them first (medcl finetune init=...)"
        )
    network = build_encoder(card.encoder, card.in_channels, weights.recipe.patch)
    return _filled(Segmenter(network, card.classes), weights)


def build_regressor(weights: WeightsFile) -> Regressor:
    """The regression network that ``weights`` hold. Raises WeightsError where they are not of one."""
    _expect(weights, "regression")
    network = build_encoder(weights.card.encoder, weights.card.in_channels, weights.recipe.patch)
    return _filled(Regressor(network), weights)


def build_restorer(weights: WeightsFile) -> Restorer:
    """The super-resolution network that ``weights`` hold. Raises WeightsError where they are not of one."""
    _expect(weights, "super_resolution")
    network = build_encoder(weights.card.encoder, weights.card.in_channels, weights.recipe.patch)
    return _filled(Restorer(network), weights)


def _expect(weights: WeightsFile, task: str) -> None:
    if weights.card.task != task:
        raise WeightsError(
            f"{weights.path}: is no network of task={task}, but of {weights.card.task or weights.card.stage}"
        )


def summary(names: Sequence[str], most: int = 6) -> str:
    """``names`` in short: groups with a common beginning are counted, such as ``encoder.stages.1.* (20)``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[:3]), []).append(name)
    shown = [group[0] if len(group) == 1 else f"{beginning}.* ({len(group)})" for beginning, group in groups.items()]
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more groups" if rest > 0 else "")


def _filled(module: _Network, weights: WeightsFile) -> _Network:
    report = load_into(module, weights.state, least_share=0.0, parts=("encoder", "decoder", "head"))
    if report.random or report.adapted:
        missing = [*report.random, *report.adapted]
        raise WeightsError(
            f"{weights.path}: {len(missing)} tensors of the network are not in the file as its card says "
            f"({summary(missing)}); the file or its recipe.yaml was changed"
        )
    return module.eval()


def _fit_image_channels(source: Tensor, target: Tensor, in_channels: int) -> Tensor | None:
    """``source`` for ``in_channels`` instead of the channels it was trained on; None where more than that differs.

    The image's channels are the last of a convolution's inputs, after whatever is concatenated before them.
    """
    if source.ndim != target.ndim or source.ndim < 3:
        return None
    before = in_channels + source.shape[1] - target.shape[1]
    rest = source.shape[1] - before
    same = source.shape[0] == target.shape[0] and source.shape[2:] == target.shape[2:]
    if not same or before < 1 or rest < 0:
        return None
    mean = source[:, rest:].mean(1, keepdim=True) * (before / in_channels)
    return torch.cat((source[:, :rest], mean.expand(-1, in_channels, *mean.shape[2:])), 1)


def _check_share(report: LoadReport, misfits: Sequence[str], least_share: float) -> None:
    filled = sum(part_of(name) == "encoder" for name in (*report.loaded, *report.adapted))
    whole = filled + sum(part_of(name) == "encoder" for name in report.random)
    if whole and filled / whole < least_share:
        reason = "; ".join(misfits[:_MISFITS_SHOWN]) or "the names differ"
        raise WeightsError(
            f"only {filled} of the encoder's {whole} tensors are in these weights (at least {least_share:.0%} must be): "
            f"{reason}; use the encoder configuration that the weights were trained with"
        )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
