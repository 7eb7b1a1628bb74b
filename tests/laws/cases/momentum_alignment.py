from __future__ import annotations

from medcl.objectives.momentum_alignment import MomentumAlignment
from tests.laws.case import Law
from tests.laws.cases.queue import QueueCase

SOFT: dict[Law, str] = {"cosines": "targets are shares of all candidates"}

CASES = {
    "momentum_alignment": QueueCase(MomentumAlignment(temperature=0.2, queue=24, ramp=4), exempt=SOFT),
}
