"""medcl's residual U-Net computes what nnU-Net's own class computes, on the same weights, in both directions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder, residual_layout
from medcl.encoders.nnunet_keys import from_nnunet, to_nnunet
from medcl.encoders.residual_unet import Layout, ResidualUNet
from medcl.encoders.segmenter import Segmenter
from medcl.weights.keys import file_state
from medcl.weights.load import load_into

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
PARTS = ("encoder", "decoder", "head", "auxiliary")
# The block counts of ResEnc-L with few channels; anisotropic strides; 2D; two convolutions a decoder block.
LAYOUTS = {
    "like large": Layout((4, 6, 8, 10, 10, 10), (1, 3, 4, 6, 6, 6), ((1, 1, 1), *((2, 2, 2),) * 5)),
    "anisotropic": Layout((4, 6, 8), (1, 2, 2), ((1, 1, 1), (2, 2, 1), (1, 2, 2)), decoder_convs=2),
    "equal widths": Layout((6, 6, 6), (2, 1, 2), ((1, 1, 1), (2, 2, 2), (2, 2, 2))),
    "2d": Layout((4, 8, 8), (1, 2, 2), ((1, 1), (2, 2), (2, 2))),
}
SIZES = {"like large": (64, 64, 64), "anisotropic": (16, 32, 8), "equal widths": (16, 24, 8), "2d": (24, 32)}


@pytest.fixture(scope="module")
def nnunet(peer):
    network = peer("dynamic_network_architectures.architectures.unet").ResidualEncoderUNet

    def build(layout: Layout, in_channels: int = 2, classes: int = 3) -> nn.Module:
        return network(
            input_channels=in_channels,
            n_stages=len(layout.features),
            features_per_stage=layout.features,
            conv_op=CONV[layout.dims],
            kernel_sizes=3,
            strides=layout.strides,
            n_blocks_per_stage=layout.blocks,
            num_classes=classes,
            n_conv_per_stage_decoder=layout.decoder_convs,
            conv_bias=True,
            norm_op=NORM[layout.dims],
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )

    return build


def randomised(module: nn.Module) -> nn.Module:
    """Weights that leave no term at 0 or 1, in float64."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.double()


@pytest.mark.parametrize("name", LAYOUTS)
def test_same_scores_on_nnunet_weights(nnunet, name: str) -> None:
    theirs = randomised(nnunet(LAYOUTS[name]))
    ours = Segmenter(ResidualUNet(2, LAYOUTS[name]), 3, deep_supervision=True).double()
    report = load_into(ours, from_nnunet(theirs.state_dict()), least_share=1.0, parts=PARTS)
    assert (report.random, report.adapted, report.unused) == ((), (), ())
    x = torch.randn(1, 2, *SIZES[name], dtype=torch.float64)
    for mine, their in zip(ours.forward_deep(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_same_scores_on_medcl_weights(nnunet, name: str) -> None:
    ours = randomised(Segmenter(ResidualUNet(2, LAYOUTS[name]), 3, deep_supervision=True))
    theirs = nnunet(LAYOUTS[name]).double()
    theirs.load_state_dict(to_nnunet(file_state(ours), ours.encoder), strict=True)
    x = torch.randn(1, 2, *SIZES[name], dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("size", "patch"), [("base", (64, 64, 64)), ("large", (160, 160, 160)), ("large", (512, 512))])
def test_named_sizes_have_nnunet_parameters(nnunet, size: str, patch: tuple[int, ...]) -> None:
    with torch.device("meta"):
        theirs = nnunet(residual_layout(size, patch), 1, 3)
        ours = build_encoder(ResidualEncoderConfig(size=size, dims=len(patch)), 1, patch)
        head = Segmenter(ours, 3, deep_supervision=True)
    mapped = {name: tensor.shape for name, tensor in from_nnunet(theirs.state_dict()).items()}
    assert mapped == {name: tensor.shape for name, tensor in file_state(head).items()}
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_same_initialisation_rule(nnunet) -> None:
    layout = LAYOUTS["anisotropic"]
    theirs = nnunet(layout)
    theirs.apply(theirs.initialize)
    ours = file_state(Segmenter(ResidualUNet(2, layout), 3))
    for name, tensor in from_nnunet(theirs.state_dict()).items():
        if name.startswith(("head", "auxiliary")):
            continue
        assert (tensor.std() == 0) == (ours[name].std() == 0), name
        if tensor.std() > 0 and tensor.numel() > 500:
            assert ours[name].std().item() == pytest.approx(tensor.std().item(), rel=0.15), name
