"""A linear layer that tells classes from the features of one modality or of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcl.encoders.joint import JointEncoders


class Classifier(nn.Module):
    """Features of every modality of ``network``, normalised over their channels and put side by side, then one linear layer.

    The features of a modality that a record lacks are 0: it says nothing then.

    Args:
        network: the encoders that are read, all of them.
        outputs: classes, or findings.
        layer: what is read of every encoder: its pooled features, or the code.
        dropout: of the features, in training.
    """

    def __init__(
        self, network: JointEncoders, outputs: int, layer: Literal["pooled", "code"] = "pooled", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        widths = {
            name: encoder.channels if layer == "pooled" else network.joint for name, encoder in network.encoders.items()
        }
        self.widths: dict[str, int] = {name: int(width) for name, width in widths.items()}  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(sum(self.widths.values()), outputs)
        if layer == "pooled":  # they take no part
            network.heads.requires_grad_(False)

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities that are read, in their order."""
        return tuple(self.widths)

    def features(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor]) -> Tensor:
        """``(B, C)``: ``inputs`` of the rows that are ``present`` (B,), by modality; 0 where a row lacks one, or ``inputs`` do."""
        some = next(iter(present.values()))
        parts = []
        for name, width in self.widths.items():
            whole = torch.zeros(len(some), width, device=self.head.weight.device)
            if name in inputs:
                encoded = self.network.encode(name, inputs[name])
                read = encoded.pooled if self.layer == "pooled" else self.network.project(name, encoded)
                rows = functional.layer_norm(read.float(), (width,))
                whole = whole.index_copy(0, present[name].nonzero().flatten(), rows)
            parts.append(whole)
        return torch.cat(parts, 1)

    def forward(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor]) -> Tensor:
        """Logits ``(B, outputs)``, see :meth:`features`."""
        scores: Tensor = self.head(self.dropout(self.features(inputs, present)))
        return scores
