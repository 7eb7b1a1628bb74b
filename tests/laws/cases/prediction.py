from __future__ import annotations

from medcl.objectives.prediction import BYOL, PredictorConfig, SimSiam
from tests.laws.case import Case, Law

PREDICTED: dict[Law, str] = {
    "length": "the predictor is not homogeneous",
    "rotation": "the predictor belongs to the channels",
    "equal": "the collapsed value is also the least, so that it is no yardstick",
    "cosines": "there are no negatives",
}
CONSTANT: dict[Law, str] = {"gradient": "the code of the other view is held constant"}

CASES = {
    "byol": Case(BYOL(predictor=PredictorConfig(hidden=5)), exempt=PREDICTED),
    "byol, three views": Case(BYOL(predictor=PredictorConfig(hidden=5, norm="layer")), views=3, exempt=PREDICTED),
    "simsiam": Case(SimSiam(predictor=PredictorConfig(hidden=5)), exempt={**PREDICTED, **CONSTANT}),
    "simsiam, no norm": Case(
        SimSiam(predictor=PredictorConfig(hidden=5, norm="none")), exempt={**PREDICTED, **CONSTANT}
    ),
}
