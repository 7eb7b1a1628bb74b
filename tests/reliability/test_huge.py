"""A volume larger than memory should have to be: its header, what `medcl inspect` needs of it, and a view of its prepared array."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from bad_input import Medcl, write_scan

_MEASURED = """
import json, resource, sys
from pathlib import Path
import numpy as np
from medcl.modalities.facts import read_facts
from medcl.modalities.volume import read_header
path = Path(sys.argv[1])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
read_facts(Path(sys.argv[2]), "image")  # what is set up on first use
before = peak()
shape = read_header(path).shape
header = peak() - before
facts = read_facts(path, "image")
print(json.dumps({"shape": shape, "header": header, "facts": peak() - before, "values": {str(k): v for k, v in facts.values.items()},
                  "error": facts.error}))
"""


def _sparse(path: Path, shape: tuple[int, int, int]) -> Path:
    """An int16 NIfTI of zeros that takes no place on the disk."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.diag([0.7, 0.7, 1, 1]), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with open(path, "wb") as stream:
        stream.write(header.binaryblock)
        stream.truncate(352 + 2 * int(np.prod(shape)))
    return path


def _measured(path: Path, small: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(path), str(small)], capture_output=True, encoding="utf-8", timeout=280
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "shape",
    [(512, 512, 300), pytest.param((1024, 1024, 1500), marks=[pytest.mark.slow, pytest.mark.study])],
    ids=["157 MB", "3 GB"],
)
def test_looking_at_a_volume_takes_the_memory_of_a_slab(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    found = _measured(_sparse(tmp_path / "huge.nii", shape), _sparse(tmp_path / "small.nii", (8, 8, 8)))
    assert found["error"] is None
    assert tuple(found["shape"]) == shape  # type: ignore[arg-type]
    assert found["values"] == {"0": int(np.prod(shape))}
    assert found["header"] < 4  # type: ignore[operator]
    assert found["facts"] < 150, found  # type: ignore[operator]


_VIEWED = """
import resource, sys
import numpy as np
from medcl.config.views import ViewsConfig
from medcl.preparation.store import Store
from medcl.views.sampler import ViewSampler
store = Store(sys.argv[1])
sampler = ViewSampler(store, store.ids, ViewsConfig(slots=1, spatial=None, intensity=None), patch=(16, 16, 16), batch=1, seed=0, spatial_dims=3)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert store.open(store.ids[0]).data.shape == (1, 1024, 1024, 1500)
view = sampler.render(sampler.plan(0), "cpu")[0]
print(view.data.shape[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_view_of_a_huge_prepared_volume_takes_the_memory_of_the_view(tmp_path: Path, medcl: Medcl) -> None:
    """The prepared array of 1024 x 1024 x 1500 voxels is 6 GB of float32, of zeros that take no place on the disk; it is mapped and not read."""
    write_scan(tmp_path / "scans" / "a.nii.gz", (24, 24, 24))
    assert medcl("prepare", tmp_path / "scans", "--out", tmp_path / "store").code == 0
    (array,) = (tmp_path / "store" / "arrays").glob("*/data.npy")
    array.unlink()
    np.lib.format.open_memmap(array, "w+", np.float32, (1, 1024, 1024, 1500)).flush()
    done = subprocess.run(
        [sys.executable, "-c", _VIEWED, str(tmp_path / "store")], capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, done.stderr
    side, kibibytes = map(int, done.stdout.split())
    assert side == 16
    assert kibibytes < 200 << 10
