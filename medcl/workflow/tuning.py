"""What every fine-tuning of a network that is no segmentation does before and after its training."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from medcl.config.tuning import TuningConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.volume import Encoder
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.seeds import derive_seed
from medcl.views.sampler import ViewSampler
from medcl.weights.card import WeightsCard
from medcl.weights.load import load_into
from medcl.weights.read import WeightsFile, find_weights
from medcl.workflow.scans import Scans, open_scans

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The opened data set and the weights that a fine-tuning starts from."""

    scans: Scans
    weights: WeightsFile | None

    @classmethod
    def of(cls, config: TuningConfig, run: RunFolder) -> Start:
        """Open ``config.data`` with the recipe of ``config.init``, or the one that the configuration leads to."""
        weights = find_weights(config.init) if config.init is not None else None
        scans = open_scans(config.data, weights.recipe if weights else config.recipe, run.path, labels=False)
        if scans.manifest.provenance.get("simulated"):
            run.record(simulated=True)
        return cls(scans, weights)

    def network(self, config: TuningConfig, run: RunFolder) -> Encoder:
        """The encoder, random but for what the weights bring."""
        recipe = self.scans.store.recipe
        torch.manual_seed(derive_seed(config.seed, "network"))
        encoder = build_encoder(
            self.weights.card.encoder if self.weights else config.encoder, len(recipe.channels), recipe.patch
        )
        if self.weights is not None:
            report = load_into(encoder, self.weights.state)
            log.info("%s", report)
            run.record(load_report=report.as_dict())
        return encoder

    def sampler(self, config: TuningConfig, encoder: Encoder, ids: tuple[str, ...]) -> ViewSampler:
        """Views of the records ``ids``, without labels."""
        return ViewSampler(
            self.scans.store,
            ids,
            config.views,
            patch=self.patch(config, encoder),
            batch=config.batch,
            seed=derive_seed(config.seed, "finetune"),
            spatial_dims=encoder.spatial_dims,
            labels=False,
        )

    def patch(self, config: TuningConfig, encoder: Encoder) -> tuple[int, ...]:
        """The sides of a view, of as many axes as the network has."""
        return (config.views.patch or self.scans.store.recipe.patch)[: encoder.spatial_dims]

    def card(self, config: TuningConfig, ids: tuple[str, ...], task: str) -> WeightsCard:
        """What stands beside the weights of the network for ``task``, trained on the records ``ids``."""
        values = {
            "encoder": self.weights.card.encoder if self.weights else config.encoder,
            "in_channels": len(self.scans.store.recipe.channels),
            "task": task,
            "stage": "finetuned",
            "data_digest": self.scans.manifest.digest,
            "training": config.model_dump(mode="json"),
            "records": ids,
        }
        return WeightsCard.model_validate(values)

    def held_out(self) -> tuple[str, tuple[Record, ...]]:
        """The records to score on, and what they are: the test records, else those of validation, else none."""
        part, ids = ("test", self.scans.split.test)
        if not ids:
            part, ids = ("validation", self.scans.split.validation)
        return part, tuple(self.scans.manifest.by_id(record_id) for record_id in ids)
