"""Encoders of several modalities with their heads into one joint space."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medcl.config.align import (
    JointHeadConfig,
    LinearHeadConfig,
    MapHeadConfig,
    ModalitiesConfig,
    NormalisedHeadConfig,
    PerceptronHeadConfig,
    TextHeadConfig,
)
from medcl.config.words import WordParts
from medcl.encoders.build_text import build_text_encoder
from medcl.encoders.ecg import build_ecg_encoder
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.fusion import Fusion, LanguageHead
from medcl.encoders.image import build_image_encoder
from medcl.encoders.labs import LabsMlp
from medcl.encoders.places import MapHead, PlaceHeads
from medcl.encoders.text import TextEncoder, Tokenizer
from medcl.errors import ConfigError
from medcl.modalities.ecg import LEADS
from medcl.preparation.recipe import Recipe
from medcl.preparation.signals import signal_samples


class JointEncoders(nn.Module):
    """One encoder and one head for every modality: ``forward(name, inputs)`` gives codes ``(B, D)`` that are not normalised.

    ``encoders``: by the modality's name.   ``heads``: their configurations.   ``joint``: D.
    ``words``: what terms on words and pairs need beside: ``fusion``, ``language`` and ``matching``, each None where it is not asked for.
    ``places``: keys of the heads for features of places, which terms on those need.
    """

    fusion: Fusion | None
    language: LanguageHead | None
    matching: nn.Linear | None

    def __init__(
        self,
        encoders: Mapping[str, ModalityEncoder],
        heads: Mapping[str, JointHeadConfig],
        joint: int,
        words: WordParts | None = None,
        places: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict(
            {name: build_joint_head(heads[name], encoder.channels, joint) for name, encoder in encoders.items()}
        )
        for name, head in self.heads.items():
            if isinstance(head, MapHead) and (encoders[name].local_channels is None or name == "report"):
                raise ConfigError(
                    f"modalities.{name}.head: map is for the maps of images and signals; choose another one"
                )
        self.places = PlaceHeads(encoders, [key for key in places if not self._has_map(key)], joint)
        self.joint = joint
        self.fusion = self.language = self.matching = None
        if words is not None and (words.language or words.matching):
            self._add(words)
        self._trainable = {  # all but what an adapter or a decoder that is not used keeps as it is
            name: [parameter for parameter in encoder.parameters() if parameter.requires_grad]
            for name, encoder in encoders.items()
        }

    def freeze(self, names: Collection[str]) -> None:
        """The encoders of ``names`` keep their weights, the others train as they were built to."""
        for name, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(name not in names)

    def _add(self, words: WordParts) -> None:
        """The parts that ``words`` names. Raises ConfigError where words would attend to an encoder without places."""
        text = self.text
        places = {name: self.encoders[name].local_channels for name in words.fused}
        if lacking := [name for name, channels in places.items() if channels is None]:
            raise ConfigError(f"words cannot attend to {', '.join(lacking)}: its encoder gives no features of places")
        if places:
            self.fusion = Fusion(words.fusion, text.channels, places, causal=text.causal)
        if words.language:
            self.language = LanguageHead(text.channels, text.vectors.shape[1], len(text.vectors))
        if words.matching:
            self.matching = nn.Linear(text.channels, 2)

    @property
    def text(self) -> TextEncoder:
        """The encoder of reports. Raises KeyError where there is none."""
        found = self.encoders["report"]
        assert isinstance(found, TextEncoder)
        return found

    @property
    def tokenizer(self) -> Tokenizer | None:
        """That of the text encoder, None where there is none."""
        return next((part.tokenizer for part in self.encoders.values() if isinstance(part, TextEncoder)), None)

    def encode(self, name: str, inputs: Any) -> Encoded:
        """Features before the head; inputs that were encoded already are handed on."""
        found: Encoded = inputs if isinstance(inputs, Encoded) else self.encoders[name](inputs)
        return found

    def project(self, name: str, encoded: Encoded) -> Tensor:
        """Codes ``(B, D)`` of features."""
        head = self.heads[name]
        codes: Tensor = head(encoded.local).flatten(2).mean(2) if isinstance(head, MapHead) else head(encoded.pooled)
        return codes

    def sites(self, name: str, encoded: Encoded) -> Tensor:
        """Codes ``(B, D, *S)`` of every place by itself, as the head makes them. Raises ConfigError where the encoder has no places."""
        if encoded.local is None:
            raise ConfigError(f"{name}: its encoder gives one vector and nothing of places; choose another one")
        if self._has_map(name):
            found: Tensor = self.heads[name](encoded.local)
            return found
        rows = encoded.local.movedim(1, -1)
        return self.heads[name](rows.flatten(0, -2)).unflatten(0, rows.shape[:-1]).movedim(-1, 1)

    def localise(
        self, name: str, encoded: Encoded, level: int = -1, *, sentences: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Features ``(B, D, *S)`` of places in the joint space, and which are real ``(B, *S)``; of a text those of its words or ``sentences``.

        ``level``: of an image's maps, -1 the coarsest. Raises KeyError where no head was built for them.
        """
        if level == -1 and self._has_map(name):
            found = self.heads[name](encoded.local)
            return found, torch.ones_like(found[:, 0], dtype=torch.bool)
        return self.places.of(name, encoded, level, sentences=sentences)

    def _has_map(self, key: str) -> bool:
        """Whether the head of codes gives a map, which then is what places are."""
        return key in self.heads and isinstance(self.heads[key], MapHead)

    def forward(self, name: str, inputs: Any) -> Tensor:
        return self.project(name, self.encode(name, inputs))


