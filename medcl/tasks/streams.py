"""Where the inputs of each modality of an alignment come from: prepared images, vectors, texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcl.config.align import EcgAugmentation, ReportConfig
from medcl.encoders.encoded import Encoded
from medcl.encoders.text import Tokenizer, Tokens
from medcl.modalities.captions import LabelCaptions
from medcl.modalities.report_text import sub_captions, swap_sides
from medcl.modalities.wrong_report import KINDS, Kind, wrong_reports
from medcl.preparation.signals import SignalStore
from medcl.seeds import derive_seed
from medcl.types import Array
from medcl.views.mirror import Mirror, mirrored
from medcl.views.sampler import ViewPlan, ViewSampler
from medcl.views.signal import augment_signal

_MOST_CHOICES = 32
"""Texts of a record, on average, that are worth encoding before any is drawn."""


class ImageStream:
    """Views of radiographs or volumes, as ``sampler`` cuts them, of some records mirrored with their text.

    ``images``: the names in the sampler of those records that have several, one of which is drawn every epoch; the others go by their own.
    """

    def __init__(
        self, sampler: ViewSampler, mirror: Mirror | None = None, images: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.sampler = sampler
        self.mirror = mirror
        self.images = dict(images or {})
        self._places = {record_id: place for place, record_id in enumerate(sampler.ids)}

    def has(self, record_id: str) -> bool:
        return record_id in self._places

    def plan(self, record_ids: Sequence[str], epochs: Sequence[int], slots: int) -> dict[str, ViewPlan | Tensor]:
        """What the views see; their number is the sampler's."""
        rows = [(self._place(name, epoch), epoch) for name, epoch in zip(record_ids, epochs, strict=True)]
        plan: dict[str, ViewPlan | Tensor] = {"views": self.sampler.plan_of(rows)}
        if self.mirror is not None:
            plan["mirrored"] = self.mirror.of(record_ids, epochs)
        return plan

    def _place(self, record_id: str, epoch: int) -> int:
        names = self.images.get(record_id, (record_id,))
        rng = np.random.default_rng(derive_seed(self.sampler.seed, "image", record_id, epoch))
        return self._places[names[int(rng.integers(len(names)))]]

    def render(self, plan: dict[str, Any], device: torch.device | str) -> tuple[Tensor, ...]:
        """One tensor ``(B, C, *S)`` a slot."""
        views = [view.data for view in self.sampler.render(plan["views"], device)]
        if "mirrored" in plan:
            views = [mirrored(data, plan["mirrored"].to(device)) for data in views]
        return tuple(views)


class VectorStream:
    """A vector of every record, the same in every slot and epoch."""

    def __init__(self, rows: Mapping[str, Array]) -> None:
        self.rows = dict(rows)

    def has(self, record_id: str) -> bool:
        return record_id in self.rows

    def plan(self, record_ids: Sequence[str], epochs: Sequence[int], slots: int) -> list[Tensor]:
        return [torch.tensor(np.stack([self.rows[name] for name in record_ids]), dtype=torch.float32)] * slots

    def render(self, plan: list[Tensor], device: torch.device | str) -> tuple[Tensor, ...]:
        return tuple(rows.to(device) for rows in plan)


