"""A transformer over the tokens of an image, a volume or a signal, with DropKey (multimodal.md 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcl.errors import ConfigError

_RATIO = 4
"""Hidden width of the perceptron over the width of a token."""


class TransformerConfig(Protocol):
    """What a :class:`Transformer` reads of its configuration."""

    @property
    def width(self) -> int:
        """Channels of a token, a multiple of ``heads``."""

    @property
    def layers(self) -> int:
        """Blocks, one after the other."""

    @property
    def heads(self) -> int:
        """Attention heads."""

    @property
    def dropkey(self) -> float:
        """Share of the keys that a query does not see in training, in [0, 1]; 0 for none."""

    @property
    def dropkey_decreases(self) -> bool:
        """The share falls linearly to 0 in the last block, instead of being the same in all."""


class Transformer(nn.Module):
    """Class token and learned positions before pre-norm blocks: ``(B, N, C)`` to ``(B, 1 + N, C)``, the class token first.

    ``tokens``: N. Source: Dosovitskiy et al. 2021 (ViT); DropKey: Li et al. 2023.
    """

    def __init__(self, config: TransformerConfig, tokens: int) -> None:
        super().__init__()
        shares = dropkey_shares(config.dropkey, config.layers, decreases=config.dropkey_decreases)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + tokens, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, share) for share in shares)
        self.norm = nn.LayerNorm(config.width)
        self.out_channels = config.width
        for tensor in (self.class_token, self.positions):
            nn.init.trunc_normal_(tensor, std=0.02)

    def forward(self, x: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """``prompts``: of each of the first blocks ``(n, C)`` tokens more, which take the place of what the block before made of its own."""
        if x.shape[1:] != (self.positions.shape[1] - 1, self.out_channels):
            raise ValueError(
                f"tokens are {tuple(x.shape)}; this transformer was built for "
                f"(B, {self.positions.shape[1] - 1}, {self.out_channels})"
            )
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions
        own = x.shape[1]
        for number, block in enumerate(self.blocks):
            if number < len(prompts):
                x = torch.cat([x[:, :own], prompts[number].to(x.dtype).expand(len(x), -1, -1)], 1)
            x = block(x)
        encoded: Tensor = self.norm(x[:, :own])
        return encoded


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + perceptron(norm(x))``, on ``(B, N, width)``."""

    def __init__(self, width: int, heads: int, dropkey: float = 0.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropkey)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = perceptron(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        mapped: Tensor = self.perceptron(self.perceptron_norm(x))
        return x + mapped


class Attention(nn.Module):
    """Multi-head self-attention on ``(B, N, width)``; in training a query misses each key with probability ``dropkey``."""

    def __init__(self, width: int, heads: int, dropkey: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width is {width} and heads is {heads}; width must be a multiple of heads")
        if not 0 <= dropkey <= 1:
            raise ConfigError(f"dropkey is {dropkey}; it must be between 0 and 1")
        self.heads = heads
        self.dropkey = dropkey
        self.inputs = linear(width, 3 * width)
        self.output = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(x)
        dropped = None
        if self.training and self.dropkey > 0:
            dropped = draw_dropped((*query.shape[:-1], key.shape[-2]), self.dropkey, x.device)
        joined: Tensor = self.output(attend(query, key, value, dropped).transpose(1, 2).flatten(2))
        return joined

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of every head, ``(B, heads, N, width / heads)``."""
        query, key, value = self.inputs(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value


def attend(query: Tensor, key: Tensor, value: Tensor, dropped: Tensor | None = None) -> Tensor:
    """``softmax(query key^T / sqrt(D)) value`` of ``(..., N, D)``; a pair in ``dropped (..., N, N)`` has no part in the softmax.

    No query may have all its keys dropped. The mask is boolean, so that no constant can overflow in half precision.
    """
    seen = None if dropped is None else ~dropped
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)


def draw_dropped(shape: tuple[int, ...], share: float, device: torch.device) -> Tensor:
    """Boolean ``shape = (..., queries, keys)``, True with probability ``share``; the first key, the class token, survives.

    It survives only where all others are dropped too. Drawn from torch's generator of ``device``, as dropout is.
    """
    dropped = torch.rand(shape, device=device) < share
    dropped[..., 0] &= ~dropped.all(-1)
    return dropped


def dropkey_shares(first: float, layers: int, *, decreases: bool) -> list[float]:
    """The share of keys dropped in every block: ``first`` in all, or ``first (1 - l / (layers - 1))``.

    A constant 0.3 in pretraining and 0.2 decreasing in fine-tuning are the values of MoRE.
    """
    if not decreases or layers < 2:
        return [first] * layers
    return [first * (1 - layer / (layers - 1)) for layer in range(layers)]


def perceptron(width: int) -> nn.Sequential:
    """Two linear layers with a GELU between them; the hidden one is four times as wide."""
    return nn.Sequential(linear(width, _RATIO * width), nn.GELU(), linear(_RATIO * width, width))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as those of ViT do: small normal weights, no bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
