"""Rows of the evaluation of several modalities."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.evaluation.grounding import THRESHOLDS, score_phrase, similarity_map, smoothed
from medcl.evaluation.retrieval import retrieve_by
from medcl.evaluation.triplets import score_triplets, triplet_hits
from medcl.evaluation.zero_shot import prompt_scores, standardised
from tests.oracles.rows import Adapters, Computed, Given


def retrieval_metrics(given: Given) -> Computed:
    similarity = given["similarity"]

    def named(similarity: Tensor, relevant: Tensor) -> Tensor:
        found = retrieve_by(similarity, relevant).scores(resamples=10)
        by_name = {
            **{f"recall@{depth}": score.mean for depth, score in found.recall.items()},
            "mrr": found.mrr.mean,
            "median_rank": found.median_rank,
            "mean_rank": found.mean_rank.mean,
            "map": found.mean_average_precision.mean,
            "precision@5": found.precision[5].mean,
            "ndcg@5": found.ndcg[5].mean,
        }
        return torch.tensor([by_name[str(key)] for key in given.arrays["keys"]], dtype=torch.float64)

    given.read.add("keys")  # names, which are no tensor
    single = given["relevance_single"]
    return {
        "single": named(similarity, single),
        "multi": named(similarity, given["relevance_multi"]),
        "single_reverse": named(similarity.T, single.T),
    }


def zero_shot_scores(given: Given) -> Computed:
    image, prompts, negatives = given["image"], given["prompts"], given["negative_prompts"]
    highest = prompt_scores(image, prompts, scoring="max_prompt")
    scale = float(given["logit_scale"])
    return {
        "ensemble_mean": prompt_scores(image, prompts),
        "max_similarity": highest,
        "max_znorm": standardised(highest),
        "mean_similarity": prompt_scores(image, prompts, scoring="mean_prompt"),
        "posneg_probability": prompt_scores(image, prompts, scoring="pos_neg", negatives=negatives, scale=scale),
    }


def triplets(given: Given) -> Computed:
    hits = triplet_hits(given["image"], given["positive1"], given["positive2"], given["negative"])
    scores = score_triplets(hits, ["any"] * len(hits.text_only), resamples=10)
    return {
        "image_to_text": torch.tensor(scores.image_to_text.mean, dtype=torch.float64),
        "text_only": torch.tensor(scores.text_only.mean, dtype=torch.float64),
    }


def phrase_grounding(given: Given) -> Computed:
    similarity = similarity_map(given["patch"].movedim(-1, 0), given["text"][0])
    score = score_phrase(similarity, given["mask"].numpy())  # of the map before it is smoothed
    numbers = {"cnr": score.cnr, "cnr_signed": score.cnr_signed, "miou": score.miou, "thresholds": THRESHOLDS}
    return {
        "similarity": similarity,
        "smoothed": torch.from_numpy(smoothed(similarity, sigma=given.hyper["sigma"])),
        "iou": torch.from_numpy(score.iou),
        **{name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()},
    }


ADAPTERS: Adapters = {
    ("multimodal", "mm_retrieval_metrics"): retrieval_metrics,
    ("multimodal", "mm_zeroshot_scores"): zero_shot_scores,
    ("multimodal", "mm_triplet_eval"): triplets,
    ("multimodal", "mm_phrase_grounding"): phrase_grounding,
}
