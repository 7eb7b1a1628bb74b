"""Attention between the slices of a volume, in a transformer made for single slices (multimodal.md 6.30)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcl.encoders.transformer import Attention, Block, linear


class CrossSliceBlock(Block):
    """A :class:`~medcl.encoders.transformer.Block` whose slices exchange messages: ``(B, T, N, width)`` to the same.

    Every slice makes a message of its class token (its first), the T messages attend to each other, and each slice's own
    tokens may then read its message as one token more: with message value ``m``, the share ``a`` of the attention that it
    draws and the attention ``o`` without it, every head gives ``o + gate a (m - o)``.

    ``message_gate`` (heads,) starts at 0, where the block is the 2D block on every slice; all ones are the published block. A projection
    to messages that starts at 0 would not do: a message of zeros still draws its share of the attention.
    The other parameters bear the names of ``Block``, whose weights therefore load as they are.
    Source: Ni et al. 2022 (X-CLIP, across the frames of a video).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.message = linear(width, width)
        self.message_norm = nn.LayerNorm(width)
        self.message_attention = Attention(width, heads)
        self.message_gate = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"slices are {tuple(x.shape)}; a cross-slice block needs (B, T, N, width)")
        message = self.message(x[:, :, 0])
        message = message + self.message_attention(self.message_norm(message))
        slices = torch.cat([x, message[:, :, None]], 2).flatten(0, 1)
        x = x + self._read(self.attention_norm(slices)).view_as(x)
        mapped: Tensor = self.perceptron(self.perceptron_norm(x))
        return x + mapped

    def _read(self, slices: Tensor) -> Tensor:
        """What the N tokens of ``slices (B T, N + 1, width)`` read of themselves and of the message after them."""
        query, key, value = self.attention.split(slices)
        logits = query[..., :-1, :] @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own, message = logits[..., :-1], logits[..., -1:]
        read = own.softmax(-1).to(value.dtype) @ value[..., :-1, :]
        share = (message - own.logsumexp(-1, keepdim=True)).sigmoid().to(value.dtype)
        gated = self.message_gate[:, None, None].to(value.dtype) * share
        read = read + gated * (value[..., -1:, :] - read)
        joined: Tensor = self.attention.output(read.transpose(1, 2).flatten(2))
        return joined


class SliceIntegration(nn.Module):
    """From the class tokens of up to ``slices`` slices ``(B, T, width)`` to one vector a volume ``(B, width)``.

    The mean over slices of each token plus what one block makes of the tokens with their learned positions.
    """

    def __init__(self, width: int, heads: int, slices: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(1, slices, width))
        self.block = Block(width, heads)
        self.out_channels = width
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 3 or x.shape[1] > self.positions.shape[1]:
            raise ValueError(
                f"class tokens are {tuple(x.shape)}; this integration was built for up to "
                f"{self.positions.shape[1]} slices as (B, T, {self.out_channels})"
            )
        joined: Tensor = (x + self.block(x + self.positions[:, : x.shape[1]])).mean(1)
        return joined
