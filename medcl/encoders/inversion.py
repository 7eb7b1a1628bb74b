"""Modality inversion: an input of one modality whose code is a given code of another (multimodal.md 6.7). Source: Mistretta et al. 2025."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medcl.encoders.ecg import EcgViT
from medcl.encoders.encoded import Encoded
from medcl.encoders.image import ViT
from medcl.encoders.joint import JointEncoders
from medcl.encoders.prompts import prompted_text, repeated, text_layers
from medcl.errors import ConfigError

_DEVIATION = 0.02  # of what the search begins from
PLACE = "{v}"
"""Where a template has its pseudo word."""


@dataclass(frozen=True)
class Search:
    """Steps of AdamW for ``batch`` codes at a time."""

    steps: int
    lr: float = 0.02
    weight_decay: float = 0.01
    batch: int = 64
    seed: int = 0


def inverted_to_text(
    network: JointEncoders,
    codes: Tensor,
    template: str,
    *,
    tokens: int = 1,
    search: Search,
) -> Tensor:
    """Unit codes ``(N, D)`` of texts: ``template`` with ``tokens`` vectors at ``{v}``, searched for by AdamW so that its code is that of ``codes (N, D)``.

    Raises ConfigError where the text network reads no vectors instead of words.
    """
    text = network.text
    text_layers(text)  # a table of tokens has none
    before, _, behind = template.partition(PLACE)
    read = text.tokenizer([f"{before}{behind}"]).to(codes.device)
    after = int((text.tokenizer([before]).word >= 0).sum()) if before.strip() else 0

    def coded(vectors: Tensor) -> Tensor:
        pooled = prompted_text(text, repeated(read, len(vectors)), vectors, after=after)
        return network.project("report", Encoded(pooled))

    shape = (tokens, text.vectors.shape[1])
    return _searched(coded, codes, shape, search)


def inverted_to_image(
    network: JointEncoders,
    name: str,
    codes: Tensor,
    *,
    patches: int = 4,
    search: Search,
) -> Tensor:
    """Unit codes ``(N, D)`` of inputs of the modality ``name`` that are ``patches`` vectors, each repeated over its part of the transformer's tokens.

    Raises ConfigError where the encoder is no transformer.
    """
    encoder = network.encoders[name]
    if not isinstance(encoder, ViT | EcgViT):
        raise ConfigError(f"inversion: the {name} encoder is no transformer, and has no patches to search for")
    transformer = encoder.transformer
    count = transformer.positions.shape[1] - 1
    if patches > count:
        raise ConfigError(f"inversion.patches: {patches}, but the {name} encoder has {count} tokens; lower it")
    part = torch.arange(count, device=codes.device) * patches // count

    def coded(vectors: Tensor) -> Tensor:
        states = transformer(vectors[:, part])
        return network.project(name, Encoded(states[:, 0], states[:, 1:].movedim(1, 2)))

    shape = (patches, transformer.out_channels)
    return _searched(coded, codes, shape, search)


def _searched(
    coded: Callable[[Tensor], Tensor],
    codes: Tensor,
    shape: tuple[int, int],
    search: Search,
) -> Tensor:
    """Unit codes of the inputs ``(N, *shape)`` that minimise ``1 - cos`` to ``codes``, each for itself."""
    goal = functional.normalize(codes.float(), dim=1)
    begin = _DEVIATION * torch.randn(len(codes), *shape, generator=torch.Generator().manual_seed(search.seed))
    found = []
    with torch.enable_grad():
        for rows in torch.arange(len(codes), device=codes.device).split(search.batch):
            vectors = begin.to(codes.device)[rows].requires_grad_()
            optimiser = torch.optim.AdamW([vectors], lr=search.lr, weight_decay=search.weight_decay)
            for _ in range(search.steps):
                loss = (1 - functional.cosine_similarity(coded(vectors).float(), goal[rows])).sum()
                (vectors.grad,) = torch.autograd.grad(loss, vectors)
                optimiser.step()
            with torch.no_grad():
                found.append(functional.normalize(coded(vectors).float(), dim=1))
    return torch.cat(found)
