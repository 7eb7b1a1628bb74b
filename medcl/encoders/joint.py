"""Encoders of several modalities with their heads into one joint space."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from medcl.config.align import (
    JointHeadConfig,
    LinearHeadConfig,
    ModalitiesConfig,
    NormalisedHeadConfig,
    PerceptronHeadConfig,
    TextHeadConfig,
)
from medcl.encoders.ecg import build_ecg_encoder
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.image import build_image_encoder
from medcl.encoders.labs import LabsMlp
from medcl.encoders.text import TextEncoder, Tokenizer, build_text_encoder
from medcl.modalities.ecg import LEADS
from medcl.preparation.recipe import Recipe
from medcl.preparation.signals import signal_samples


class JointEncoders(nn.Module):
    """One encoder and one head for every modality: ``forward(name, inputs)`` gives codes ``(B, D)`` that are not normalised.

    ``encoders``: by the modality's name.   ``heads``: their configurations.   ``joint``: D.
    """

    def __init__(
        self, encoders: Mapping[str, ModalityEncoder], heads: Mapping[str, JointHeadConfig], joint: int
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict(
            {name: build_joint_head(heads[name], encoder.channels, joint) for name, encoder in encoders.items()}
        )
        self.joint = joint
        self._trainable = {  # all but what an adapter or a decoder that is not used keeps as it is
            name: [parameter for parameter in encoder.parameters() if parameter.requires_grad]
            for name, encoder in encoders.items()
        }

    def freeze(self, names: Collection[str]) -> None:
        """The encoders of ``names`` keep their weights, the others train as they were built to."""
        for name, parameters in self._trainable.items():
            for parameter in parameters:
                parameter.requires_grad_(name not in names)

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
        codes: Tensor = self.heads[name](encoded.pooled)
        return codes

    def forward(self, name: str, inputs: Any) -> Tensor:
        return self.project(name, self.encode(name, inputs))


def build_joint(
    modalities: ModalitiesConfig,
    joint: int,
    *,
    recipes: Mapping[str, Recipe],
    lab_items: int = 0,
    tokenizer: Tokenizer | None = None,
) -> JointEncoders:
    """The encoders and heads that ``modalities`` names, randomly initialised but for pretrained text networks.

    ``recipes``: of radiographs and volumes.   ``lab_items``: laboratory items, of each a percentile and an indicator.   ``tokenizer``: of a
    BERT that begins with random weights. The global random state gives the weights.
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
    return JointEncoders(encoders, {name: getattr(modalities, name).head for name in modalities.names}, joint)


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
        case NormalisedHeadConfig():
            return nn.Sequential(nn.Linear(channels, joint), nn.LayerNorm(joint))
        case TextHeadConfig():
            return nn.Sequential(
                nn.Linear(channels, joint), nn.GELU(), nn.LayerNorm(joint, eps=1e-12), nn.Linear(joint, joint)
            )
