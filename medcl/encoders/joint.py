"""Encoders of several modalities with their heads into one joint space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from medcl.config.align import (
    JointHeadConfig,
    LinearHeadConfig,
    NormalisedHeadConfig,
    PerceptronHeadConfig,
    TextHeadConfig,
)
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.text import TextEncoder, Tokenizer


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

    @property
    def tokenizer(self) -> Tokenizer | None:
        """That of the text encoder, None where there is none."""
        return next((part.tokenizer for part in self.encoders.values() if isinstance(part, TextEncoder)), None)

    def encode(self, name: str, inputs: Any) -> Encoded:
        """Features before the head."""
        found: Encoded = self.encoders[name](inputs)
        return found

    def forward(self, name: str, inputs: Any) -> Tensor:
        codes: Tensor = self.heads[name](self.encode(name, inputs).pooled)
        return codes


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
