from __future__ import annotations

import torch

from medcl.preparation.ecg import remove_baseline, resample, scale_leads
from tests.oracles.rows import Adapters, Computed, Given


def ecg_preprocess(given: Given) -> Computed:
    resampled = resample(given["signal"].numpy().T, given.hyper["fs_in"], given.hyper["fs_out"])
    flat = remove_baseline(resampled, given.hyper["fs_out"])
    arrays = {"resampled": resampled, "baseline_removed": flat, "normalised": scale_leads(flat)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


ADAPTERS: Adapters = {("multimodal", "mm_ecg_preprocess"): ecg_preprocess}
