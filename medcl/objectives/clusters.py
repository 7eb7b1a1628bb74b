"""k-means clusters of the rows of a batch and of the records of a data set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from medcl.objectives.codes import Setting
from medcl.objectives.gather import Gather
from medcl.objectives.kernel import unit
from medcl.objectives.state import StatefulObjective, gathered, mean_by_id


@torch.no_grad()
def kmeans(rows: Tensor, count: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cluster ``(n,)`` of each of ``rows (n, D)``, and the centroids ``(K, D)``, K = min(``count``, n).

    scikit-learn's MiniBatchKMeans, at most 100 passes, tolerance 1e-5 (the figures of MCL). Not normalised: hand over unit rows.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    count = min(count, len(rows))
    data = rows.detach().double().cpu().numpy()
    # Where one mini-batch holds every row, the plain algorithm is the same work with a better result.
    large = len(rows) > 4096
    method = (
        MiniBatchKMeans(count, n_init=1, max_iter=100, tol=1e-5, batch_size=4096, random_state=seed % 2**32)
        if large
        else KMeans(count, n_init=1, max_iter=100, tol=1e-5, random_state=seed % 2**32)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        found = method.fit(data)
    ids = torch.from_numpy(found.labels_).long().to(rows.device)
    return ids, torch.from_numpy(found.cluster_centers_).to(rows)


@torch.no_grad()
def concentrations(distance: Tensor, assigned: Tensor, count: int, *, temperature: float) -> Tensor:
    """``phi_c = mean distance / log(n_c + 5)`` (K,) of ``distance (N,)`` to the own centroid, clipped and scaled.

    A cluster of one takes the largest. Clipped to the 10th and 90th percentile over clusters, then scaled to the mean ``temperature``.
    """
    size = torch.bincount(assigned, minlength=count).to(distance.dtype)
    mean = distance.new_zeros(count).index_add_(0, assigned, distance) / size.clamp_min(1)
    phi = mean / (size + 5).log()
    phi = torch.where(size > 1, phi, phi.amax())  # a single member says nothing about the spread
    low, high = torch.quantile(phi, torch.tensor([0.1, 0.9], dtype=phi.dtype, device=phi.device))
    phi = phi.clamp(low, high).clamp_min(1e-3 * high).clamp_min(torch.finfo(phi.dtype).tiny)
    return phi * temperature / phi.mean()


def of_first_process(values: Tensor, gather: Gather) -> Tensor:
    """``values`` as the first process has them, so that all go on with the same ones."""
    return gather.rows(values)[0][: len(values)]


class RecordClusters(StatefulObjective):
    """Repeated clusterings of the records, by the last code of each.

    ``counts``: clusters of each of the R runs.   ``refresh``: passes over the records from one clustering to the next.
    Until the first there are none (:attr:`ready` is False); a record that was not seen before the last clustering joins the nearest
    centroid. The state is one code a record, ``R`` ids a record and the centroids; it is the same on all processes.
    """

    codes: Tensor
    seen: Tensor
    rows: Tensor
    ids: Tensor

    def __init__(self, counts: Sequence[int], setting: Setting, *, refresh: float) -> None:
        super().__init__(setting)
        self.counts = tuple(min(count, max(setting.records, 1)) for count in counts)
        self.refresh = refresh
        self.seed = setting.seed
        self.register_buffer("codes", torch.zeros(setting.records, setting.channels))
        self.register_buffer("seen", torch.zeros(setting.records, dtype=torch.bool))
        self.register_buffer("rows", torch.zeros((), dtype=torch.long))
        self.register_buffer("ids", torch.full((len(self.counts), setting.records), -1))
        for run, count in enumerate(self.counts):
            self.register_buffer(f"centroids{run}", torch.zeros(count, setting.channels))

    @property
    def ready(self) -> bool:
        """Whether there was a clustering."""
        return bool((self.ids >= 0).any())

    def centroids(self, run: int) -> Tensor:
        """``(K, D)`` of run ``run``."""
        found: Tensor = getattr(self, f"centroids{run}")
        return found

    def concentration(self, run: int, temperature: float) -> Tensor:
        """:func:`concentrations` ``(K,)`` of run ``run``, by the present codes."""
        known = self.ids[run] >= 0
        codes, ids = self.codes[known], self.ids[run, known]
        distance = (codes - self.centroids(run)[ids]).norm(dim=1)
        return concentrations(distance, ids, self.counts[run], temperature=temperature)

    def observe(self, record: Tensor, views: Tensor, gather: Gather) -> None:
        """Stage the codes ``views (V, B, D)`` of the records ``record (B,)`` of all processes, and cluster anew if it is time.

        The clustering itself happens here, before the first loss of a step, because all processes must take that of the first.
        """
        if not self.training:
            return
        self._cluster_if_due(gather)
        mean = unit(views.detach().to(self.codes.dtype)).mean(0)
        self.stage(**gathered(gather, record=record, code=mean))

    def write(self, staged: list[dict[str, Tensor]]) -> None:
        record = torch.cat([values["record"] for values in staged])
        ids, mean = mean_by_id(record, torch.cat([values["code"] for values in staged]))
        self.codes[ids] = unit(mean).to(self.codes.dtype)
        self.seen[ids] = True
        self.rows += len(record)
        if self.ready:
            late = ids[self.ids[0, ids] < 0]
            for run in range(len(self.counts)):
                self.ids[run, late] = torch.cdist(self.codes[late], self.centroids(run)).argmin(1)

    @torch.no_grad()
    def _cluster_if_due(self, gather: Gather) -> None:
        if int(self.rows) < self.refresh * self.records or int(self.seen.sum()) < max(self.counts):
            return
        self.rows.zero_()
        known = torch.nonzero(self.seen).squeeze(1)
        for run, count in enumerate(self.counts):
            ids, centroids = kmeans(self.codes[known], count, seed=self.seed + run)
            self.ids[run, known] = of_first_process(ids, gather)
            self.centroids(run).copy_(of_first_process(centroids, gather))
