"""What the encoder sees instead of a view: hidden, moved or painted over. The view itself stays clean.

What happens to a view is drawn with the rest of its row; carrying it out on the device takes no other view into account.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcl.config.corruption import (
    BlocksCorruption,
    BoxCorruption,
    Corruption,
    GenesisCorruption,
    SwapsCorruption,
    TurnsCorruption,
)
from medcl.errors import ConfigError
from medcl.views.boxes import random_box, voxels_in_boxes
from medcl.views.genesis import draw_genesis, genesis

Drawn = dict[str, NDArray[Any]]

_TRIES = 20  # for two cubes that do not overlap


def draw_corruption(rng: np.random.Generator, config: Corruption, patch: Sequence[int]) -> Drawn:
    """What :func:`corrupt` needs to know of one view of ``patch`` voxels (two or three axes)."""
    match config:
        case BlocksCorruption():
            return {"blocks": _draw_blocks(rng, config, patch)}
        case BoxCorruption():
            side = np.clip(np.rint(config.share * np.asarray(patch)).astype(np.int64), 1, patch)
            return {"boxes": random_box(rng, side, patch)[None]}
        case SwapsCorruption():
            return {"starts": np.stack([_draw_pair(rng, config.side, patch) for _ in range(config.count)])}
        case GenesisCorruption():
            return draw_genesis(rng, config, patch)
        case TurnsCorruption():
            return {"turns": np.array(rng.integers(4))}


def corrupt(config: Corruption, drawn: dict[str, Tensor], data: Tensor) -> tuple[Tensor, Tensor | None]:
    """What the encoder sees of the views ``data (N, C, *S)``, and which voxels ``(N, *S)`` are hidden from it, if any are.

    ``drawn``: of every view, as :func:`draw_corruption` names it, ``(N, ...)``.
    """
    shape = data.shape[2:]
    match config:
        case BlocksCorruption():
            hidden = grow(drawn["blocks"], config.block, shape)
            return data.masked_fill(hidden[:, None], 0.0), hidden
        case BoxCorruption():
            hidden = voxels_in_boxes(drawn["boxes"], shape)
            return data.masked_fill(hidden[:, None], 0.0), hidden
        case SwapsCorruption():
            return swap(data, drawn["starts"], config.side), None
        case GenesisCorruption():
            return genesis(data, drawn), None
        case TurnsCorruption():
            return turn(data, drawn["turns"]), None


def check_corruption(config: Corruption, patch: Sequence[int]) -> None:
    """Raise ConfigError where views of ``patch`` voxels cannot be corrupted so."""
    if isinstance(config, TurnsCorruption) and patch[0] != patch[1]:
        raise ConfigError(
            f"views.corruption: turns about z need a patch as wide along x as along y, not {list(patch)}; "
            f"set views.patch={[min(patch[:2])] * 2 + list(patch[2:])}"
        )


def _draw_blocks(rng: np.random.Generator, config: BlocksCorruption, patch: Sequence[int]) -> NDArray[np.bool_]:
    """Which blocks of a view are hidden: ``ratio`` of them, rounded, at random places ``(*blocks,)``."""
    blocks = tuple(-(-size // config.block) for size in patch)
    count = int(np.prod(blocks))
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: round(config.ratio * count)]] = True
    return hidden.reshape(blocks)


def grow(hidden: Tensor, block: int, shape: Sequence[int]) -> Tensor:
    """The voxels ``(..., *shape)`` of hidden blocks ``(..., *blocks)``; a block at the far border may be cut."""
    first = hidden.ndim - len(shape)
    for axis, size in enumerate(shape, start=first):
        voxels = torch.arange(size, device=hidden.device) // block
        hidden = hidden.index_select(axis, voxels)
    return hidden


def _draw_pair(rng: np.random.Generator, side: int, patch: Sequence[int]) -> NDArray[np.int64]:
    """First voxels ``(2, nd)`` of two cubes that do not overlap; twice the same where there hardly are such."""
    sides = np.minimum(side, patch)
    for _ in range(_TRIES):
        pair = rng.integers(0, np.asarray(patch) - sides, (2, len(patch)), endpoint=True)
        if (np.abs(pair[0] - pair[1]) >= sides).any():
            return pair
    return np.repeat(pair[:1], 2, 0)


def swap(data: Tensor, starts: Tensor, side: int) -> Tensor:
    """``data (N, C, *S)`` with cubes at ``starts (N, n, 2, nd)`` exchanged, one pair after the other."""
    shape = data.shape[2:]
    strides = torch.tensor([int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))], device=data.device)
    steps = torch.cartesian_prod(*[torch.arange(min(side, size), device=data.device) for size in shape])
    cube = (steps.reshape(-1, len(shape)) * strides).sum(-1)
    places = (starts * strides).sum(-1)[..., None] + cube  # (N, n, 2, voxels of a cube)
    swapped = data.flatten(2).clone()
    for pair in places.unbind(1):
        here, there = (place[:, None].expand(-1, data.shape[1], -1) for place in pair.unbind(1))
        held = swapped.gather(2, here)
        swapped.scatter_(2, here, swapped.gather(2, there)).scatter_(2, there, held)
    return swapped.reshape(data.shape)


def turn(data: Tensor, turns: Tensor) -> Tensor:
    """``data (N, C, *S)``, each turned by its number ``turns (N,)`` of quarter turns from the first axis to the second."""
    turned = data.clone()
    for quarters in range(1, 4):
        rows = turns == quarters
        turned[rows] = data[rows].rot90(quarters, (2, 3))
    return turned
