"""The stream of batches of a run: batch number k is a function of the seed and k, so a stream can start anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader, Dataset

from medcl.views.sampler import ViewPlan, ViewSampler


class _Plans(Dataset[tuple[ViewPlan, ...]]):
    def __init__(self, samplers: tuple[ViewSampler, ...], rank: int, ranks: int) -> None:
        self.samplers = samplers
        self.rank = rank
        self.ranks = ranks

    def __getitem__(self, number: int) -> tuple[ViewPlan, ...]:
        return tuple(sampler.plan(number * self.ranks + self.rank, self.ranks) for sampler in self.samplers)


class PlanLoader:
    """Plans of every sampler, number ``first`` to ``batches - 1`` of this rank, cut ahead by ``workers`` processes.

    With ``render`` a thread makes the next batch of them while the network is at work, and what it returns is handed out instead.
    ``len()`` counts the whole stream, as Lightning's progress does, also when it starts in the middle.
    """

    def __init__(
        self,
        samplers: tuple[ViewSampler, ...],
        batches: int,
        *,
        first: int = 0,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
        render: Callable[[tuple[ViewPlan, ...]], Any] | None = None,
    ) -> None:
        self.batches = batches
        self._render = render
        self._loader: DataLoader[tuple[ViewPlan, ...]] = DataLoader(
            _Plans(samplers, rank, ranks),
            batch_size=None,
            collate_fn=_as_it_is,
            sampler=range(first, batches),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
            prefetch_factor=4 if workers else None,
        )

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._loader) if self._render is None else self._ahead(self._render)

    def _ahead(self, render: Callable[[tuple[ViewPlan, ...]], Any]) -> Iterator[Any]:
        plans = iter(self._loader)

        def make() -> Any:
            found = next(plans, None)
            return None if found is None else render(found)

        with ThreadPoolExecutor(1, thread_name_prefix="views") as thread:
            made = thread.submit(make).result()
            while made is not None:
                following = thread.submit(make)
                yield made
                made = following.result()


def _as_it_is(plans: tuple[ViewPlan, ...]) -> tuple[ViewPlan, ...]:
    return plans
