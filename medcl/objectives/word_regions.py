"""Words of a report with places in an image: local alignment in 2D and 3D (multimodal.md 4.1 and 4.5)."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.cells import by_rows
from medcl.objectives.codes import Codes, Places, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import DENSE_PAIRS, contrast_similarities, masked_logsumexp, unit, wide
from medcl.objectives.masks import At, SamePatient
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective

Pooling = Literal["sum", "mean"]


def word_regions(
    maps: Tensor,
    words: Tensor,
    given: Tensor,
    *,
    site_sharpness: float = 4.0,
    word_sharpness: float = 5.0,
    temperature: float | Tensor = 0.1,
    pooling: Pooling = "sum",
    normalize: bool = False,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    most: int = DENSE_PAIRS,
) -> LossOutput:
    """The mean of the cross-entropies from image to caption and back over :func:`word_region_similarity` / t.

    ``maps`` (B, D, *S), ``words`` (B, T, D): words, or sentences, of the report of each image; ``given`` (B, T): False for padding.
    T is the same on all processes.   ``subject`` (B,): two items of one patient are never negatives.
    ``per_anchor`` (2B,): images, then captions. A caption without words has no term and is no candidate; its image has no term either, but stays a negative.
    All similarities equal: log B. Source: Huang et al. 2021 (GLoRIA), normalised also Zhang et al. 2025 (VELVET-Med, one call a level).
    Choose it beside a global term where findings are small and reports name them.
    """
    if (
        words.ndim != 3
        or given.shape != words.shape[:2]
        or maps.ndim < 3
        or maps.shape[:2] != (len(words), words.shape[2])
    ):
        raise ValueError(
            f"maps {tuple(maps.shape)}, words {tuple(words.shape)} and given {tuple(given.shape)} "
            "are not (B, D, *S), (B, T, D) and (B, T)"
        )
    batch = len(words)
    every_map, offset = gather.rows(maps)
    every_word, every_given = gather.rows(words)[0], gather.rows(given)[0]
    total = len(every_word)
    if total < 2:
        raise ConfigError("word_regions: a batch of 1 has no negatives; set batch to 2 or more")

    def similarity(maps: Tensor, words: Tensor, given: Tensor) -> Tensor:
        return word_region_similarity(
            maps,
            words,
            given,
            site_sharpness=site_sharpness,
            word_sharpness=word_sharpness,
            pooling=pooling,
            normalize=normalize,
            most=most,
        )

    from_images = similarity(maps, every_word, every_given)
    from_words = (from_images if gather.world == 1 else similarity(every_map, words, given)).T
    partner = At(torch.arange(batch, device=words.device) + offset, total).block()
    apart = ~partner if subject is None else ~partner & (~SamePatient(subject, gather.rows(subject)[0])).block()
    filled, own = every_given.any(1), given.any(1)
    outputs = [
        contrast_similarities(
            values,
            positives=partner & takes_part,
            negatives=apart & takes_part,
            temperature=temperature,
            denominator="all",  # one positive: the same number as "own"
            reduction=reduction,
            gather=gather,
        )
        for values, takes_part in ((from_images, filled[None]), (from_words, own[:, None]))
    ]
    return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), reduction)


def word_region_similarity(
    maps: Tensor,
    words: Tensor,
    given: Tensor,
    *,
    site_sharpness: float = 4.0,
    word_sharpness: float = 5.0,
    pooling: Pooling = "sum",
    normalize: bool = False,
    most: int = DENSE_PAIRS,
) -> Tensor:
    """How well each caption fits each image: ``(N, B)`` for ``maps (N, D, *S)`` and ``words (B, T, D)``, ``given (B, T)``.

    ``log of the sum over words t of exp(word_sharpness cos(w_t, c_t))``, c_t what the image shows of the word: the mean of its sites under
    :func:`word_attention`. The sum favours long captions; with ``pooling`` "mean" a caption's length does not matter and the
    value over ``word_sharpness`` is on the scale of a cosine, as needed beside one in retrieval.
    ``normalize``: sites and words have length 1 in the attention too, as in VELVET-Med.   A caption without words scores 0, without gradient.
    Held at once: ``most`` numbers of (image, word, site or channel); the parts are computed again in the backward pass.
    """
    with torch.autocast(maps.device.type, enabled=False):
        sites, words, some = _prepared(maps, words, given, normalize)
        by_image = words.shape[1] * max(sites.shape[1:])

        def scores(images: Tensor, chosen: slice) -> tuple[Tensor]:
            own, kept = words[chosen], some[chosen]
            shown = _attention(images, own, kept, site_sharpness).flatten(1, 2) @ images  # (N, B T, D)
            cosine = (unit(shown).view(len(images), *own.shape) * unit(own)).sum(-1)
            return (masked_logsumexp(word_sharpness * cosine, kept),)

        parts = [
            by_rows(partial(scores, images), len(words), len(images) * by_image, most)[0]
            for images in torch.split(sites, max(most // by_image, 1))
        ]
        found = torch.cat(parts)
        if pooling == "mean":
            found = found - some.sum(1).log()
        return torch.where(given.any(1), found, 0.0)


def word_attention(
    maps: Tensor, words: Tensor, given: Tensor, *, site_sharpness: float = 4.0, normalize: bool = False
) -> Tensor:
    """Where each image shows each word: ``(N, B, T, *S)``, which adds up to 1 over the sites, to look at or to be read as a map.

    At every site a softmax over the words of the caption says which of them it shows; ``site_sharpness`` times that, a softmax over
    sites. Padding is uniform. Arguments as in :func:`word_region_similarity`.
    """
    with torch.autocast(maps.device.type, enabled=False):
        sites, words, some = _prepared(maps, words, given, normalize)
        attention = _attention(sites, words, some, site_sharpness)
        return attention.view(*attention.shape[:3], *maps.shape[2:])


def _prepared(maps: Tensor, words: Tensor, given: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sites (N, S, D), words with zeros as padding, and what counts as a word: in a caption without any, its first place."""
    sites, words = wide(maps).flatten(2).transpose(1, 2), torch.where(given[..., None], wide(words), 0.0)
    if normalize:
        sites, words = unit(sites), unit(words)
    first = torch.arange(given.shape[1], device=given.device) == 0
    return sites, words, given | (~given.any(1, keepdim=True) & first)


