"""The attention weights of an encoder, in the graph of what it computes, so that a score can be traced back through them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from medcl.encoders.ecg import EcgViT
from medcl.encoders.encoded import ModalityEncoder
from medcl.encoders.image import ViT
from medcl.encoders.text import TextEncoder, Tokens, TokenTable, pool
from medcl.encoders.transformer import Attention
from medcl.errors import ConfigError


@contextmanager
def recorded_attentions(encoder: ModalityEncoder) -> Iterator[list[Tensor]]:
    """A list that fills with the weights ``(B, heads, N, N)`` of every block while ``encoder`` runs, the class token first.

    What it computes stays the same up to rounding. For evaluation: DropKey is not applied. Raises ConfigError where
    ``encoder`` is no transformer.
    """
    if not isinstance(encoder, ViT | EcgViT):
        raise ConfigError(
            f"weights: the encoder is a {type(encoder).__name__} without attention, so there is no attention to explain by; align with "
            "encoder.name=vit (images) or ecg_vit (ECGs)"
        )
    found: list[Tensor] = []

    def record(attention: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> Any:
        assert isinstance(attention, Attention)
        query, key, value = attention.split(given[0])
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        found.append(weights)
        return attention.output((weights @ value).transpose(1, 2).flatten(2))

    hooks = [part.register_forward_hook(record) for part in encoder.modules() if isinstance(part, Attention)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def text_with_attentions(encoder: TextEncoder, tokens: Tokens) -> tuple[Tensor, list[Tensor]]:
    """Pooled features ``(B, C)`` of ``tokens`` and the weights ``(B, heads, T, T)`` of every layer, in one graph.

    Raises ConfigError where the text network has no attention.
    """
    network: Any = encoder.network
    if isinstance(network, TokenTable):
        raise ConfigError(
            "weights: the text encoder is a token_table without attention, so there is nothing to explain by"
        )
    before = network.config._attn_implementation
    network.set_attn_implementation("eager")  # the fused ones do not give their weights
    try:
        given = {"input_ids": tokens.ids, "attention_mask": tokens.valid.long()}
        if encoder.segments > 1:
            given["token_type_ids"] = tokens.segment
        out = network(**given, output_attentions=True)
    finally:
        network.set_attn_implementation(before)
    return pool(out.last_hidden_state, tokens.valid, encoder.pooling), list(out.attentions)


def places_of(encoder: ModalityEncoder) -> tuple[int, ...]:
    """Samples or pixels of one token along every axis."""
    if isinstance(encoder, EcgViT):
        return tuple(encoder.stem[0].stride)  # type: ignore[arg-type]
    assert isinstance(encoder, ViT)
    return tuple(encoder.cells.stride)
