from __future__ import annotations

from medcl.objectives.cluster_contrast import ClusterProxy, ClusterRestricted
from tests.laws.case import Case

DRAWN = "the first centroids are drawn among the rows in their order"

CASES = {
    "cluster_restricted": Case(ClusterRestricted(clusters=2)),
    "cluster_restricted, 3 views": Case(ClusterRestricted(clusters=2, exclude_same_subject=True), views=3),
    "cluster_proxy": Case(ClusterProxy(), exempt={"items": DRAWN, "views": DRAWN}),
    "cluster_proxy, 3 views": Case(
        ClusterProxy(centre="mean", clusters=3), views=3, exempt={"items": DRAWN, "views": DRAWN}
    ),
    "cluster_proxy, as published": Case(
        ClusterProxy(mode="pamc"),
        exempt={
            "items": DRAWN,
            "views": DRAWN,
            "equal": "the second term depends on the number of clusters only",
            "cosines": "the published loss has no pairs of its own",
            "low temperature": "the published loss takes the exponential first",
        },
    ),
}