class ReportStream:
    """Reports, or one section of them, as tokens; sentences by record. Every epoch draws their order or a single one anew.

    ``captions`` stand for reports that are missing or say nothing: another one every epoch, without ``train`` the first. Records that
    ``mirror`` mirrors have left and right exchanged.
    """

    def __init__(
        self,
        sentences: Mapping[str, Sequence[str]],
        tokenizer: Tokenizer,
        config: ReportConfig,
        seed: int,
        *,
        train: bool,
        captions: LabelCaptions | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self.sentences = {
            name: tuple(parts) for name, parts in sentences.items() if any(part.strip() for part in parts)
        }
        self.captions = captions
        self.captioned = frozenset(
            name for name in sentences if captions and name in captions.labels and name not in self.sentences
        )
        self.mirror = mirror
        self.tokenizer = tokenizer
        self.config = config
        self.seed = seed
        self.train = train

    def has(self, record_id: str) -> bool:
        return record_id in self.sentences or record_id in self.captioned

    def choices(self) -> set[str] | None:
        """Every text that may be shown; None where they are too many, as sentences in any order are."""
        if self.train and self.config.shuffle:
            return None
        found = {" ".join(parts) for parts in self.sentences.values()}
        if self.train and self.config.sentence > 0:
            found.update(part for parts in self.sentences.values() for part in parts)
        for name in self.captioned:
            assert self.captions is not None
            every = self.captions.all(name)
            found.update(every if self.train else every[:1])
        if self.mirror is not None:
            found |= {swap_sides(text) for text in found}
        return found if len(found) <= _MOST_CHOICES * (len(self.sentences) + len(self.captioned)) else None

    def plan(self, record_ids: Sequence[str], epochs: Sequence[int], slots: int) -> list[list[str]]:
        """The texts of every slot."""
        texts = [
            [self._text(name, epoch, slot) for name, epoch in zip(record_ids, epochs, strict=True)]
            for slot in range(slots)
        ]
        if self.mirror is None:
            return texts
        rows = self.mirror.of(record_ids, epochs).tolist()
        return [
            [swap_sides(text) if turned else text for text, turned in zip(slot, rows, strict=True)] for slot in texts
        ]

    def render(self, plan: list[list[str]], device: torch.device | str) -> tuple[Tokens, ...]:
        return tuple(self.tokenizer(texts).to(device) for texts in plan)

    def _text(self, record_id: str, epoch: int, slot: int) -> str:
        """The text of a record before mirroring."""
        if record_id in self.captioned:
            assert self.captions is not None
            if not self.train:
                return self.captions.all(record_id)[0]
            return self.captions.draw(record_id, derive_seed(self.seed, "text", record_id, epoch, slot))
        parts = self.sentences[record_id]
        if not self.train:
            return " ".join(parts)
        rng = np.random.default_rng(derive_seed(self.seed, "text", record_id, epoch, slot))
        if rng.random() < self.config.sentence:
            return parts[int(rng.integers(len(parts)))]
        if self.config.shuffle:
            return " ".join(parts[place] for place in rng.permutation(len(parts)))
        return " ".join(parts)


class EncodedStream:
    """The texts of ``stream`` as an encoder that never changes reads them: pooled features, computed once.

    ``rows``: places of the texts in the array ``(N, C)`` at ``path``.
    """

    def __init__(self, stream: ReportStream, rows: Mapping[str, int], path: Path) -> None:
        self.stream = stream
        self.rows = dict(rows)
        self.path = path

    def has(self, record_id: str) -> bool:
        return self.stream.has(record_id)

    def plan(self, record_ids: Sequence[str], epochs: Sequence[int], slots: int) -> list[Tensor]:
        """Features ``(B, C)`` a slot."""
        features = np.load(self.path, mmap_mode="r")
        shown = self.stream.plan(record_ids, epochs, slots)
        return [torch.from_numpy(features[[self.rows[text] for text in texts]]) for texts in shown]

    def render(self, plan: list[Tensor], device: torch.device | str) -> tuple[Encoded, ...]:
        return tuple(Encoded(rows.to(device)) for rows in plan)


class SentenceStream(ReportStream):
    """One sentence of a report that can stand alone; another one in every slot, as long as there are any, and in every epoch."""

    def _text(self, record_id: str, epoch: int, slot: int) -> str:
        parts = [part for part in self.sentences[record_id] if sub_captions(part)] or self.sentences[record_id]
        order = np.arange(len(parts))
        if self.train:
            order = np.random.default_rng(derive_seed(self.seed, "sentence", record_id, epoch)).permutation(order)
        return parts[order[slot % len(parts)]]


class WrongStream(ReportStream):
    """What a report shows in its first slot, made wrong in one point; in another one in every slot, as long as there are any.

    A record whose report no rule of ``kinds`` applies to has none.
    """

    def __init__(self, *args: Any, kinds: Collection[Kind] = KINDS, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kinds = tuple(kinds)
        self.sentences = {
            name: parts for name, parts in self.sentences.items() if self._wrong(" ".join(parts), name, 0)
        }

    def _text(self, record_id: str, epoch: int, slot: int) -> str:
        shown = super()._text(record_id, epoch, 0)
        # A single sentence may have nothing to change.
        found = self._wrong(shown, record_id, epoch) or self._wrong(
            " ".join(self.sentences[record_id]), record_id, epoch
        )
        order = np.arange(len(found))
        if self.train:
            order = np.random.default_rng(derive_seed(self.seed, "wrong", record_id, epoch)).permutation(order)
        return found[order[slot % len(found)]]

    def _wrong(self, text: str, record_id: str, epoch: int) -> list[str]:
        rng = np.random.default_rng(derive_seed(self.seed, "wrong number", record_id, epoch))
        return [found.text for found in wrong_reports(text, rng, self.kinds)]


class SignalStream:
    """Prepared ECGs, in training with what :class:`~medcl.config.align.EcgAugmentation` says."""

    def __init__(self, store: SignalStore, config: EcgAugmentation | None, seed: int) -> None:
        self.store = store
        self.config = config
        self.seed = seed

    def has(self, record_id: str) -> bool:
        return record_id in self.store

    def plan(self, record_ids: Sequence[str], epochs: Sequence[int], slots: int) -> list[Tensor]:
        """``(B, leads, T)`` a slot."""
        data = np.stack([self.store.open(name) for name in record_ids])
        return [
            torch.from_numpy(
                np.stack([self._changed(*row, slot) for row in zip(data, record_ids, epochs, strict=True)])
            )
            for slot in range(slots)
        ]

    def render(self, plan: list[Tensor], device: torch.device | str) -> tuple[Tensor, ...]:
        return tuple(rows.to(device) for rows in plan)

    def _changed(self, data: Array, record_id: str, epoch: int, slot: int) -> Array:
        if self.config is None:
            return data
        rng = np.random.default_rng(derive_seed(self.seed, "ecg", record_id, epoch, slot))
        return augment_signal(data, self.config, rng)
