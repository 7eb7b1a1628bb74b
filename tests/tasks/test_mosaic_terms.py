"""Terms that see the images of a batch as regions of mosaics (CLIM)."""

from __future__ import annotations

import pytest
import torch

from medcl.errors import ConfigError
from medcl.objectives.region_captions import region_captions
from medcl.tasks.alignment import AlignTask
from medcl.tasks.alignment_requirements import check_alignment
from medcl.tasks.seen import Seen
from medcl.views.mosaic import mosaics
from tests.tasks.alignments import config, task_of

TERM = {"objective": {"name": "pairwise_clip", "temperature": 0.1}, "between": ["radiograph", "report"], "mosaic": [2]}


def seen_by(task: AlignTask) -> Seen:
    return Seen(task.network, task.sampler.render(task.sampler.plan(0), "cpu"))


def test_it_is_the_contrast_of_regions_with_their_captions() -> None:
    task = task_of(config([TERM]))
    seen = seen_by(task)
    tiled = mosaics(seen.inputs("radiograph"), [2])
    assert len(tiled.images) == 3
    maps = task.network.sites("radiograph", task.network.encode("radiograph", tiled.images))
    expected = region_captions(maps, tiled.boxes, tiled.canvas, seen.codes("report"), temperature=0.1).loss
    torch.testing.assert_close(task._compute(task.terms[0], seen).loss, expected)
    whole = task_of(config([{**TERM, "mosaic": []}]))
    assert not torch.isclose(whole._compute(whole.terms[0], seen_by(whole)).loss, expected)


def test_what_is_left_over_stays_single_and_what_lacks_an_image_is_left_out() -> None:
    task = task_of(config([TERM]), lacking=("3", "7", "8"))
    seen = seen_by(task)
    regions = seen.regions("radiograph", 0, [2])
    absent = ~seen.present("radiograph")
    assert absent.sum() == 3
    assert not regions[absent].any()
    single = seen.present("radiograph").nonzero().flatten()[-1]
    torch.testing.assert_close(regions[single], seen.codes("radiograph")[single])
    task._compute(task.terms[0], seen).loss.backward()
    assert all(part.grad is not None for part in task.network.encoders["radiograph"].parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mosaic": [2, 3, 4]}, r"mosaics of \[2, 3, 4\] take 29 images, but batch is 12"),
        ({"between": ["report", "report"]}, "mosaic: for objectives of vectors"),
        ({"objective": {"name": "word_regions"}}, "mosaic: for objectives of vectors"),
        ({"mosaic": [1]}, "greater than or equal to 2"),
    ],
)
def test_what_it_cannot_tile_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_alignment(config([{**TERM, **changes}]))
