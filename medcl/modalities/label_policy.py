"""What a network is told where a label is uncertain (-1) or not mentioned (blank), for labels as CheXpert has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from medcl.errors import DataError
from medcl.records.chexpert_labels import ABSENT, NO_FINDING, PRESENT, UNCERTAIN
from medcl.records.record import Record

Policy = Literal["ones", "zeros", "ignore", "smoothed_ones", "smoothed_zeros", "mixed"]
Blank = Literal["zero", "no_finding"]

SMOOTHED_ONES, SMOOTHED_ZEROS = (0.55, 0.85), (0.0, 0.3)
"""Where the smoothed policies draw an uncertain label from, uniformly."""

MIXED = {"Atelectasis": 1.0, "Edema": 1.0, "Pleural Effusion": 1.0, "Cardiomegaly": 0.0, "Consolidation": 0.0}
"""The policy ``mixed`` (MoRE's table): what -1 counts as, label by label."""


def label_table(records: Sequence[Record], names: Sequence[str]) -> Float64[np.ndarray, "N K"]:
    """The labels ``names`` among the records' targets, NaN for blank. DataError where one is not 1, 0, -1 or blank."""
    rows = [[record.targets.get(name, np.nan) for name in names] for record in records]
    wrong = [
        f"record {record.id}: {name} is {value!r}; a label is 1, 0, -1 or blank"
        for record, row in zip(records, rows, strict=True)
        for name, value in zip(names, row, strict=True)
        if isinstance(value, str) or not (np.isnan(value) or value in (PRESENT, ABSENT, UNCERTAIN))
    ]
    if wrong:
        raise DataError(wrong)
    return np.array(rows, np.float64).reshape(len(records), len(names))


def resolve_labels(
    labels: Float64[np.ndarray, "N K"],
    names: Sequence[str],
    policy: Policy,
    *,
    blank: Blank = "zero",
    seed: int | None = None,
) -> Float64[np.ndarray, "N K"]:
    """What to train on, in [0, 1]; NaN where the entry is to be left out of the loss.

    Uncertain: ``ones``, ``zeros``, ``ignore`` (NaN); ``smoothed_ones`` and ``smoothed_zeros`` draw from
    :data:`SMOOTHED_ONES` or :data:`SMOOTHED_ZEROS` by ``seed``; ``mixed`` follows :data:`MIXED` and ignores labels that are not
    in it. Blank: ``zero``, as published work has it; ``no_finding`` takes a blank for 0 only where "No Finding" is 1, which says
    that nothing else is there, and else leaves it out.
    Raises ValueError for another policy, a smoothed one without a seed, or values other than 1, 0, -1 and NaN.
    """
    if not (np.isnan(labels) | np.isin(labels, (PRESENT, ABSENT, UNCERTAIN))).all():
        raise ValueError("labels must be 1, 0, -1 or NaN")
    uncertain = labels == UNCERTAIN
    found = np.where(uncertain, _instead(labels.shape, names, policy, seed), labels)
    return np.where(np.isnan(labels) & _means_absent(labels, names, blank), ABSENT, found)


def certain_rows(labels: Float64[np.ndarray, "N K"]) -> Bool[np.ndarray, " N"]:
    """Which records have no uncertain label among these columns (MoRE's fine-tuning keeps no others)."""
    return ~(labels == UNCERTAIN).any(axis=1)


def _instead(
    shape: tuple[int, ...], names: Sequence[str], policy: Policy, seed: int | None
) -> Float64[np.ndarray, "N K"]:
    """What stands for an uncertain label in each place."""
    constant = {"ones": PRESENT, "zeros": ABSENT, "ignore": np.nan}
    if policy in constant:
        return np.full(shape, constant[policy])
    if policy == "mixed":
        return np.broadcast_to([MIXED.get(name, np.nan) for name in names], shape)
    smoothed = {"smoothed_ones": SMOOTHED_ONES, "smoothed_zeros": SMOOTHED_ZEROS}
    if policy not in smoothed:
        raise ValueError(
            f"unknown policy {policy!r} for uncertain labels; there are {', '.join([*constant, 'mixed', *smoothed])}"
        )
    if seed is None:
        raise ValueError(f"the policy {policy} draws at random and needs a seed")
    return np.random.default_rng(seed).uniform(*smoothed[policy], size=shape)


def _means_absent(labels: Float64[np.ndarray, "N K"], names: Sequence[str], blank: Blank) -> Bool[np.ndarray, "N K"]:
    if blank == "zero":
        return np.ones(labels.shape, bool)
    if blank != "no_finding" or NO_FINDING not in names:
        raise ValueError(
            f"blank={blank!r}: expected 'zero', or 'no_finding' with the column {NO_FINDING!r} among the names"
        )
    return np.broadcast_to(labels[:, [list(names).index(NO_FINDING)]] == PRESENT, labels.shape)
