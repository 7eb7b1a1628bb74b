"""Two captions of an image that say the same, and one that says something else in similar words (multimodal.md 6.25)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medcl.evaluation.statistics import Interval, bootstrap_mean
from medcl.objectives.kernel import unit, wide
from medcl.types import Array


@dataclass(frozen=True)
class TripletHits:
    """Which triplets are told apart, boolean ``(N,)``; equal cosines are a miss.

    ``image_to_text``: the image is nearer to each of the two captions than to the wrong one.   ``text_only``: the two
    captions are nearer to each other than either is to the wrong one.
    """

    image_to_text: Array
    text_only: Array


@dataclass(frozen=True)
class TripletScores:
    """Shares of hits with 95 % intervals over subjects, over all triplets and by the kind of what was changed."""

    image_to_text: Interval
    text_only: Interval
    image_to_text_by_kind: Mapping[str, Interval]
    text_only_by_kind: Mapping[str, Interval]


@torch.no_grad()
def triplet_hits(image: Tensor, caption: Tensor, paraphrase: Tensor, wrong: Tensor) -> TripletHits:
    """From four embeddings ``(N, D)``, row by row. Source: Dumpala et al. 2024 (SugarCrepe++)."""
    if not image.shape == caption.shape == paraphrase.shape == wrong.shape or image.ndim != 2:
        shapes = [tuple(rows.shape) for rows in (image, caption, paraphrase, wrong)]
        raise ValueError(f"images and captions are {shapes}; all four are one (N, D)")
    image, caption, paraphrase, wrong = (unit(wide(rows)) for rows in (image, caption, paraphrase, wrong))

    def cosine(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(1)

    of_image = torch.minimum(cosine(image, caption), cosine(image, paraphrase)) > cosine(image, wrong)
    of_texts = cosine(caption, paraphrase) > torch.maximum(cosine(caption, wrong), cosine(paraphrase, wrong))
    return TripletHits(of_image.cpu().numpy(), of_texts.cpu().numpy())


def score_triplets(
    hits: TripletHits,
    kinds: Sequence[str],
    subjects: Sequence[object] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> TripletScores:
    """Shares of ``hits``; ``kinds`` (N,): what each wrong caption changed, such as the side or the severity.

    A model that reads words rather than meaning fails on some kinds only; the mean alone hides it.
    """
    kind = np.array([str(name) for name in kinds])
    owner = np.arange(len(kind)) if subjects is None else np.array([str(subject) for subject in subjects])
    if not len(kind) == len(owner) == len(hits.text_only):
        raise ValueError(f"{len(hits.text_only)} triplets, {len(kind)} kinds and {len(owner)} subjects; one each")

    def share(values: Array, chosen: Array) -> Interval:
        return bootstrap_mean(values[chosen], list(owner[chosen]), resamples=resamples, seed=seed)

    def by_kind(values: Array) -> dict[str, Interval]:
        return {str(name): share(values, kind == name) for name in np.unique(kind)}

    every = np.ones(len(kind), dtype=bool)
    return TripletScores(
        image_to_text=share(hits.image_to_text, every),
        text_only=share(hits.text_only, every),
        image_to_text_by_kind=by_kind(hits.image_to_text),
        text_only_by_kind=by_kind(hits.text_only),
    )
