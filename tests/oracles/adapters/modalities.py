from __future__ import annotations

import torch

from medcl.modalities.report import conclusion, split_sections
from medcl.preparation.ecg import remove_baseline, resample, scale_leads
from medcl.preparation.labs import fit_labs
from medcl.records.record import Record
from tests.oracles.rows import Adapters, Computed, Given


def ecg_preprocess(given: Given) -> Computed:
    resampled = resample(given["signal"].numpy().T, given.hyper["fs_in"], given.hyper["fs_out"])
    flat = remove_baseline(resampled, given.hyper["fs_out"])
    arrays = {"resampled": resampled, "baseline_removed": flat, "normalised": scale_leads(flat)}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def labs_ecdf(given: Given) -> Computed:
    train = [Record(f"r{n}", f"s{n}", labs={"lab": v}) for n, v in enumerate(given["train_column_nan"].tolist())]
    encoding = fit_labs(train, ["lab"])
    values = given["eval_nan"]
    filled, observed = torch.from_numpy(encoding.encode(values.double().numpy()[:, None])).unbind(1)
    return {
        "filled": filled,
        "indicator": observed.long(),
        "percentile_nan": filled.masked_fill(values.isnan(), torch.nan),
        "train_mean_percentile": torch.tensor(encoding.fill.item()),
    }


def report_sections(given: Given) -> Computed:
    reports = [split_sections(text) for text in given.texts("text")]
    return {
        "names": [[section.name for section in report] for report in reports],
        "sections": [[section.text for section in report] for report in reports],
        "conclusion": [conclusion(report) for report in reports],
    }


ADAPTERS: Adapters = {
    ("multimodal", "mm_report_sections"): report_sections,
    ("multimodal", "mm_ecg_preprocess"): ecg_preprocess,
    ("multimodal", "mm_labs_ecdf"): labs_ecdf,
}
