"""Damaged files by the thousand: every reader must read each one or refuse it with a message that names it.

Run as ``python tests/reliability/fuzz.py --mutants 50000 --seed 0`` (``make fuzz``). Mutants are read in child processes. A mutant fails where
the reader raises anything but a MedclError, names no file in it, takes longer than ten seconds, uses more memory than is allowed
(:data:`MOST_MEMORY` above what the process held before), or takes its process with it.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from mutants import Reader, mutant, readers

MOST_SECONDS = 10
MOST_MEMORY = 256 << 20
"""Bytes of resident memory that reading one mutant may add: the largest seed is under a megabyte."""
_ADDRESS_SPACE = 3 << 30  # above what is mapped before; keeps a defect from taking the machine
_CHUNK = 25
_NO_MEMORY = ("bad alloc", "bad_alloc", "allocate memory", "memory allocation")

Job = tuple[str, int]
Outcome = tuple[str, str]  # "read", "refused" or "failed", and of a failure what happened


@dataclass
class Tally:
    """What came of a reader's mutants."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _TooSlow(BaseException):
    """Past every ``except Exception`` on its way out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 where no mutant failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2000, help="how many, spread over the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--reader", help="this reader only")
    parser.add_argument("--only", type=int, help="show this mutant of --reader again, with its traceback")
    parser.add_argument("--shared", type=Path, default=_shared(), help="folder that holds data/")
    given = parser.parse_args(arguments)
    if given.only is not None:
        return _show(given.shared, given.seed, given.reader, given.only)
    begun = time.monotonic()
    tallies = fuzz(given.shared, given.mutants, given.seed, given.workers, given.reader)
    _print(tallies, time.monotonic() - begun)
    return int(any(tally.failures for tally in tallies.values()))


def fuzz(shared: Path, mutants: int, seed: int, workers: int, only: str | None = None) -> dict[str, Tally]:
    """Read ``mutants`` damaged files in ``workers`` processes."""
    names = [only] if only else NAMES
    jobs = [(names[number % len(names)], number // len(names)) for number in range(mutants)]
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    tallies: dict[str, Tally] = defaultdict(Tally)
    for (name, number), (kind, what), seconds in _outcomes(shared, seed, chunks[::-1], workers):
        tally = tallies[name]
        tally.counts[kind] += 1
        tally.seconds += seconds
        if kind == "failed":
            tally.failures.append(f"{name} {number}: {what}")
    return {name: tallies[name] for name in names if name in tallies}


NAMES = [
    "nifti", "nifti.gz", "itk", "dicom series", "dicom image", "png", "jpeg and tiff", "ecg header", "ecg signal", "manifest", "dataset.json",
    "finetune yaml", "pretrain yaml", "recipe.yaml", "safetensors", "checkpoint", "run.json",
]  # fmt: skip


class _Child:
    """A process that reads mutants one after the other, and what it still has to read."""

    def __init__(self, shared: Path, seed: int) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, shared, seed), daemon=True)
        self.process.start()
        other.close()
        self.left: list[Job] = []
        self.ready = False
        self.since = time.monotonic()

    @property
    def overdue(self) -> bool:
        allowed = 2 * MOST_SECONDS if self.ready else 300
        return bool(self.left) and time.monotonic() - self.since > allowed

    def give(self, jobs: list[Job]) -> None:
        self.left = list(jobs)
        self.since = time.monotonic()
        self.connection.send(jobs)

    def end(self) -> int | None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        return self.process.exitcode


def _outcomes(shared: Path, seed: int, chunks: list[list[Job]], workers: int) -> Iterator[tuple[Job, Outcome, float]]:
    children = [_Child(shared, seed) for _ in range(workers)]
    for child in list(children):
        _feed(child, chunks, children)
    while children:
        answered = wait([child.connection for child in children], timeout=1)
        for child in list(children):
            broken = ""
            if child.connection in answered:
                try:
                    outcome, seconds = child.connection.recv()
                    child.since = time.monotonic()
                    if outcome is None:
                        child.ready = True
                        continue
                    yield child.left.pop(0), outcome, seconds
                except (EOFError, OSError):
                    child.process.join(5)
                    broken = f"its process died (exit code {child.process.exitcode})"
            elif child.overdue:
                broken = f"still not back after {2 * MOST_SECONDS} s, not even for a signal"
            if broken:
                if not child.ready:
                    raise RuntimeError(f"a process that should read mutants did not start: {broken}")
                children.remove(child)
                child.end()
                culprit, *rest = child.left
                yield culprit, ("failed", broken), 0.0
                if rest:
                    chunks.append(rest)
                child = _Child(shared, seed)
                children.append(child)
            if not child.left:
                _feed(child, chunks, children)


def _feed(child: _Child, chunks: list[list[Job]], children: list[_Child]) -> None:
    if chunks:
        child.give(chunks.pop())
    else:
        child.end()
        children.remove(child)


def _work(connection: Connection, shared: Path, seed: int) -> None:
    _quiet()
    with tempfile.TemporaryDirectory(prefix="medcl-fuzz-") as folder:
        scratch = Path(folder)
        os.chdir(scratch)
        (scratch / "seeds").mkdir()
        found = readers(shared, scratch / "seeds")
        for each in found.values():  # whatever is imported or set up on first use
            for files in each.seeds[:2]:
                attempt(each, scratch / "warm", files)
        limit = _mapped() + _ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        connection.send((None, 0.0))
        while True:
            for name, number in connection.recv():
                begun = time.monotonic()
                outcome = attempt(found[name], scratch / "mutant", _mutant(found[name], seed, name, number))
                connection.send((outcome, time.monotonic() - begun))


def _mutant(reader: Reader, seed: int, name: str, number: int) -> dict[str, bytes]:
    return mutant(reader, random.Random(f"{seed}/{name}/{number}"))


def attempt(reader: Reader, folder: Path, files: dict[str, bytes]) -> Outcome:
    """Read one mutant in ``folder``, which holds nothing before and afterwards."""
    from medcl.errors import MedclError

    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        _reset_peak()
        before = _resident()
        signal.signal(signal.SIGALRM, _alarm)
        signal.alarm(MOST_SECONDS)
        try:
            found = reader.read(folder / next(iter(files)))
            outcome = _of_readings(found if isinstance(found, list) else [found], folder)
        except MedclError as error:
            outcome = _judged(error, folder)
        except _TooSlow:
            outcome = ("failed", f"longer than {MOST_SECONDS} s")
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = (str(error).splitlines() or [""])[0][:120]
            outcome = ("failed", f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})")
        finally:
            signal.alarm(0)
        used = _peak() - before
        if used > MOST_MEMORY:
            outcome = ("failed", f"{used >> 20} MiB of memory")
        left = {file.name for file in folder.iterdir()} - set(files)
        if left:
            outcome = ("failed", f"left {', '.join(sorted(left))} behind")
    finally:
        shutil.rmtree(folder)
    return outcome


def _of_readings(found: list[object], folder: Path) -> Outcome:
    from medcl.errors import MedclError

    judged = [_judged(each, folder) if isinstance(each, MedclError) else ("read", "") for each in found]
    return next((outcome for outcome in judged if outcome[0] == "failed"), judged[0])


def _judged(error: Exception, folder: Path) -> Outcome:
    problems: tuple[str, ...] = error.problems  # type: ignore[attr-defined]
    unnamed = [problem for problem in problems if str(folder) not in problem]
    if unnamed or not problems:
        return "failed", f"names no file: {unnamed[:1]}"
    if long := [problem for problem in problems if len(problem) > 2000 or "\n" in problem]:
        return "failed", f"no readable line: {long[0][:100]!r} ({len(long[0])} characters)"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or any(words in str(cause).lower() for words in _NO_MEMORY):
            return "failed", f"asked for more memory than there is: {problems[0][-120:]}"
        cause = cause.__cause__ or cause.__context__
    return "refused", ""


def _alarm(number: int, frame: object) -> None:
    raise _TooSlow


def _quiet() -> None:
    """Decoders write their complaints where nobody reads them."""
    import logging

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ["OMP_NUM_THREADS"] = "1"
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise RuntimeError(f"/proc/self/status has no {name}")


def _mapped() -> int:
    return _status("VmSize")


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _shared() -> Path:
    return Path(os.environ.get("MEDCL_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def _show(shared: Path, seed: int, name: str, number: int) -> int:
    """Read one mutant in this process; its files stay for a closer look."""
    with tempfile.TemporaryDirectory() as folder:
        reader = readers(shared, Path(folder))[name]
        files = _mutant(reader, seed, name, number)
    kept = Path(tempfile.mkdtemp(prefix="mutant-"))
    for file, content in files.items():
        (kept / file).write_bytes(content)
    print(f"{name} {number}: {kept / next(iter(files))}", flush=True)
    print(f"read: {str(reader.read(kept / next(iter(files))))[:500]}")
    return 0


def _print(tallies: dict[str, Tally], seconds: float) -> None:
    print(f"{'reader':<16}{'read':>8}{'refused':>9}{'failed':>8}{'ms each':>9}")
    for name, tally in tallies.items():
        counts = tally.counts
        each = 1000 * tally.seconds / max(1, counts.total())
        print(f"{name:<16}{counts['read']:>8}{counts['refused']:>9}{counts['failed']:>8}{each:>9.1f}")
    total = sum((tally.counts for tally in tallies.values()), Counter[str]())
    print(
        f"{total.total()} mutants in {seconds:.1f} s: {total['read']} read, {total['refused']} refused, {total['failed']} failed"
    )
    for tally in tallies.values():
        for failure in tally.failures[:20]:
            print(f"failed: {failure}")


if __name__ == "__main__":
    sys.exit(main())
