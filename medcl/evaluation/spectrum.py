"""How many directions rows use: RankMe, effective rank, the collapse spectrum, alpha-ReQ and LiDAR (objectives.md 8).

Everything comes from moments kept in float64, so that batches and processes can be added up. Rows are taken as they
are. All of these stay as they are when the rows are rotated, and, but for LiDAR's small constant, when they are scaled.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcl.evaluation.sums import Sums

_LEAST_POINTS = 8
"""of a power law that anything can be said of."""


@dataclass(frozen=True)
class Moments(Sums):
    """Count, sum ``(D,)`` and sum of outer products ``(D, D)`` of rows."""

    count: Tensor
    total: Tensor
    gram: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, rows: Tensor) -> Moments:
        """Of ``rows (N, D)``."""
        if rows.ndim != 2:
            raise ValueError(f"rows are (N, D), not {tuple(rows.shape)}")
        x = rows.double()
        return cls(x.new_tensor(len(x)), x.sum(0), x.T @ x)

    def covariance(self) -> Tensor:
        """``(D, D)`` about the mean, divided by N."""
        mean = self.total / self.count
        return self.gram / self.count - torch.outer(mean, mean)

    def spectrum(self) -> Spectrum:
        """Both spectra. What rounding alone can make of the numbers is 0."""
        power = _eigenvalues(self.gram)
        rounding = torch.finfo(power.dtype).eps * len(power) * power[0]
        possible = min(int(self.count), len(power))
        spread = _eigenvalues(self.covariance())
        return Spectrum(
            singular_values=power.masked_fill(power <= rounding, 0.0)[:possible].sqrt(),
            eigenvalues=spread.masked_fill(spread <= rounding / self.count, 0.0),
        )


@dataclass(frozen=True)
class Spectrum:
    """``singular_values`` (min(N, D),) of the rows; ``eigenvalues`` (D,) of their covariance, the collapse spectrum.

    Both descend. Rows that are all equal have no covariance: ranks of it are then 0.
    """

    singular_values: Tensor
    eigenvalues: Tensor

    def rankme(self, eps: float = 1e-7) -> Tensor:
        """``exp(-sum p log p)``, ``p = s / sum(s) + eps``: 1 when collapsed, D when white; use N >= 5D.

        As published, p is not normalised again. Source: Garrido et al. 2023.
        """
        return _exp_entropy(_shares(self.singular_values) + eps)

    def effective_rank(self) -> Tensor:
        """:meth:`rankme` with ``eps = 0`` (Roy and Vetterli 2007)."""
        return _exp_entropy(_shares(self.singular_values))

    def stable_rank(self) -> Tensor:
        """``||X||_F^2 / ||X||_2^2``."""
        power = self.singular_values.square()
        return power.sum() / power[0]

    def explained_variance_ratio(self) -> Tensor:
        """``(D,)`` shares of the variance, which sum to 1."""
        return _shares(self.eigenvalues)

    def covariance_effective_rank(self) -> Tensor:
        """Exponential of the entropy of the shares of the variance."""
        return _exp_entropy(self.explained_variance_ratio()) if self.eigenvalues[0] > 0 else self.eigenvalues[0]

    def participation_ratio(self) -> Tensor:
        """``(sum l)^2 / sum l^2``."""
        if self.eigenvalues[0] <= 0:
            return self.eigenvalues[0]
        return self.eigenvalues.sum().square() / self.eigenvalues.square().sum()

    def collapsed_dims(self, share: float = 1e-6) -> int:
        """How many eigenvalues are below ``share`` of the largest; all of them where nothing varies."""
        largest = self.eigenvalues[0]
        return int((self.eigenvalues < share * largest).sum()) if largest > 0 else len(self.eigenvalues)

    def alpha_req(self, first: int | None = None, stop: int | None = None) -> Tensor:
        """How fast the eigenvalues decay: the exponent a of ``l ~ rank^-a``; near 1 is the reported optimum.

        Least squares of log eigenvalue on log rank with weights 1 / rank, over the indices ``first <= k < stop`` (rank
        k + 1). Default: the ranks 11 to min(500, D - 10), with fewer left out at both ends where fewer than 28
        eigenvalues are above 0. Raises ValueError where the default has fewer than 8 points or the range has none.
        Source: Agrawal et al. 2022.
        """
        usable = int((self.eigenvalues > 0).sum())
        if first is None and stop is None and usable < _LEAST_POINTS:
            raise ValueError(f"only {usable} eigenvalues are above 0; a power law needs {_LEAST_POINTS}")
        margin = min(10, max((usable - _LEAST_POINTS) // 2, 0))
        first = margin if first is None else first
        stop = min(500, usable - margin) if stop is None else stop
        if first < 0 or not first + 2 <= stop <= usable:
            raise ValueError(f"indices {first} to {stop} are no range within the {usable} eigenvalues above 0")
        rank = torch.arange(first + 1, stop + 1, device=self.eigenvalues.device).double()
        x, y, weight = rank.log(), self.eigenvalues[first:stop].log(), _shares(1 / rank)
        x, y = x - (weight * x).sum(), y - (weight * y).sum()
        return -(weight * x * y).sum() / (weight * x * x).sum()


@dataclass(frozen=True)
class Scatter(Sums):
    """Moments of the groups' means, and the scatter of the rows about them with its degrees of freedom."""

    means: Moments
    within: Tensor
    freedom: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, views: Tensor) -> Scatter:
        """Of q views of each of n samples, ``views (n, q, D)``."""
        if views.ndim != 3:
            raise ValueError(f"views of samples are (n, q, D), not {tuple(views.shape)}")
        x = views.double()
        apart = (x - x.mean(1, keepdim=True)).flatten(0, 1)
        return cls(Moments.of(x.mean(1)), apart.T @ apart, x.new_tensor(x.shape[0] * (x.shape[1] - 1)))

    @classmethod
    @torch.no_grad()
    def of_groups(cls, rows: Tensor, group: Tensor) -> Scatter:
        """Of ``rows (N, D)`` in groups ``(N,)`` of any sizes, such as the scans of every patient; each must be whole."""
        x = rows.double()
        _, index, count = group.unique(return_inverse=True, return_counts=True)
        means = x.new_zeros(len(count), x.shape[1]).index_add_(0, index, x) / count[:, None]
        apart = x - means[index]
        return cls(Moments.of(means), apart.T @ apart, x.new_tensor(len(x) - len(count)))

    def eigenvalues(self, delta: float = 1e-4) -> Tensor:
        """``(D,)`` of ``Sw^-1/2 Sb Sw^-1/2``, descending: ``Sw`` the scatter within groups plus ``delta I``, ``Sb`` of means.

        Raises ValueError where there is one group only, or no group has two rows.
        """
        if self.means.count < 2 or self.freedom < 1:
            raise ValueError("LiDAR needs two groups or more, and groups of two rows or more")
        between = self.means.covariance() * (self.means.count / (self.means.count - 1))
        spread, axes = torch.linalg.eigh(self.within / self.freedom)
        whitening = axes / (spread.clamp_min(0.0) + delta).sqrt()
        return _eigenvalues(whitening.T @ between @ whitening)

    def lidar(self, delta: float = 1e-4, eps: float = 1e-8) -> Tensor:
        """See :func:`lidar`."""
        return _exp_entropy(_shares(self.eigenvalues(delta) + eps))


def spectrum(rows: Tensor) -> Spectrum:
    """The spectra of ``rows (N, D)``."""
    return Moments.of(rows).spectrum()


def lidar(views: Tensor, *, delta: float = 1e-4, eps: float = 1e-8) -> Tensor:
    """Exponential of the entropy of the directions that tell n samples apart beyond what q views of one differ by.

    ``views`` (n, q, D) with q >= 10 (published: 50), n >= D for the full range. For groups of unequal sizes, such as a
    patient's series, :meth:`Scatter.of_groups`. Source: Thilak et al. 2024.
    """
    return Scatter.of(views).lidar(delta, eps)


def _eigenvalues(symmetric: Tensor) -> Tensor:
    return torch.linalg.eigvalsh((symmetric + symmetric.T) / 2).flip(0).clamp_min(0.0)


def _shares(values: Tensor) -> Tensor:
    return values / values.sum()


def _exp_entropy(shares: Tensor) -> Tensor:
    return torch.special.entr(shares).sum().exp()
