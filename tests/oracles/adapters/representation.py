"""Rows of the diagnostics of a representation: from a row's arrays to medcl's functions and back."""

from __future__ import annotations

import torch

from medcl.evaluation.classification import score_classes
from medcl.evaluation.geometry import alignment, centroid_gap, tolerance, uniformity
from medcl.evaluation.linear_probe import fit_linear_probe
from medcl.evaluation.neighbours import nearest
from medcl.evaluation.spectrum import Scatter, spectrum
from tests.oracles.rows import Adapters, Computed, Given


def metrics_geometry(given: Given) -> Computed:
    x, y, labels = given["x"], given["y"], given["labels"]
    return {
        "alignment": alignment(x, y, alpha=given.hyper["alignment_alpha"]),
        "alignment_alpha1": alignment(x, y, alpha=1),
        "uniformity": uniformity(x, t=given.hyper["uniformity_t"]),
        "tolerance": tolerance(x, labels),
        "tolerance_joint": tolerance(x, labels, form="joint"),
        "centroid_gap": centroid_gap(x, y),
    }


def metrics_rank(given: Given) -> Computed:
    found, fit = spectrum(given["x"]), given.hyper["alpha_req_fit"]
    return {
        "singular_values": found.singular_values,
        "rankme": found.rankme(given.hyper["rankme_eps"]),
        "effective_rank": found.effective_rank(),
        "covariance_eigenvalues": found.eigenvalues,
        "covariance_effective_rank": found.covariance_effective_rank(),
        "participation_ratio": found.participation_ratio(),
        "stable_rank": found.stable_rank(),
        "explained_variance_ratio": found.explained_variance_ratio(),
        "alpha_req": found.alpha_req(fit["first_index"], fit["last_index_exclusive"]),
    }


def metrics_lidar(given: Given) -> Computed:
    scatter, delta = Scatter.of(given["x"]), given.hyper["delta"]
    return {"lidar": scatter.lidar(delta, given.hyper["eps"]), "eigenvalues": scatter.eigenvalues(delta)}


def metrics_knn(given: Given) -> Computed:
    found = nearest(given["query"], given["bank"], given.hyper["k"])
    scores = found.class_scores(
        given["bank_labels"], given.hyper["num_classes"], temperature=given.hyper["temperature"]
    )
    scored = score_classes(scores, given["query_labels"], range(len(scores)), resamples=10)
    return {
        "scores": scores,
        "predictions": scores.argmax(1),
        "accuracy": torch.tensor(scored.accuracy.mean, dtype=torch.float64),
    }


def metrics_linear_probe(given: Given) -> Computed:
    probe = fit_linear_probe(given["train_x"], given["train_y"], strength=given.hyper["C"])
    probabilities = probe.probabilities(given["test_x"])
    scored = score_classes(probabilities, given["test_y"], range(len(probabilities)), resamples=10)
    return {
        "objective": torch.tensor(probe.objective, dtype=torch.float64),
        "coef": torch.from_numpy(probe.weight),
        "probabilities": torch.from_numpy(probabilities),
        "accuracy": torch.tensor(scored.accuracy.mean, dtype=torch.float64),
    }


ADAPTERS: Adapters = {
    ("objectives", "metrics_geometry"): metrics_geometry,
    ("objectives", "metrics_rank"): metrics_rank,
    ("objectives", "metrics_lidar"): metrics_lidar,
    ("objectives", "metrics_knn"): metrics_knn,
    ("objectives", "metrics_linear_probe"): metrics_linear_probe,
}
