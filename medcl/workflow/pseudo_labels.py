"""Labels that a network predicts for the pool, for the next round of a self-training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medcl.config.finetune import FinetuneConfig
from medcl.config.unlabelled import RoundsConfig
from medcl.encoders.segmenter import Segmenter
from medcl.errors import DataError
from medcl.inference.sliding import predict_scores
from medcl.preparation.relabelled import RelabelledStore, relabel
from medcl.preparation.store import Store
from medcl.seeds import derive_seed
from medcl.types import Array

log = logging.getLogger(__name__)


def label_pool(
    segmenter: Segmenter,
    config: FinetuneConfig,
    store: Store,
    ids: Sequence[str],
    patch: Sequence[int],
    folder: Path,
) -> RelabelledStore:
    """Predict the records ``ids`` of ``store`` and write their labels into ``folder``, all or nothing.

    Records without any foreground, or on which two altered copies disagree (``agreement``), are left out.
    Raises DataError where none is left.
    """
    extra = config.unlabelled
    assert isinstance(extra, RoundsConfig)
    flip = config.views.spatial.flip if config.views.spatial else (0.0, 0.0, 0.0)
    mirror = [axis for axis, chance in enumerate(flip) if chance > 0] if extra.tta else []
    device = next(segmenter.parameters()).device
    segmenter.eval()

    def predict(data: Tensor) -> Array:
        convention = store.recipe.convention
        scores = predict_scores(segmenter, data, patch, mirror=mirror, convention=convention, device=device)
        label = scores.argmax(0).numpy()
        return largest_components(label) if extra.largest_component else label

    def labels() -> Iterator[tuple[str, Array]]:
        for record_id in ids:
            data = torch.from_numpy(np.array(store.open(record_id).data))
            label = predict(data)
            if not label.any():
                continue
            if extra.agreement is not None:
                first, second = (predict(copy) for copy in _altered(data, derive_seed(config.seed, record_id)))
                if _mean_dice(first, second) < extra.agreement:
                    continue
            yield record_id, label

    kept = relabel(store, labels(), folder)
    if not len(kept):
        raise DataError(
            f"{folder}: no record of the pool has a label to trust; lower unlabelled.agreement or train longer first"
        )
    log.info("pseudo-labels: %d of %d records of the pool are labelled", len(kept), len(ids))
    return kept


def largest_components(label: Array) -> Array:
    """``label (X, Y, Z)`` with the largest connected part of every class; what is left out becomes background."""
    kept = np.zeros_like(label)
    for value in np.unique(label[label > 0]):
        parts, count = ndimage.label(label == value)
        largest = 1 + np.bincount(parts.ravel(), minlength=count + 1)[1:].argmax()
        kept[parts == largest] = value
    return kept


def _altered(data: Tensor, seed: int) -> list[Tensor]:
    """Two copies of ``data`` as two scanners might show it: other contrast, other noise."""
    draw = torch.Generator().manual_seed(seed)
    return [factor * data + 0.1 * torch.randn(data.shape, generator=draw) for factor in (0.8, 1.2)]


def _mean_dice(first: Array, second: Array) -> float:
    """Mean Dice over the classes that either has."""
    classes = [value for value in np.union1d(first, second) if value]
    both = [((first == c) & (second == c)).sum() / ((first == c).sum() + (second == c).sum()) for c in classes]
    return float(2 * np.mean(both)) if both else 0.0
