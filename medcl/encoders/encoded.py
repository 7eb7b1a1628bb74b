"""What the encoder of any modality hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass(frozen=True)
class Encoded:
    """Features of B inputs.

    ``pooled`` (B, C): the representation.   ``local`` (B, C', *S): features of places (cells of an image, steps of an ECG, tokens of
    a text), None where the encoder has none.   ``valid`` (B, *S): False where a place is padding; None: all are real.
    ``levels``: features ``(B, C, K)`` of parts of other sizes, with which of them are there (B, K), by their name, such as sentences.
    """

    pooled: Tensor
    local: Tensor | None = None
    valid: Tensor | None = None
    levels: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class ModalityEncoder(nn.Module):
    """An encoder of one modality: its ``forward`` returns :class:`Encoded`.

    Attributes:
        channels: C of ``Encoded.pooled``.
        local_channels: C' of ``Encoded.local``, None without it.
    """

    def __init__(self, channels: int, local_channels: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.local_channels = local_channels
