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

_PART = ".part-"


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success it is moved over ``target`` in one step.

    The temporary keeps ``target``'s suffixes, for libraries that choose a format by suffix. On an exception
    the temporary is removed and ``target`` stays as it was. Raises DataError where the place cannot be written.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PART, suffix="".join(target.suffixes[-2:]), dir=target.parent)
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
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=target.parent))
    except OSError as error:
        raise DataError(f"{target}: cannot write here ({error.strerror}); choose another output folder") from error
    try:
        yield part
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    except OSError as error:
        raise DataError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(target: Path | str, text: str) -> None:
    """Write ``text`` (UTF-8) to ``target`` atomically."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


def parse_json(text: str) -> Any:
    """The value of a JSON text from outside. Raises ValueError where it is none, and where it nests too deeply to be one of ours."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_file(path: Path) -> bool:
    """Whether ``path`` is a file. No where its name is one that no file can have, for which the system has an error of its own."""
    try:
        return path.is_file()
    except OSError:
        return False


def remove_leftovers(folder: Path | str) -> None:
    """Remove what writers that were killed left in ``folder``. Only for who knows that nobody writes there now."""
    for part in Path(folder).glob(f"{_PART}*"):
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def write_json(target: Path | str, value: Any, default: Callable[[Any], Any] = str) -> None:
    """Write ``value`` as indented JSON to ``target`` atomically."""
    write_text(target, json.dumps(value, indent=2, default=default) + "\n")


def _match_umask(path: Path) -> None:
    """mkstemp makes files private; give them the mode an ordinary ``open`` would."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
