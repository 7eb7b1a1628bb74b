"""Behind the Encoder face MONAI's networks compute what MONAI computes."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR

from medcl.encoders.segresnet import SegResNetEncoder
from medcl.encoders.swin_unetr import SwinUNETREncoder


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_segresnet(dims: int) -> None:
    torch.manual_seed(0)
    theirs = SegResNet(spatial_dims=dims, init_filters=8, in_channels=2, out_channels=1).eval()
    torch.manual_seed(0)
    ours = SegResNetEncoder(2, 8, dims).eval()
    x = torch.randn(1, 2, *(16, 24, 8)[:dims])
    torch.testing.assert_close(theirs.conv_final[-1](ours.decode(ours.encode(x))[-1]), theirs(x))


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_swin_unetr(dims: int) -> None:
    torch.manual_seed(0)
    theirs = SwinUNETR(in_channels=2, out_channels=1, feature_size=12, spatial_dims=dims).eval()
    torch.manual_seed(0)
    ours = SwinUNETREncoder(2, 12, dims).eval()
    x = torch.randn(1, 2, *(64, 32, 32)[:dims])
    torch.testing.assert_close(theirs.out(ours.decode(ours.encode(x))[-1]), theirs(x))
