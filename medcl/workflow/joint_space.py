"""A finished alignment in use: its data prepared as it was trained, and codes of records and texts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcl.config.alignment_use import AlignmentUseConfig, EmbedConfig, Part
from medcl.config.data import DataConfig
from medcl.encoders.joint import JointEncoders
from medcl.errors import ConfigError
from medcl.evaluation.joint_codes import JointCodes
from medcl.inference.predictor import torch_device
from medcl.records.manifest import Manifest
from medcl.weights.alignment import AlignmentCard, AlignmentFile, find_alignment
from medcl.workflow.alignment_data import AlignmentData, Preparations, open_for_use, opened_few
from medcl.workflow.encode import RecordEncoder

_SPLIT_KEYS = ("test", "validation", "split", "split_seed", "count")
SEEN = "seen_in_pretraining"
"""Attribute of a record, or provenance of a data set, that pretrained weights had seen before the alignment."""


@dataclass(frozen=True)
class JointSpace:
    """The encoders of an alignment on a device, with what belongs to them."""

    file: AlignmentFile
    network: JointEncoders
    device: torch.device
    batch: int = 64

    @classmethod
    def of(cls, config: AlignmentUseConfig) -> JointSpace:
        """The alignment that ``config`` names. Raises WeightsError where there is none."""
        found, device = find_alignment(config.weights), torch_device(config.device)
        return cls(found, found.network().to(device), device, config.batch)

    @property
    def card(self) -> AlignmentCard:
        return self.file.card

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.card.modalities.names

    def require(self, names: Sequence[str], key: str) -> None:
        """Raise ConfigError where the alignment lacks one of ``names``."""
        for name in names:
            if name not in self.modalities:
                raise ConfigError(f"{key}: these weights have no {name}; they align {', '.join(self.modalities)}")

    @property
    def _known(self) -> Preparations:
        return Preparations(dict(self.card.recipes), self.file.labs)

    @contextmanager
    def opened(self, data: DataConfig, part: Part) -> Iterator[AlignmentData]:
        """The records of ``data``, split and prepared; what is prepared is removed again unless ``data.store`` keeps it.

        Where ``data`` says nothing of a split it is the one of the alignment's own run, with the records that this used.
        """
        own = data.model_fields_set & set(_SPLIT_KEYS)
        trained: dict[str, Any] = self.card.training
        least = 1
        if not own and part != "all":
            least = trained.get("min_present", 1)
            settings = {key: trained["data"][key] for key in _SPLIT_KEYS if key in trained.get("data", {})}
            data = DataConfig.model_validate({**data.model_dump(), **settings})
        with tempfile.TemporaryDirectory(prefix="medcl-") as folder:
            store = data.store or Path(folder)
            yield open_for_use(data, self.card.modalities, self._known, store, min_present=least)

    @contextmanager
    def opened_few(self, manifest: Manifest) -> Iterator[AlignmentData]:
        """All records of ``manifest``, prepared for as long as they are needed."""
        with opened_few(manifest, self.card.modalities, self._known) as data:
            yield data

    def encoder(self, title: str = "encoding") -> RecordEncoder:
        """What encodes records, with a bar called ``title``."""
        return RecordEncoder(
            self.network, self.card.modalities, self.device, self.batch, digest=self.card.sha256, title=title
        )

    def codes(
        self,
        data: AlignmentData,
        ids: Sequence[str],
        *,
        modalities: Sequence[str] | None = None,
        title: str = "encoding",
    ) -> JointCodes:
        """Codes of ``modalities`` (default: all) of the records ``ids``; what a record lacks is not encoded."""
        return self.encoder(title).codes(data, ids, self.modalities if modalities is None else modalities)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Codes ``(T, D)`` of texts, not normalised. ConfigError where the alignment has no reports."""
        tokenizer = self.network.tokenizer
        if tokenizer is None:
            raise ConfigError(f"these weights align {', '.join(self.modalities)}: none of them reads a text")
        rows = [
            self.network("report", tokenizer(list(texts[begin : begin + self.batch])).to(self.device)).float().cpu()
            for begin in range(0, len(texts), self.batch)
        ]
        return torch.cat(rows)

    def seen(self, data: AlignmentData, ids: Sequence[str]) -> list[bool]:
        """Which of the records ``ids`` the weights have seen: in the alignment, or before it, as the data themselves say."""
        if _says_yes(data.manifest.provenance.get(SEEN)):
            return [True] * len(ids)
        known = set(self.card.records)
        return [record.id in known or _says_yes(record.attributes.get(SEEN)) for record in data.records(ids)]


def ids_of(data: AlignmentData, part: Part) -> tuple[str, ...]:
    """The records of ``part``. Raises ConfigError where there is none."""
    found = data.manifest.ids if part == "all" else getattr(data.split, part)
    if not found:
        raise ConfigError(
            f"part: there are no {part} records; hold some out with data.{'test' if part == 'test' else part}, "
            "name a data set that declares them, or set part=all for data that the weights have not seen"
        )
    return tuple(found)


def embed(config: EmbedConfig) -> JointCodes:
    """Write the codes of every modality of the records of ``config.data`` to ``config.out``."""
    space = JointSpace.of(config)
    with space.opened(config.data, config.part) as data:
        codes = space.codes(data, ids_of(data, config.part))
    codes.write(config.out)
    return codes


def _says_yes(value: object) -> bool:
    return str(value).strip().lower() in ("1", "1.0", "true", "yes")
