from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medcl.objectives.codes import Codes
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.mixing import MoCHi
from medcl.objectives.output import LossOutput
from medcl.objectives.prediction import PredictorConfig
from medcl.objectives.queue import NNCLR, MoCo, MoCoV3
from tests.laws.case import Case, Law


class QueueCase(Case):
    """Its queue holds the teacher's codes of the same batch, as those of other records and patients."""

    def module(self, dtype: torch.dtype = torch.float64, **changes: Any) -> torch.nn.Module:
        return _filled(super().module(dtype, **changes), self.codes(dtype=dtype))

    def loss(self, codes: Codes, gather: Gather = LOCAL, **changes: Any) -> LossOutput:
        dtype = torch.promote_types(codes.z.dtype, torch.float32)
        found: LossOutput = _filled(super().module(dtype, **changes), codes)(codes, gather)
        return found


def _filled(module: torch.nn.Module, codes: Codes) -> torch.nn.Module:
    assert codes.teacher is not None
    assert codes.record is not None
    assert codes.subject is not None
    for view in range(len(codes.z)):
        turned = codes.teacher.roll(view, 0)
        module(replace(codes, z=turned, teacher=turned, record=codes.record + 12, subject=codes.subject + 12))
    return module


PREDICTED: dict[Law, str] = {
    "length": "the predictor is not homogeneous",
    "rotation": "the predictor belongs to the channels",
    "cosines": "a predictor turns identical codes into others",
}
ASYMMETRIC: dict[Law, str] = {"views": "one view asks and the other answers"}
DRAWN: dict[Law, str] = {"items": "every anchor has draws of its own", "views": "every anchor has draws of its own"}
SMALL = PredictorConfig(hidden=5)

CASES = {
    "moco": QueueCase(MoCo(queue=24)),
    "moco, published": QueueCase(MoCo(queue=24, symmetric=False, exclude_same_subject=False), exempt=ASYMMETRIC),
    "moco_v3": Case(MoCoV3(predictor=SMALL), exempt=PREDICTED),
    "moco_v3, patients": Case(
        MoCoV3(predictor=PredictorConfig(hidden=5, norm="layer"), exclude_same_subject=True), views=3, exempt=PREDICTED
    ),
    "mochi": QueueCase(
        MoCHi(queue=24, hardest=5, pairs=4, queries=3),
        exempt={**DRAWN, "gradient": "points mixed of the query are constants"},
    ),
    "mochi, pairs": QueueCase(
        MoCHi(queue=24, hardest=5, pairs=4, queries=0, symmetric=False), exempt={**DRAWN, **ASYMMETRIC}
    ),
    "nnclr": QueueCase(NNCLR(queue=24, predictor=SMALL), exempt=PREDICTED),
    "nnclr, all patients": QueueCase(
        NNCLR(queue=24, predictor=PredictorConfig(hidden=5, norm="none"), exclude_same_subject=False), exempt=PREDICTED
    ),
}