def build_joint(
    modalities: ModalitiesConfig,
    joint: int,
    *,
    recipes: Mapping[str, Recipe],
    lab_items: int = 0,
    tokenizer: Tokenizer | None = None,
    words: WordParts | None = None,
    places: Collection[str] = (),
) -> JointEncoders:
    """The encoders and heads that ``modalities`` names, randomly initialised but for pretrained text networks.

    ``recipes``: of radiographs and volumes.   ``lab_items``: laboratory items, of each a percentile and an indicator.   ``tokenizer``: of a
    BERT that begins with random weights.   ``words``: parts for terms on words and pairs.   ``places``: heads for features of places. The global random state gives the weights.
    """
    encoders: dict[str, ModalityEncoder] = {}
    for name in modalities.names:
        section = getattr(modalities, name)
        if name in recipes:
            recipe = recipes[name]
            patch = section.views.patch or recipe.patch
            encoders[name] = build_image_encoder(section.encoder, len(recipe.channels), patch)
        elif name == "ecg":
            encoders[name] = build_ecg_encoder(section.encoder, len(LEADS), signal_samples(section))
        elif name == "labs":
            encoders[name] = LabsMlp(section.encoder, 2 * lab_items)
        else:
            encoders[name] = build_text_encoder(section.encoder, tokenizer)
    heads = {name: getattr(modalities, name).head for name in modalities.names}
    return JointEncoders(encoders, heads, joint, words, places)


def build_joint_head(config: JointHeadConfig, channels: int, joint: int) -> nn.Module:
    """The head that ``config`` names, from ``(B, channels)`` to ``(B, joint)``."""
    match config:
        case LinearHeadConfig():
            return nn.Linear(channels, joint, bias=False)
        case PerceptronHeadConfig():
            hidden = config.hidden or channels
            return nn.Sequential(
                nn.Linear(channels, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Linear(hidden, joint, bias=False),
                nn.BatchNorm1d(joint),
            )
        case MapHeadConfig():
            return MapHead(channels, config.hidden or joint, joint)
        case NormalisedHeadConfig():
            return nn.Sequential(nn.Linear(channels, joint), nn.LayerNorm(joint))
        case TextHeadConfig():
            return nn.Sequential(
                nn.Linear(channels, joint), nn.GELU(), nn.LayerNorm(joint, eps=1e-12), nn.Linear(joint, joint)
            )
