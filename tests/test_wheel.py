"""A plain installation of the wheel brings the configurations and pipelines along."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_configurations_travel_in_the_wheel(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("medcl-*.whl")
    installed = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    program = (
        "import medcl, sys; from medcl.config.shipped import find_config, shipped_configs\n"
        f"assert medcl.__file__.startswith({str(installed)!r}), medcl.__file__\n"
        "for path in shipped_configs(): print(path.relative_to(medcl.__path__[0]))\n"
        "find_config('pipelines/demo.yaml')\n"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r})\n{program}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {
        str(path.relative_to(ROOT)) for folder in ("configs", "pipelines") for path in (ROOT / folder).rglob("*.yaml")
    }
    assert {line.removeprefix("shipped/") for line in done.stdout.split()} == expected
