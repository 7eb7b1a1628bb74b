"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medcl.errors import DataError


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it is moved over ``target`` in one step.

    The temporary keeps ``target``'s suffixes, for libraries that choose a format by suffix. On an exception
    the temporary is removed and ``target`` stays as it was. Raises DataError where the place cannot be written.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix="".join(target.suffixes[-2:]), dir=target.parent)
    except OSError as error:
        raise DataError(f"{target}: cannot write here ({error.strerror}); choose another output folder") from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        _match_umask(part)
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(part, target)
    except OSError as error:
        raise DataError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside ``target``; on success it takes the place of ``target``, on an exception it is removed."""
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=target.parent))
    except OSError as error:
        raise DataError(f"{target}: cannot write here ({error.strerror}); choose another output folder") from error
    try:
        yield part
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(target: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``target`` atomically."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def write_json(target: Path | str, value: Any, default: Callable[[Any], Any] = str) -> None:
    """Write ``value`` as indented JSON to ``target`` atomically."""
    write_text(target, json.dumps(value, indent=2, default=default) + "\n")


def _match_umask(path: Path) -> None:
    """mkstemp makes files private; give them the mode an ordinary ``open`` would."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
