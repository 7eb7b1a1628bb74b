"""Laboratory values to a vector (multimodal.md 3.2)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from medcl.config.modalities import LabsMlpConfig
from medcl.encoders.encoded import Encoded, ModalityEncoder


class LabsMlp(ModalityEncoder):
    """Percentiles and indicators ``(B, 2K)`` through linear layers with GELU between them; layer normalisation at the end.

    Source: the encoder of Saporta et al. 2024 (Symile).
    """

    def __init__(self, config: LabsMlpConfig, inputs: int) -> None:
        widths = (inputs, *config.hidden)
        super().__init__(widths[-1])
        steps: list[nn.Module] = []
        for before, after in pairwise(widths):
            steps += [nn.Linear(before, after), nn.GELU()]
        self.layers = nn.Sequential(*steps, nn.LayerNorm(widths[-1]))

    def forward(self, x: Tensor) -> Encoded:
        return Encoded(self.layers(x))
