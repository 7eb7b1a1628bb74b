"""The row of rehearsal distillation."""

from __future__ import annotations

from medcl.objectives.rehearsal import nspt
from tests.oracles.rows import Adapters, Computed, Given, gradients


def nspt_rehearsal(given: Given) -> Computed:
    student, rehearsal = given.leaf("student"), given["rehearsal"]
    found = nspt(
        student,
        given["teacher"],
        given["labels"],
        rehearsal,
        temperature=given.hyper["temperature"],
        normalize=given.hyper["normalize"],
    )
    return {
        "loss": found.loss,
        "loss_per_anchor": found.per_anchor[rehearsal],
        **gradients(found.loss, grad_student=student),
    }


ADAPTERS: Adapters = {("objectives", "nspt_rehearsal"): nspt_rehearsal}
