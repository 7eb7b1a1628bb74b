"""Keys of views: what a corruption may say, and where neither it nor small views have a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medcl.config.finetune import FinetuneConfig
from medcl.config.load import validate
from medcl.config.views import ViewsConfig
from medcl.errors import ConfigError


@pytest.mark.parametrize("name", ["blocks", "box", "swaps", "genesis", "turns"])
def test_every_corruption_is_chosen_by_its_name_alone(name: str) -> None:
    views = validate(ViewsConfig, {"corruption": {"name": name}})
    assert views.corruption is not None
    assert views.corruption.hides == (name in ("blocks", "box"))
    assert validate(ViewsConfig, views.model_dump(mode="json")) == views


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"corruption": {"name": "blok"}}, "corruption"),
        ({"corruption": {"name": "swaps", "ratio": 0.5}}, "corruption.*ratio"),
        ({"corruption": {"name": "blocks", "ratio": 1.5}}, "corruption.*ratio"),
        ({"masking": {"ratio": 0.6}}, "masking"),
        ({"local": {"slots": 0}}, "local.slots"),
        ({"local": {"scale": [1, 2]}, "spatial": None}, "local.scale changes the zoom of spatial, which is null"),
    ],
)
def test_wrong_keys_are_named(views: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(ViewsConfig, views)


@pytest.mark.parametrize("key", ["corruption", "local"])
@pytest.mark.parametrize("place", ["views", "unlabelled.views"])
def test_fine_tuning_sees_whole_views(key: str, place: str) -> None:
    views = {key: {"name": "genesis"} if key == "corruption" else {}}
    values: dict[str, Any] = {"out": Path("run"), "data": {"path": Path("scans")}}
    values |= {"views": views} if place == "views" else {"unlabelled": {"name": "cross_pseudo", "views": views}}
    with pytest.raises(ConfigError, match=f"{key} is for pretraining; leave it out here"):
        validate(FinetuneConfig, values)
