"""What the encoder of any modality hands on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn


@dataclass(frozen=True)
class Encoded:
    """Features of B inputs.

    ``pooled`` (B, C): the representation.   ``local`` (B, C', *S): features of places (cells of an image, steps of an ECG, tokens of
    a text), None where the encoder has none.   ``valid`` (B, *S): False where a place is padding; None: all are real.
    ``levels``: maps of several sizes, fine to coarse, the last of which is ``local``; () where there is only that.
    ``word`` (B, T): which word a token of a text is a piece of, -1 for none; None for what is no text.
    ``sentence`` (B, T): which sentence a token belongs to, -1 for none; None where the encoder tells no sentences apart.
    """

    pooled: Tensor
    local: Tensor | None = None
    valid: Tensor | None = None
    levels: tuple[Tensor, ...] = ()
    word: Tensor | None = None
    sentence: Tensor | None = None

    def shifted(self, by: Tensor) -> Encoded:
        """The same with ``by (B, C)`` added to the representation and to every place."""
        local = self.local
        if local is not None:
            local = local + by.reshape(*by.shape, *[1] * (local.ndim - 2))
        return replace(self, pooled=self.pooled + by, local=local)


class ModalityEncoder(nn.Module):
    """An encoder of one modality: its ``forward`` returns :class:`Encoded`.

    Attributes:
        channels: C of ``Encoded.pooled``.
        local_channels: C' of ``Encoded.local``, None without it.
        level_channels: of ``Encoded.levels``, fine to coarse; of the one map there is, or () without any.
    """

    def __init__(
        self, channels: int, local_channels: int | None = None, level_channels: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.channels = channels
        self.local_channels = local_channels
        if level_channels is None:
            level_channels = () if local_channels is None else (local_channels,)
        self.level_channels = tuple(level_channels)
