"""Texts of which there are only so many, through an encoder that never changes: encoded once, kept in the prepared folder."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medcl.config.align import AlignConfig
from medcl.config.align_stage import AlignStageConfig
from medcl.encoders.text import TextEncoder
from medcl.files import atomic_path
from medcl.tasks.streams import EncodedStream, ReportStream
from medcl.types import Array

log = logging.getLogger(__name__)

_TEXTS = 64  # encoded at a time


def cacheable(config: AlignConfig, stage: AlignStageConfig) -> bool:
    """Whether the report's encoder is frozen in ``stage`` and its terms read one vector a text.

    Pooling over padding too (``mean_all``) depends on the other texts of a batch and is never kept.
    """
    report = config.modalities.report
    return (
        report is not None
        and report.cache
        and "report" in config.frozen_in(stage)
        and report.encoder.pooling != "mean_all"
        and all(term.objective.reads == "vectors" for term in stage.terms)
    )


def cached_texts(encoder: nn.Module, stream: ReportStream, folder: Path) -> ReportStream | EncodedStream:
    """``stream`` with its texts encoded by ``encoder`` in evaluation mode; the stream itself where they are too many, as shuffled sentences
    are, and those of special streams of a report.

    The features lie in ``folder``, named by the texts and the weights; they are computed where they do not lie there yet.
    """
    if type(stream) is not ReportStream or not isinstance(encoder, TextEncoder):
        return stream
    choices = stream.choices()
    if choices is None:
        return stream
    texts = sorted(choices)
    path = folder / f"{_digest(encoder, texts)}.npy"
    if not path.is_file():
        with atomic_path(path) as part:
            np.save(part, _encoded(encoder, texts))
        log.info("%d texts are encoded once: %s", len(texts), path)
    return EncodedStream(stream, {text: place for place, text in enumerate(texts)}, path)


@torch.no_grad()
def _encoded(encoder: TextEncoder, texts: list[str]) -> Array:
    """Pooled features ``(N, C)`` float32; texts of like length go together."""
    trained = encoder.training
    device = next(encoder.parameters()).device
    encoder.eval()
    found = np.zeros((len(texts), encoder.channels), np.float32)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for start in range(0, len(order), _TEXTS):
        rows = order[start : start + _TEXTS]
        tokens = encoder.tokenizer([texts[row] for row in rows]).to(device)
        found[rows] = encoder(tokens).pooled.float().cpu().numpy()
    encoder.train(trained)
    return found


def _digest(encoder: TextEncoder, texts: list[str]) -> str:
    """Of the weights, the tokenizer, the pooling and the texts."""
    digest = hashlib.sha256(f"1 {encoder.pooling} {encoder.tokenizer.max_length}".encode())
    digest.update(encoder.tokenizer.backend.to_str().encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for text in texts:
        digest.update(b"\0" + text.encode())
    return digest.hexdigest()[:32]
