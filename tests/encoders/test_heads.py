"""Heads between features and objectives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcl.config.pretrain import DenseHeadConfig, NoHeadConfig, ProjectionHeadConfig
from medcl.encoders.heads import build_head


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projection_reads_maps_and_vectors_alike(layers: int) -> None:
    head = build_head(ProjectionHeadConfig(hidden=16, out=8, layers=layers), 5, 3)
    maps = torch.randn(4, 5, 2, 3, 4)
    assert head.out_channels == 8
    torch.testing.assert_close(head(maps), head(maps.mean((2, 3, 4))))
    assert sum(isinstance(m, nn.Linear) for m in head.modules()) == layers


@pytest.mark.parametrize("dims", [2, 3])
def test_dense_keeps_the_cells(dims: int) -> None:
    head = build_head(DenseHeadConfig(out=7), 5, dims)
    maps = torch.randn(2, 5, *(4, 6, 3)[:dims])
    assert head(maps).shape == (2, 7, *maps.shape[2:])
    assert head.out_channels == 7
    assert build_head(DenseHeadConfig(), 5, dims).out_channels == 5


def test_dense_codes_of_a_map_do_not_depend_on_the_batch() -> None:
    head = build_head(DenseHeadConfig(), 5, 3)
    maps = torch.randn(3, 5, 2, 3, 4)
    torch.testing.assert_close(head(maps)[:1], head(maps[:1]))


def test_dense_permutes_with_its_cells() -> None:
    head = build_head(DenseHeadConfig(), 5, 2)
    maps = torch.randn(1, 5, 4, 4)
    torch.testing.assert_close(head(maps.flip(2)), head(maps).flip(2))


def test_no_head_hands_on() -> None:
    head = build_head(NoHeadConfig(), 5, 3)
    x = torch.randn(1, 5, 2, 2, 2)
    assert head(x) is x
    assert head.out_channels == 5
