"""Changes of an ECG that leave what it says (multimodal.md 2.5)."""

from __future__ import annotations

import numpy as np

from medcl.config.align import EcgAugmentation
from medcl.types import Array

_PARTS = 4
_STRETCH = 1.25


def augment_signal(data: Array, config: EcgAugmentation, rng: np.random.Generator) -> Array:
    """A changed copy of ``data (leads, T)``: time warp or permutation, factor, noise, lead dropout, in this order, float32.

    Permutation of segments destroys the rhythm; MoRE has it, other configurations do not.
    """
    warp, permute = rng.random(2)
    if warp < config.warp:
        data = _warped(data, rng)
    elif permute < config.permutation:
        data = np.concatenate([np.array_split(data, _PARTS, 1)[part] for part in rng.permutation(_PARTS)], 1)
    changed = data * rng.uniform(*config.scale) + rng.normal(0, config.noise, data.shape)
    kept = rng.random(len(data)) >= config.lead_dropout
    return np.asarray(changed * (kept[:, None] if kept.any() else 1), np.float32)


def _warped(data: Array, rng: np.random.Generator) -> Array:
    """Two of four segments stretched by a quarter, the others shrunk, and the whole brought back to its length."""
    fast = rng.permutation([True, True, False, False])
    pieces = [
        _at_length(piece, round(piece.shape[1] * (_STRETCH if slow else 2 - _STRETCH)))
        for piece, slow in zip(np.array_split(data, _PARTS, 1), fast, strict=True)
    ]
    return _at_length(np.concatenate(pieces, 1), data.shape[1])


def _at_length(data: Array, length: int) -> Array:
    places = np.linspace(0, data.shape[1] - 1, length)
    return np.stack([np.interp(places, np.arange(data.shape[1]), lead) for lead in data])
