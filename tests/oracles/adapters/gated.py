from __future__ import annotations

import torch

from medcl.objectives.gated import Gate, gated_pair
from tests.oracles.rows import Adapters, Computed, Given, gradients


def hydra_gate(given: Given) -> Computed:
    z1, z2, labels, partner = given.leaf("z1"), given.leaf("z2"), given["y1"], given["y2"]
    (classes, embedding), (hidden, _) = given["label_embedding"].shape, given["mlp_w1"].shape
    network = Gate(classes, embedding, hidden, z1.shape[1], norm=False).to(given.dtype)
    names = ("embedding.weight", "layers.1.weight", "layers.1.bias", "layers.3.weight", "layers.3.bias")
    arrays = ("label_embedding", "mlp_w1", "mlp_b1", "mlp_w2", "mlp_b2")
    network.load_state_dict({name: given[array] for name, array in zip(names, arrays, strict=True)})
    gate = network(labels, partner).detach().requires_grad_()
    settings = {"labels": labels, "partner": partner, "gate": gate, "temperature": given.hyper["temperature"]}
    found = gated_pair(z1, z2, **settings)
    terms = gated_pair(z1, z2, **settings, reduction="none").per_anchor
    positives = (labels[None] == partner[:, None]).sum(1)
    return {
        "gate": gate,
        "loss": found.loss,
        "loss_pair_mean": (terms * positives).sum() / positives.sum(),
        **gradients(found.loss, grad_z1=z1, grad_z2=z2, grad_gate=gate),
        "cosine": _cosines(z1, z2, gate),
    }


def _cosines(z1: torch.Tensor, z2: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Each cosine as the mean over the positives of a batch whose only positive is that pair."""
    found = torch.empty(len(z1), len(z2), dtype=z1.dtype)
    for i in range(len(z1)):
        for j in range(len(z2)):
            pair = torch.stack([z2[j], z1[i]]).detach()
            output = gated_pair(
                z1[i].detach().expand(2, -1),
                pair,
                labels=torch.tensor([1, 2]),
                partner=torch.tensor([1, 1]),
                gate=gate[i].detach().expand(2, -1),
            )
            found[i, j] = output.parts["positive_cosine"]
    return found


ADAPTERS: Adapters = {("objectives", "hydra_gate"): hydra_gate}
