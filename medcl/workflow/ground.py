"""`medcl ground`: where in a radiograph a phrase is, by the codes of the places of the encoder's map, against boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medcl.config.alignment_use import GroundConfig
from medcl.encoders.image import MapEncoder
from medcl.errors import ConfigError
from medcl.evaluation.grounding import PhraseScore, box_mask, in_image, score_phrase, similarity_map, smoothed
from medcl.evaluation.methods import MethodScores
from medcl.evaluation.statistics import bootstrap_mean
from medcl.modalities.report import read_report
from medcl.records.record import Record
from medcl.reporting.alignment_page import Example, Exhibit, methods_table, write_alignment_page
from medcl.reporting.grounding import phrase_overlay
from medcl.tasks.streams import ImageStream
from medcl.types import Array
from medcl.workflow.alignment_data import AlignmentData, stream_of
from medcl.workflow.joint_space import JointSpace, ids_of

_BOX = ("x", "y", "width", "height")
_SHOWN = 8
"""Phrases on the page: the first of the data, not chosen by how well they did."""
_METRICS = {"cnr": "CNR", "cnr_signed": "signed CNR", "miou": "mIoU"}


@dataclass(frozen=True)
class Phrase:
    """A sentence about a radiograph and its boxes ``(K, 2, 2)``: low and high corner, x and y in pixels from the upper left."""

    record: str
    subject: str
    finding: str
    text: str
    boxes: Array


def ground(config: GroundConfig) -> MethodScores:
    """Contrast to noise and overlap of every phrase's map, by finding; written as JSON and a page to ``config.out``, if given.

    Raises ConfigError where the weights lack radiographs or reports, or the encoder has no map, or no record has a box.
    """
    space = JointSpace.of(config)
    space.require(["radiograph", "report"], "weights")
    with space.opened(config.data, config.part) as data:
        phrases = phrases_of(data.records(ids_of(data, config.part)))
        if not phrases:
            raise ConfigError(
                f"{config.data.path}: no record has a radiograph, a report and the targets {', '.join(_BOX)}; name the JSON file of MS-CXR"
            )
        codes = space.texts([phrase.text.strip().rstrip(".?!") for phrase in phrases])
        found, examples = [], []
        maps = phrase_maps(space, data, phrases, codes, sigma=config.sigma)
        for phrase, shown in zip(phrases, maps, strict=True):  # a map has all pixels of its file: one at a time
            found.append(score_phrase(shown, box_mask(phrase.boxes, shown.shape)))
            if config.out is not None and len(examples) < _SHOWN:
                examples.append(_example(data, phrase, shown, found[-1]))
        seen = sum(space.seen(data, [phrase.record for phrase in phrases]))
    subjects, kinds = [phrase.subject for phrase in phrases], np.array([phrase.finding for phrase in phrases])
    rows = {}
    for kind in ("all", *np.unique(kinds)):
        chosen = np.flatnonzero((kinds == kind) | (kind == "all"))
        rows[str(kind)] = {
            metric: bootstrap_mean(
                [_finite(getattr(found[row], metric)) for row in chosen],
                [subjects[row] for row in chosen],
                seed=config.seed,
            )
            for metric in _METRICS
        }
    notes = [
        "CNR: contrast to noise between inside and outside of the boxes; below 0 where signed, the map points elsewhere.",
        f"Seen in pretraining (seen_in_pretraining): {seen} of {len(phrases)} phrases.",
    ]
    if not isinstance(space.network.encoders["radiograph"], MapEncoder):
        notes.append(
            "The head was trained on another vector than the mean of the map; its places are not made for this."
        )
    title = f"Phrases in radiographs by {config.weights}: {len(phrases)} phrases (part: {config.part})"
    scores = MethodScores(title, config.part, [phrase.record for phrase in phrases], _METRICS, rows, notes=notes)
    if config.out is not None:
        scores.write(config.out)
        page = config.out.with_suffix(".html")
        table = methods_table(scores, "finding")
        write_alignment_page(page, f"Grounding by {config.weights}", "ground", [table], examples)
    return scores


def phrases_of(records: Sequence[Record]) -> list[Phrase]:
    """The phrases of ``records`` that have a radiograph, a report and a box; the boxes of one sentence about one image together."""
    groups: dict[tuple[Path, str], list[Record]] = {}
    for record in records:
        if record.radiograph and record.report and all(name in record.targets for name in _BOX):
            groups.setdefault((record.radiograph[0], read_report(record.report).strip()), []).append(record)
    found = []
    for (_, text), own in groups.items():
        x, y, width, height = np.array([[float(each.targets[name]) for name in _BOX] for each in own]).T
        boxes = np.stack([np.stack([x, y], 1), np.stack([x + width, y + height], 1)], 1)
        finding = str(own[0].targets.get("finding", "all"))
        found.append(Phrase(own[0].id, own[0].subject, finding, text, boxes))
    return found


def phrase_maps(
    space: JointSpace, data: AlignmentData, phrases: Sequence[Phrase], codes: Tensor, *, sigma: float
) -> Iterator[Array]:
    """Of every phrase the cosine at every pixel ``(x, y)`` of its file, NaN where the network saw nothing; ``codes`` (P, D) of their texts."""
    for (places, affine), phrase, code in zip(_places(space, data, phrases), phrases, codes, strict=True):
        shape = data.images["radiograph"].open(phrase.record).source.shape[:2]
        similarity = smoothed(similarity_map(places, code).numpy(), sigma=sigma)
        # Prepared images run towards the patient's left and front, pixels the other way (views/view.py, modalities/image.py).
        low, high = _crop(affine, space, data)
        yield in_image(similarity[::-1, ::-1], low, high, shape)


def _example(data: AlignmentData, phrase: Phrase, similarity: Array, score: PhraseScore) -> Example:
    """A phrase as a page shows it."""
    picture = np.asarray(data.images["radiograph"].open(phrase.record).data[0, ::-1, ::-1, 0], dtype=np.float32)
    overlay = phrase_overlay(picture, similarity, phrase.boxes, phrase.record)
    remark = f"signed CNR {score.cnr_signed:.2f}, mIoU {score.miou:.2f}"
    return Example(phrase.finding, Exhibit(phrase.record, [overlay], phrase.text, [remark]), [])


@torch.no_grad()
def _places(space: JointSpace, data: AlignmentData, phrases: Sequence[Phrase]) -> Iterator[tuple[Tensor, Tensor]]:
    """For every phrase the codes ``(D, x, y)`` of the places of its radiograph, and the affine (4, 4) of the view that the encoder saw."""
    ids = [phrase.record for phrase in phrases]
    stream = stream_of("radiograph", data, space.card.modalities, ids)
    assert isinstance(stream, ImageStream)
    for begin in range(0, len(ids), space.batch):
        rows = ids[begin : begin + space.batch]
        (view,) = stream.sampler.render(stream.plan(rows, [0] * len(rows), 1)["views"], space.device)
        encoded = space.network.encode("radiograph", view.data)
        if encoded.local is None or min(encoded.local.shape[2:]) < 2:
            raise ConfigError("weights: their radiograph encoder has no map of places to look for phrases in")
        codes = space.network.sites("radiograph", encoded)
        yield from zip(codes.float().cpu(), view.affine.cpu(), strict=True)


def _crop(affine: Tensor, space: JointSpace, data: AlignmentData) -> tuple[list[float], list[float]]:
    """Corners of the view in the image, x and y in pixels from its upper left: pixel (0, 0) has its centre at world (0, 0), and world runs back."""
    section = space.card.modalities.radiograph
    assert section is not None
    size = (section.views.patch or data.images["radiograph"].recipe.patch)[:2]
    index = torch.tensor([[-0.5, -0.5, 0, 1], [size[0] - 0.5, size[1] - 0.5, 0, 1]], dtype=affine.dtype)
    corners = 0.5 - (affine @ index.T)[:2].T
    return corners.amin(0).tolist(), corners.amax(0).tolist()


def _finite(value: float) -> float:
    """An infinite contrast, of a map without noise, counts as unknown."""
    return value if np.isfinite(value) else float("nan")
