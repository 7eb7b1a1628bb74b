"""The run folder: every command writes into one, always laid out the same way.

``config.yaml`` (resolved; running it again repeats the run), ``run.json`` (versions, git state, device, seeds,
times, peak memory, outcome), ``metrics.jsonl``, ``checkpoints/``, ``weights/``, ``page.html``.
"""

from __future__ import annotations

import fcntl
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import yaml
from pydantic import BaseModel

from medcl.config.plain_yaml import load_plain, read_yaml_text
from medcl.errors import ConfigError, DataError
from medcl.files import parse_json, remove_leftovers, write_json, write_text

_MOST_CONFIG = 64 << 20
_REPORTED_PACKAGES = ("medcl", "torch", "monai", "lightning", "nibabel", "numpy", "SimpleITK")


class RunFolder:
    """One run's folder. Open it with :meth:`started`; read a finished one with ``RunFolder(path)``."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.weights = self.path / "weights"
        self.page = self.path / "page.html"
        self._begun, self._cpu_begun = time.monotonic(), time.process_time()
        self._used_before = (0.0, 0.0)

    def read_facts(self) -> dict[str, Any]:
        """The content of ``run.json``. Raises DataError where the folder is not a run."""
        if not self.facts.is_file():
            raise DataError(f"{self.path}: not a run folder (no run.json in it); name the folder given as out=")
        try:
            facts = parse_json(self.facts.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.facts}: not readable as JSON ({error}); restore it, or remove the folder"
            ) from error
        if not isinstance(facts, dict):
            raise DataError(f"{self.facts}: does not hold the facts of a run; restore it, or remove the folder")
        return facts

    def read_config(self) -> Any:
        """The values of ``config.yaml``. Raises ConfigError where it cannot be read."""
        return load_plain(read_yaml_text(self.config, _MOST_CONFIG), self.config)

    def is_finished(self) -> bool:
        """Whether a run in this folder ended well."""
        return self.facts.is_file() and self.read_facts().get("status") == "finished"

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every logged row, oldest first; a last line cut off by a crash is left out."""
        if not self.metrics.is_file():
            return []
        try:
            lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise DataError(f"{self.metrics}: cannot be read ({error.strerror})") from error
        rows = []
        for line in lines:
            try:
                row = parse_json(line)
            except ValueError:
                break
            if not isinstance(row, dict):
                break
            rows.append(row)
        return rows

    def record(self, **facts: Any) -> None:
        """Add ``facts`` to ``run.json``."""
        if not is_first_process():
            return
        current = self.read_facts() if self.facts.is_file() else {}
        write_json(self.facts, {**current, **facts})

    def record_usage(self) -> None:
        """Write what the run took so far, with the time before a resume, so that a crash loses little of it."""
        wall, cpu = self._used_before
        self.record(
            wall_seconds=round(wall + time.monotonic() - self._begun, 3),
            cpu_seconds=round(cpu + time.process_time() - self._cpu_begun, 3),
            peak_memory_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        )

    @contextmanager
    def started(
        self, command: str, config: BaseModel | Mapping[str, Any], *, seed: int | None = None, resume: bool = False
    ) -> Iterator[RunFolder]:
        """Own the folder while a command runs: lock it, write config and facts, note how it ended.

        Unless ``resume``: raises ConfigError if the folder holds a training, or a finished run of another
        configuration, so that nothing is overwritten silently. Always, if another process uses the folder. In a
        training on several processes only the first one writes; the others just work.
        """
        if not is_first_process():
            yield self
            return
        text = dump_config(config)
        if not resume and self.config.is_file():
            if self._config_text() != text and self.is_finished():
                raise ConfigError(
                    f"{self.path}: holds a finished run with another configuration; choose another out= or remove it"
                )
            if self.checkpoints.is_dir() and any(self.checkpoints.iterdir()):
                raise ConfigError(
                    f"{self.path}: holds a training already; go on with --resume, choose another out= or remove it"
                )
        with self._locked():
            remove_leftovers(self.path)
            write_text(self.config, text)
            previous = self.read_facts() if resume and self.facts.is_file() else {}
            self._begun, self._cpu_begun = time.monotonic(), time.process_time()
            self._used_before = (previous.get("wall_seconds", 0.0), previous.get("cpu_seconds", 0.0))
            facts = {
                **previous,
                "command": command,
                "status": "running",
                "started": _now(),
                "seed": seed,
                **environment(),
            }
            write_json(self.facts, facts)
            status = "failed"
            try:
                yield self
                status = "finished"
            except (KeyboardInterrupt, SystemExit):
                status = "interrupted"
                raise
            finally:
                self.record_usage()
                self.record(status=status, ended=_now())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = open(self.path / ".lock", "w")  # noqa: SIM115  (closed below; the lock lives as long)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot write here ({error.strerror}); choose another output folder"
            ) from error
        with handle:
            _lock(handle, self.path)
            yield

    def _config_text(self) -> str:
        try:
            return self.config.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise DataError(
                f"{self.config}: cannot be read ({error.strerror}); choose another output folder"
            ) from error


def is_first_process() -> bool:
    """False in the further processes that a distributed training starts; its launcher numbers them by these names."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def dump_config(config: BaseModel | Mapping[str, Any]) -> str:
    """The resolved configuration as YAML that loads back to the same values."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else dict(config)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def environment() -> dict[str, Any]:
    """Versions, machine and git state of the code: what someone needs to repeat a run."""
    versions = {}
    for name in _REPORTED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "argv": sys.argv[1:],
        "git": _git_state(),
    }


def _git_state() -> str | None:
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _lock(handle: IO[str], path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigError(
            f"{path}: another medcl process is writing here; wait for it or choose another out="
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
