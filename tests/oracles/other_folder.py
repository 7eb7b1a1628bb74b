"""A second folder of reference vectors, of other sizes, inputs and hyperparameters, computed by plain loops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.laws import plain_loops

Arrays = dict[str, Any]
Made = tuple[Arrays, dict[str, Any]]
TOLERANCE = {"float64": {"rtol": 1e-8, "atol": 1e-9}, "float32": {"rtol": 1e-3, "atol": 1e-4}}


class _Draw:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def leaf(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64).requires_grad_()

    def labels(self, count: int, classes: int) -> Tensor:
        return torch.randint(classes, (count,), generator=self.generator)


def _with_gradients(loss: Tensor, **leaves: Tensor) -> Arrays:
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))


def _nt_xent(draw: _Draw) -> Made:
    z1, z2 = draw.leaf(4, 3), draw.leaf(4, 3)
    terms = plain_loops.nt_xent(z1, z2, 0.35)
    loss = plain_loops.mean(terms)
    found = {"z1": z1, "z2": z2, "loss": loss, "loss_per_anchor": torch.stack(terms)}
    return {**found, **_with_gradients(loss, grad_z1=z1, grad_z2=z2)}, {"temperature": 0.35}


def _ntxent(draw: _Draw) -> Made:
    z = draw.leaf(2, 3, 6)
    loss = plain_loops.mean(plain_loops.nt_xent(z[0], z[1], 0.2))
    return {"z": z, "loss": loss, **_with_gradients(loss, grad_z=z)}, {"temperature": 0.2, "normalize": True}


def _infonce_oneway(draw: _Draw) -> Made:
    query, key = draw.leaf(5, 4), draw.leaf(5, 4)
    terms = plain_loops.info_nce(query, key, 0.4)
    loss = plain_loops.mean(terms)
    found = {"query": query, "key": key, "loss": loss, "loss_per_anchor": torch.stack(terms)}
    return {**found, **_with_gradients(loss, grad_query=query, grad_key=key)}, {"temperature": 0.4, "normalize": True}


def _supcon(draw: _Draw) -> Made:
    features, labels = draw.leaf(5, 3, 4), draw.labels(5, 2)
    single = torch.tensor([4, 4, 1, 2, 3])
    tau = 0.15
    rows = features.transpose(0, 1).flatten(0, 1)
    loss = plain_loops.mean(plain_loops.supcon(rows, labels.repeat(3).tolist(), tau))
    alone = plain_loops.mean(plain_loops.supcon(features[:, 0], single.tolist(), tau))
    found = {
        "features": features,
        "labels": labels,
        "labels_singletons": single,
        "loss": loss,
        "loss_singletons": alone,
    }
    gradient = _with_gradients(loss, grad_features=features)
    return {**found, **gradient, "loss_base_temp_0p07": loss * tau / 0.07}, {"temperature": tau}


def _global(strategy: str) -> Callable[[_Draw], Made]:
    def make(draw: _Draw) -> Made:
        volumes, parts, views = (3, 2, 3) if strategy == "gd_minus" else (2, 3, 2)
        items, order = volumes * parts, torch.randperm(views * volumes * parts, generator=draw.generator)
        metadata = {
            "volume": torch.arange(volumes).repeat_interleave(parts).repeat(views)[order],
            "partition": torch.arange(parts).repeat(volumes * views)[order],
            "view": torch.arange(views).repeat_interleave(items)[order],
            "slice_id": torch.arange(items).repeat(views)[order],
        }
        z = draw.leaf(views * items, 5)
        listed = {name: values.tolist() for name, values in metadata.items()}
        pairs = plain_loops.partition_pairs(strategy, **listed)
        directed = [*pairs, *[(b, a) for a, b in pairs]]
        loss = plain_loops.mean(plain_loops.partition_terms(z, directed, listed["partition"], 0.25))
        found = {"z": z, **metadata, "pairs": torch.tensor(pairs), "loss_mean_directed": loss}
        return {**found, "loss_paper_norm": 2 * loss, **_with_gradients(loss, grad_z=z)}, {"temperature": 0.25}

    return make


def _released(draw: _Draw) -> Made:
    z, partition = draw.leaf(8, 3), torch.arange(2).repeat(4)
    directed = [(0, 2), (2, 0), (0, 2), (1, 7), (5, 3)]
    terms = plain_loops.partition_terms(z, directed, partition.tolist(), 0.3)
    loss = plain_loops.mean(terms)
    found = {
        "z": z,
        "slot": torch.arange(4).repeat_interleave(2),
        "group": torch.zeros(8, dtype=torch.long),
        "partition": partition,
        "directed_pairs": torch.tensor(directed),
        "loss_mean_directed": loss,
        "loss_released_norm": torch.stack(terms).sum() / 8,
    }
    return {**found, **_with_gradients(loss, grad_z=z)}, {"temperature": 0.3}


def _local(kind: str, shape: tuple[int, ...], size: int, near: int) -> Callable[[_Draw], Made]:
    def make(draw: _Draw) -> Made:
        items, channels, tau = 4, 2, 0.3
        corners = torch.stack([torch.randint(m - size + 1, (6,), generator=draw.generator) for m in shape], 1)
        f1, f2 = draw.leaf(items, channels, *shape), draw.leaf(items, channels, *shape)
        weight = draw.leaf(4, channels * size ** len(shape))
        table = plain_loops.neighbours(corners.tolist(), near)
        maps = [*f1, *f2]
        codes = [[plain_loops.region_code(f, c, size, weight) for c in corners.tolist()] for f in maps]

        def total(pairs: list[tuple[int, int]], near: list[list[int]]) -> Tensor:
            return plain_loops.mean(
                [t for i, j in pairs for t in plain_loops.local_terms(codes[i], codes[j], near, tau)]
            )

        volume, partition = [0, 1, 2, 0], [0, 0, 0, 1]
        unordered = [(i, i + items) for i in range(items)]
        if kind == "ld":
            both = partition * 2
            unordered = [(i, j) for i in range(8) for j in range(i + 1, 8) if both[i] == both[j]]
        loss = total([*unordered, *[(j, i) for i, j in unordered]], table)
        found = {"f1": f1, "f2": f2, "region_start": corners, "neg_index": torch.tensor(table), "proj_weight": weight}
        found |= {"loss": loss, **_with_gradients(loss, grad_f1=f1, grad_f2=f2)}
        if kind == "lr":
            found["grad_proj_weight"] = _with_gradients(loss, w=weight)["w"]
            others = plain_loops.neighbours(corners.tolist(), None)
            found["loss_all_negatives"] = total([*unordered, *[(j, i) for i, j in unordered]], others)
        else:
            found |= {"volume": torch.tensor(volume), "partition": torch.tensor(partition)}
            found["pairs"] = torch.tensor(unordered)
        return found, {"temperature": tau, "region_size": size, "n_regions": 6, "n_neg": near}

    return make


def _dice(draw: _Draw) -> Made:
    logits = draw.leaf(3, 3, 4, 5)
    target = torch.randint(3, (3, 4, 5), generator=draw.generator)
    predicted, true = torch.randint(3, (2, 4, 5, 6), generator=draw.generator)
    epsilon = 1e-3
    loss = plain_loops.soft_dice(logits, target, epsilon, range(3))
    scores = [
        2.0 * int(((predicted == k) & (true == k)).sum()) / (int((predicted == k).sum()) + int((true == k).sum()))
        for k in range(3)
    ]
    found = {
        "logits": logits,
        "target": target,
        "loss_with_background": loss,
        "loss_without_background": plain_loops.soft_dice(logits, target, epsilon, [1, 2]),
        "pred_volume": predicted,
        "true_volume": true,
        "dice_per_class": torch.tensor(scores, dtype=torch.float64),
        "foreground_dice": torch.tensor((scores[1] + scores[2]) / 2, dtype=torch.float64),
    }
    return {**found, **_with_gradients(loss, grad_logits=logits)}, {"epsilon": epsilon}


MAKERS: dict[tuple[str, str], Callable[[_Draw], Made]] = {
    ("objectives", "infonce_oneway"): _infonce_oneway,
    ("objectives", "ntxent"): _ntxent,
    ("volumetric", "nt_xent"): _nt_xent,
    ("volumetric", "supcon"): _supcon,
    ("volumetric", "global_gd_minus"): _global("gd_minus"),
    ("volumetric", "global_gd"): _global("gd"),
    ("volumetric", "global_gd_released_layout"): _released,
    ("volumetric", "local_lr_2d"): _local("lr", (6, 9), 2, 3),
    ("volumetric", "local_lr_3d"): _local("lr", (4, 6, 5), 2, 5),
    ("volumetric", "local_ld_2d"): _local("ld", (7, 5), 3, 2),
    ("volumetric", "local_ld_3d"): _local("ld", (3, 5, 4), 2, 4),
    ("volumetric", "dice"): _dice,
}


def write_folder(folder: Path, seed: int) -> None:
    """Write the folder: the rows of MAKERS, and one row that no objective stands for."""
    indexes: dict[str, list[Any]] = {
        "objectives": [],
        "volumetric": [],
        "multimodal": [_entry("from_the_future", {}, {})],
    }
    for number, ((index, name), make) in enumerate(MAKERS.items()):
        arrays, hyper = make(_Draw(seed + number))
        stored = {key: value.detach().numpy() for key, value in arrays.items()}
        np.savez(folder / f"{index}_{name}.npz", **stored)
        indexes[index].append({**_entry(name, stored, hyper), "file": f"{index}_{name}.npz"})
    for index, rows in indexes.items():
        (folder / f"{index}.json").write_text(json.dumps({"specification": "", "oracles": rows}))


def _entry(name: str, arrays: dict[str, np.ndarray], hyper: dict[str, Any]) -> dict[str, Any]:
    described = {
        key: {"shape": list(value.shape), "dtype": str(value.dtype), "meaning": ""} for key, value in arrays.items()
    }
    return {"name": name, "file": f"{name}.npz", "arrays": described, "hyperparameters": hyper, "tolerance": TOLERANCE}
