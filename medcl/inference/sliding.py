"""Class probabilities of a whole prepared volume, from windows and their mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor

from medcl.encoders.segmenter import Segmenter

# Neighbouring windows share half their length; where they meet, a Gaussian favours the one seen from its middle.
OVERLAP = 0.5


@torch.inference_mode()
def predict_scores(
    segmenter: Segmenter,
    data: Tensor,
    patch: Sequence[int],
    *,
    batch: int = 4,
    mirror: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Probabilities ``(K, X, Y, Z)``, on the CPU, of ``data (C, X, Y, Z)`` by ``segmenter`` (in eval mode).

    ``patch`` is the window in voxels x, y, z: the size of the training views, to which the network's normalisation is
    used. A smaller volume is continued by its border, as training views are, and the result is cut back. ``mirror`` names
    the axes (0, 1, 2) over all of whose flips the average goes. A network of two dimensions sees slices along z.
    """
    dims = segmenter.encoder.spatial_dims
    flips = mirrored_axes([axis for axis in mirror if axis < dims])
    blocks = data[None] if dims == 3 else data.movedim(-1, 0)

    def mean_probabilities(windows: Tensor) -> Tensor:
        total = sum(segmenter(windows.flip(axes)).float().softmax(1).flip(axes) for axes in flips)
        assert isinstance(total, Tensor)
        return total / len(flips)

    scores = sliding_window_inference(
        blocks,
        tuple(patch[:dims]),
        batch,
        mean_probabilities,
        overlap=OVERLAP,
        mode="gaussian",
        padding_mode="replicate",
        sw_device=device,
        device="cpu",
    )
    assert isinstance(scores, Tensor)
    return scores[0] if dims == 3 else scores.movedim(0, -1)


def mirrored_axes(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The tensor axes of every flip over a subset of spatial ``axes``: the empty one first, ``2 ** len(axes)`` in all."""
    return [
        tuple(2 + axis for axis in chosen) for count in range(len(axes) + 1) for chosen in combinations(axes, count)
    ]
