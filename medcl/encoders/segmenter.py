"""A network with a segmentation head."""

from __future__ import annotations

from torch import Tensor, nn

from medcl.encoders.volume import Encoder

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}


class Segmenter(nn.Module):
    """``encoder`` with a 1x1 convolution to ``classes`` scores (background included) on its last decoder map.

    Attributes:
        encoder: the network; a pretrained one is trained further in place.
        head: the 1x1 convolution at the input's resolution.
        auxiliary: with ``deep_supervision``, a 1x1 convolution for every coarser decoder map, coarse to fine.
    """

    def __init__(self, encoder: Encoder, classes: int, *, deep_supervision: bool = False) -> None:
        super().__init__()
        conv = _CONV[encoder.spatial_dims]
        *coarser, finest = encoder.decoder_channels
        self.classes = classes
        self.encoder = encoder
        self.head = conv(finest, classes, 1)
        self.auxiliary = nn.ModuleList(conv(width, classes, 1) for width in coarser if deep_supervision)

    def forward(self, x: Tensor) -> Tensor:
        """Scores before softmax, ``(B, classes, *S)``, of ``x (B, C, *S)``."""
        scores: Tensor = self.head(self.features(x))
        return scores

    def features(self, x: Tensor) -> Tensor:
        """What :attr:`head` reads: the last decoder map ``(B, C', *S)`` of ``x (B, C, *S)``."""
        return self.encoder.decode(self.encoder.encode(x))[-1]

    def forward_deep(self, x: Tensor) -> list[Tensor]:
        """Scores of every supervised resolution, fine to coarse; the first is what :meth:`forward` gives."""
        *coarser, finest = self.encoder.decode(self.encoder.encode(x))
        scores = [self.head(finest)]
        scores += [head(maps) for head, maps in zip(reversed(self.auxiliary), reversed(coarser), strict=False)]
        return scores