def _attention(sites: Tensor, words: Tensor, some: Tensor, sharpness: float) -> Tensor:
    """``(N, B, T, S)``."""
    dot = (words.flatten(0, 1) @ sites.transpose(1, 2)).view(len(sites), *words.shape[:2], sites.shape[1])
    shares = dot.masked_fill(~some[..., None], -torch.inf).softmax(2)
    return (sharpness * shares).softmax(-1)


def words_of_all(places: Places, gather: Gather) -> tuple[Tensor, Tensor]:
    """Words ``(B, T, D)`` of texts and which are real ``(B, T)``, padded to the longest text of all processes."""
    rows, valid = places.rows.flatten(2).transpose(1, 2), places.valid.flatten(1)
    more = _most(valid.shape[1], valid, gather) - valid.shape[1]
    return functional.pad(rows, (0, 0, 0, more)), functional.pad(valid, (0, more))


def sites_of_all(places: Places, words: Tensor, gather: Gather) -> Tensor:
    """Features ``(B, D, S)`` of images; of a process without any as many places as the others have.

    Those hang on ``words``, so that its backward pass meets the others'.
    """
    rows = places.rows.flatten(2)
    most = _most(rows.shape[2] if len(rows) else 0, rows, gather)
    return rows if len(rows) else rows.new_zeros(0, rows.shape[1], most) + 0 * words.sum()


def _most(own: int, like: Tensor, gather: Gather) -> int:
    """The largest ``own`` of all processes."""
    return int(gather.rows(torch.tensor([own], device=like.device))[0].max())


class WordRegions(ObjectiveConfig):
    """Words of a report find where the image shows them: the first place is an image, the second a text."""

    function = staticmethod(word_regions)
    reads: ClassVar[Literal["vectors", "maps", "local", "words", "pairs"]] = "local"
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    compares: ClassVar[int | None] = 2
    name: Literal["word_regions"] = "word_regions"
    temperature: TemperatureConfig = Field(0.1, description="0.1 as published; learned is possible")
    site_sharpness: PositiveFloat = Field(4.0, description="of the attention of a word over the places of an image")
    word_sharpness: PositiveFloat = Field(5.0, description="how much the words that fit best count among a report's")
    pooling: Pooling = Field("sum", description="over words; mean: the length of a report does not matter")
    normalize: bool = Field(False, description="places and words have length 1 in the attention too (VELVET-Med)")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        image, text = required(codes.local, self.name, "needs features of places and words; use it in medcl align")
        words, given = words_of_all(text, gather)
        return word_regions(
            sites_of_all(image, words, gather),
            words,
            given,
            temperature=temperature,
            subject=codes.subject,
            gather=gather,
            **self.model_dump(exclude={"name", "temperature"}),
        )
