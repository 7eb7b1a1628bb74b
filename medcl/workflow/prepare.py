"""`medcl prepare`, and the store that training opens: fingerprint, recipe, build."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from medcl.config.data import DataConfig, RecipeConfig
from medcl.config.prepare import PrepareConfig
from medcl.errors import DataError
from medcl.files import write_text
from medcl.preparation.build import build_store
from medcl.preparation.fingerprint import Fingerprint, fingerprint
from medcl.preparation.recipe import Recipe, derive_recipe
from medcl.preparation.store import INDEX, Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import parts_of
from medcl.reporting.progress import progress_bar
from medcl.runs import RunFolder

log = logging.getLogger(__name__)


def prepare(config: PrepareConfig, announce: Callable[[Fingerprint, Recipe], None] | None = None) -> Store:
    """Prepare every record of ``config.data`` into the store ``config.out``; what is there already is kept.

    The recipe follows from the fingerprint of all records but those that ``data.test`` and ``data.validation`` hold
    out, and ``announce`` is told both before the long part. Raises DataError at the end, naming every record that
    could not be prepared.
    """
    with RunFolder(config.out).started("prepare", config, resume=True) as run:
        data = config.data
        manifest = open_data(data.path, data.labels)
        training = parts_of(manifest, data, labels=False).train
        found = _fingerprint(manifest.select(training), config.workers)
        recipe = derive_recipe(found, config.recipe, manifest.channel_names, manifest.label_names)
        if announce is not None:
            announce(found, recipe)
        write_text(run.path / "recipe.yaml", recipe.to_yaml())
        store = _build(manifest, recipe, config.out, config.workers)
        run.record(data_digest=manifest.digest, records=len(manifest), recipe_digest=recipe.digest)
    return store


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
