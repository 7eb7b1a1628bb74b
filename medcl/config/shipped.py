"""The configurations and pipelines that come with medcl."""

from __future__ import annotations

from pathlib import Path

from medcl.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent


def shipped_folder() -> Path:
    """The folder that holds ``configs/`` and ``pipelines/``: inside the installed package, or the checkout."""
    inside = _PACKAGE / "shipped"
    return inside if inside.is_dir() else _PACKAGE.parent


def find_config(path: Path | str) -> Path:
    """``path`` itself, or the shipped file of that name (``configs/pretrain/hippocampus.yaml``)."""
    given = Path(path)
    if given.is_file():
        return given
    beside = shipped_folder() / given
    if not given.is_absolute() and ".." not in given.parts and beside.is_file():
        return beside
    known = sorted(str(p.relative_to(shipped_folder())) for p in shipped_configs())
    raise ConfigError(f"{path}: no such file, here or among those that come with medcl ({', '.join(known)})")


def shipped_configs() -> list[Path]:
    """Every YAML file that comes with medcl."""
    root = shipped_folder()
    return sorted([*root.glob("configs/*/*.yaml"), *root.glob("pipelines/**/*.yaml")])
