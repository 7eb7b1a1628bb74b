"""Which program a folder or a file of weights is from, and its import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import ConfigError, WeightsError
from medcl.preparation.recipe import channel_names
from medcl.weights.axes import turned
from medcl.weights.imports.config import ImageConfig, ImportConfig
from medcl.weights.imports.image import keep_image
from medcl.weights.imports.imported import Imported, about, input_channels
from medcl.weights.imports.names import FAMILIES
from medcl.weights.imports.nnssl import PLAN, import_nnssl
from medcl.weights.imports.nnunet import import_nnunet
from medcl.weights.imports.recipes import volume_recipe
from medcl.weights.imports.state import read_content, tensors_in
from medcl.weights.imports.volume import keep_volume


def import_weights(source: Path | str, out: Path | str, config: ImportConfig, *, fold: str = "0") -> Imported:
    """Write the weights of another program as medcl's own into ``out``.

    ``source``: a results folder of nnU-Net v2 (of which ``fold`` is taken) or its checkpoint, a checkpoint of nnssl, or a state dict
    (``.safetensors``, ``.pt`` ...) of the network that ``config.encoder`` names. Nothing is written where an error is raised: WeightsError
    where the file is damaged or holds code, or is of another network; ConfigError where ``config`` lacks what the file does not say.
    """
    source, out = Path(source), Path(out)
    content = {} if source.is_dir() else read_content(source)
    if source.is_dir() or ("network_weights" in content and "init_args" in content and PLAN not in content):
        _say_nothing_of(config, source, "plans.json says", ("encoder", "recipe", "channels", "axes"))
        return import_nnunet(source, out, fold=fold)
    with about(source):
        if PLAN in content:
            _say_nothing_of(config, source, f"its {PLAN} says", ("encoder", "axes"))
            return import_nnssl(source, content, config, out)
        return _import_state(source, content, config, out)


def _import_state(file: Path, content: Mapping[str, Any], config: ImportConfig, out: Path) -> Imported:
    encoder = config.encoder
    if encoder is None:
        raise ConfigError(
            f"encoder: {file} does not say which network it is of; add encoder.name={'|'.join(FAMILIES)} and its size, "
            "such as encoder.name=swin_unetr encoder.features=48"
        )
    state, notes = tensors_in(content, file)
    pictures = isinstance(encoder, ImageConfig) and encoder.dims == 2
    axes = config.axes or ("zyx" if pictures else "xyz")
    if axes == "zyx":
        if encoder.name == "swin_unetr":
            raise ConfigError("axes: zyx cannot be had for swin_unetr, whose layers know the axes apart; give axes=xyz")
        state = turned(state, tuple(reversed(range(encoder.dims))))
    renamed = FAMILIES[encoder.name].renamed(state)
    if renamed is None:
        some = ", ".join(list(state)[:3])
        raise WeightsError(
            f"{file}: has no tensors with the names of a {encoder.name} (it has {some} ...); name its network as encoder.name"
        )
    if isinstance(encoder, ImageConfig):
        found = keep_image(renamed, config, encoder, out, turned=axes == "zyx")
    else:
        count = input_channels(renamed.state, FAMILIES[encoder.name].stems)
        recipe, unsaid = volume_recipe(config.recipe, channel_names(config.channels, count), encoder.dims)
        found = keep_volume(renamed, encoder, recipe, out, origin="a state dict", notes=unsaid)
    return Imported(found.folder, found.report, (*notes, *found.notes))


def _say_nothing_of(config: ImportConfig, source: Path, why: str, keys: tuple[str, ...]) -> None:
    """Raise ConfigError where ``config`` sets one of ``keys``, which the source itself settles."""
    if given := [key for key in keys if key in config.model_fields_set]:
        raise ConfigError(f"{', '.join(given)}: {why} that already ({source}); take it out")
