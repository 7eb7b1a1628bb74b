"""Words that attend to the places of images, and what tells words from their states (multimodal.md 4.5, 6.2, 6.4)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.words import FusionConfig
from medcl.errors import ConfigError


class Fusion(nn.Module):
    """Layers of self-attention among the words of a text and of attention from them to places, at the width of the text encoder.

    ``places``: features ``C'`` of a place, of every modality that words can attend to; a linear map and layer normalisation bring them to the
    text's width. Self-attention is causal where ``causal`` says so: then no word sees a later one.
    """

    def __init__(self, config: FusionConfig, width: int, places: Mapping[str, int], *, causal: bool) -> None:
        super().__init__()
        if width % config.heads:
            raise ConfigError(f"fusion.heads: {config.heads} does not divide the text encoder's width {width}")
        self.causal = causal
        self.adapters = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(channels, width), nn.LayerNorm(width)) for name, channels in places.items()}
        )
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, config.heads, 4 * width, config.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)

    def adapt(self, name: str, local: Tensor) -> Tensor:
        """Features ``(B, C', *S)`` of the places of a modality as ``(B, P, C)``."""
        adapted: Tensor = self.adapters[name](local.flatten(2).movedim(1, 2))
        return adapted

    def forward(self, states: Tensor, valid: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        """States ``(B, T, C)`` of words, ``valid (B, T)`` False at padding, after attention to ``places (B, P, C)`` where they are
        ``seen (B, P)``: at one place at least for every text."""
        later = None
        if self.causal:
            length = states.shape[1]
            later = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        for layer in self.layers:
            states = layer(states, places, tgt_mask=later, tgt_key_padding_mask=~valid, memory_key_padding_mask=~seen)
        found: Tensor = self.norm(states)
        return found


class LanguageHead(nn.Module):
    """States ``(..., C)`` to a number for every token of the vocabulary ``(..., W)``, by the vectors ``(W, width)`` that the encoder reads them with.

    Source: Devlin et al. 2019 (BERT).
    """

    def __init__(self, channels: int, width: int, tokens: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
        self.bias = nn.Parameter(torch.zeros(tokens))

    def forward(self, states: Tensor, vectors: Tensor) -> Tensor:
        return functional.linear(self.transform(states), vectors, self.bias)
