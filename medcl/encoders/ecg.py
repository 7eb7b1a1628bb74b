"""ECGs to one vector each, and to a sequence of steps (multimodal.md 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.resnet import ResNet, ResNetBlock
from torch import Tensor, nn

from medcl.config.modalities import EcgEncoderConfig, EcgResNetConfig, EcgViTConfig
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.image import MapEncoder
from medcl.encoders.transformer import Transformer

_LAYERS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
STEP = 5
"""Samples of a token of :class:`EcgViT`."""


class EcgViT(ModalityEncoder):
    """Tokens of 5 samples from two convolutions, then a transformer; 1000 samples make 196 tokens, as MoRE's."""

    def __init__(self, config: EcgViTConfig, leads: int, samples: int) -> None:
        super().__init__(config.width, config.width)
        self.stem = nn.Sequential(
            nn.Conv1d(leads, config.stem, 5, STEP),
            nn.ReLU(),
            nn.BatchNorm1d(config.stem),
            nn.Conv1d(config.stem, config.width, 5),
            nn.ReLU(),
            nn.BatchNorm1d(config.width),
        )
        self.transformer = Transformer(config, tokens=samples // STEP - 4)

    def forward(self, x: Tensor, prompts: Sequence[Tensor] = ()) -> Encoded:
        """``prompts``: tokens of the first blocks, see :class:`Transformer`."""
        states = self.transformer(self.stem(x).movedim(1, 2), prompts)
        return Encoded(states[:, 0], states[:, 1:].movedim(1, 2))


def build_ecg_encoder(config: EcgEncoderConfig, leads: int, samples: int) -> ModalityEncoder:
    """The encoder that ``config`` names, for signals ``(B, leads, samples)``; the global random state gives the weights."""
    match config:
        case EcgResNetConfig():
            widths = [config.width * 2**level for level in range(4)]
            network = ResNet(
                ResNetBlock,
                list(_LAYERS[config.depth]),
                widths,
                spatial_dims=1,
                n_input_channels=leads,
                conv1_t_size=15,
                conv1_t_stride=2,
                feed_forward=False,
            )
            parts = (network.conv1, network.bn1, network.act, network.maxpool)
            stages = (network.layer1, network.layer2, network.layer3, network.layer4)
            return MapEncoder(nn.Sequential(*parts, *stages), widths[-1], widths)
        case EcgViTConfig():
            return EcgViT(config, leads, samples)
