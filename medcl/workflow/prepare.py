"""`medcl prepare`, and the store that training opens: fingerprint, recipe, build."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from medcl.config.data import DataConfig, RecipeConfig
from medcl.config.prepare import PrepareConfig
from medcl.config.shard import Shard
from medcl.errors import DataError
from medcl.files import parse_json, write_json, write_text
from medcl.preparation.build import build_store
from medcl.preparation.fingerprint import Fingerprint, fingerprint
from medcl.preparation.recipe import Recipe, derive_recipe
from medcl.preparation.store import ARRAYS, FORMAT, INDEX, Store, read_index, rows_of
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import parts_of
from medcl.reporting.progress import progress_bar
from medcl.runs import RunFolder
from medcl.workflow.shards import (
    AGREED,
    AGREEING,
    beside_shards,
    forget_shards,
    in_turn,
    shard_run,
    shards_folder,
    shards_in,
)

log = logging.getLogger(__name__)

_BUILDING = ".building"
"""Who builds in a store holds this file of it."""


Announce = Callable[[Fingerprint, Recipe], None]


def prepare(config: PrepareConfig, announce: Announce | None = None) -> Store:
    """Prepare every record of ``config.data`` into the store ``config.out``; what is there already is kept.

    The recipe follows from the fingerprint of all records but those that ``data.test`` and ``data.validation`` hold
    out, and ``announce`` is told both before the long part. Raises DataError at the end, naming every record that
    could not be prepared.

    With ``config.shard`` only that share of the records, into a store of the shard's own; the call without one that follows makes
    all of them one store. Raises ConfigError where another process is in the way.
    """
    if config.shard is not None:
        return _prepare_shard(config, config.shard, announce)
    with RunFolder(config.out).started("prepare", config, resume=True) as run:
        manifest = open_data(config.data.path, config.data.labels)
        recipe = _agreed(config, manifest) or _derived(config, manifest, announce)
        write_text(run.path / "recipe.yaml", recipe.to_yaml())
        _gather_arrays(config.out)
        store = _build(manifest, recipe, config.out, config.workers)
        forget_shards(run)
        run.record(data_digest=manifest.digest, records=len(manifest), recipe_digest=recipe.digest)
    return store


def agree_on_recipe(config: PrepareConfig, announce: Announce | None = None) -> Recipe:
    """The recipe of ``config``, which the shards of ``config.out`` share: one process derives it, others wait for it."""
    manifest = open_data(config.data.path, config.data.labels)
    with in_turn(shards_folder(config.out) / AGREEING):
        recipe = _agreed(config, manifest)
        if recipe is None:
            recipe = _derived(config, manifest, announce)
            write_json(
                _agreement(config), {"asked": _asked(config, manifest), "recipe": recipe.model_dump(mode="json")}
            )
    return recipe


def _prepare_shard(config: PrepareConfig, shard: Shard, announce: Announce | None) -> Store:
    with beside_shards(config.out), shard_run(config.out, shard).started("prepare", config, resume=True) as run:
        recipe = agree_on_recipe(config, announce)
        manifest = open_data(config.data.path, config.data.labels)
        mine = manifest.select(shard.share(manifest.ids))
        _take_over(config.out, run.path, mine.ids)
        store = _build(mine, recipe, run.path, config.workers)
        run.record(data_digest=manifest.digest, records=len(mine), recipe_digest=recipe.digest)
    return store


def _take_over(out: Path, folder: Path, ids: Sequence[str]) -> None:
    """Link what the store ``out`` holds of the records ``ids`` into that of a shard, which then finds it prepared."""
    index = read_index(out)
    if index is None:
        return
    (folder / ARRAYS).mkdir(parents=True, exist_ok=True)
    rows = rows_of(index)
    for key in {rows[record_id].key for record_id in ids if record_id in rows}:
        link = folder / ARRAYS / key
        if not os.path.lexists(link):
            link.symlink_to(os.path.relpath(out / ARRAYS / key, link.parent), target_is_directory=True)
    if read_index(folder) is None:
        write_json(folder / INDEX, {**index, "records": {}})


def _gather_arrays(out: Path) -> None:
    """Move the arrays of all shards into the store ``out``, and with them what is known of the source files."""
    seen, recipe = {}, None
    for shard in shards_in(out):
        for arrays in (shard.path / ARRAYS).glob("[!.]*"):
            target = out / ARRAYS / arrays.name
            if not arrays.is_symlink() and not target.exists():
                target.parent.mkdir(exist_ok=True)
                arrays.rename(target)
        if (index := read_index(shard.path)) is not None:
            seen.update(index["seen"])
            recipe = index["recipe"]
    if recipe is None:
        return
    with in_turn(out / _BUILDING):
        index = read_index(out) or {"format": FORMAT, "recipe": recipe, "records": {}, "seen": {}}
        write_json(out / INDEX, {**index, "seen": {**index["seen"], **seen}})


def _agreed(config: PrepareConfig, manifest: Manifest) -> Recipe | None:
    """The recipe that the shards of ``config.out`` share, where it was derived from what ``config`` says."""
    try:
        found = parse_json(_agreement(config).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Recipe.model_validate(found["recipe"]) if found["asked"] == _asked(config, manifest) else None


def _agreement(config: PrepareConfig) -> Path:
    return shards_folder(config.out) / AGREED


def _asked(config: PrepareConfig, manifest: Manifest) -> str:
    """A digest of all that a recipe is derived from."""
    values = config.model_dump(mode="json", include={"data", "recipe"})
    return hashlib.sha256(json.dumps([values, manifest.digest]).encode()).hexdigest()


def _derived(config: PrepareConfig, manifest: Manifest, announce: Announce | None) -> Recipe:
    training = parts_of(manifest, config.data, labels=False).train
    found = _fingerprint(manifest.select(training), config.workers)
    recipe = derive_recipe(found, config.recipe, manifest.channel_names, manifest.label_names)
    if announce is not None:
        announce(found, recipe)
    return recipe


def store_for(
    data: DataConfig,
    recipe: RecipeConfig | Recipe,
    folder: Path | str,
    training_ids: Sequence[str],
    workers: int = 1,
) -> Store:
    """The store in ``folder`` with the training records prepared; whatever is missing is built.

    A finished ``recipe`` (of pretrained weights) is applied unchanged. Otherwise the recipe of a store that is there
    already and agrees with the settings holds; else it follows from the fingerprint of ``training_ids`` alone.
    Label names are the data set's own in any case. The store may hold more records than these.
    """
    folder = Path(folder)
    manifest = open_data(data.path, data.labels).select(training_ids)
    if isinstance(recipe, RecipeConfig):
        settled = _settled(folder, recipe, manifest)
        if settled is None:
            found = _fingerprint(manifest, workers)
            settled = derive_recipe(found, recipe, manifest.channel_names, manifest.label_names)
        recipe = settled
    elif manifest.channel_names and tuple(manifest.channel_names) != recipe.channels:
        log.warning(
            "the recipe was made for %s; these volumes hold %s",
            ", ".join(recipe.channels),
            ", ".join(manifest.channel_names),
        )
    if manifest.label_names:
        recipe = recipe.model_copy(update={"labels": dict(manifest.label_names)})
    return _build(manifest, recipe, folder, workers)


def _settled(folder: Path, config: RecipeConfig, manifest: Manifest) -> Recipe | None:
    """The recipe of the store in ``folder``, if there is one that does what ``config`` asks."""
    if not (folder / INDEX).is_file():
        return None
    recipe = Store(folder).recipe
    if manifest.channel_names and tuple(manifest.channel_names) != recipe.channels:
        return None
    have = {**recipe.model_dump(), **recipe.intensity.model_dump(), "intensity": recipe.intensity.name}
    asked = {key: getattr(config, key) for key in config.model_fields_set if getattr(config, key) is not None}
    if any(have.get(key) != value for key, value in asked.items()):
        log.info("%s: was prepared by another recipe than asked for; preparing anew beside it", folder)
        return None
    return recipe


def _fingerprint(manifest: Manifest, workers: int) -> Fingerprint:
    with progress_bar("looking at the volumes") as progress:
        return fingerprint(manifest, workers, progress)


def _build(manifest: Manifest, recipe: Recipe, folder: Path, workers: int) -> Store:
    with progress_bar("preparing") as progress:
        return build_store(manifest, recipe, folder, workers, progress)


def check_store(folder: Path | str) -> list[str]:
    """Read every byte of a store again; one line for each file that is not as it was written."""
    store = Store(folder)
    if not len(store):
        raise DataError(f"{folder}: the store is empty; prepare it first")
    return store.verify()
