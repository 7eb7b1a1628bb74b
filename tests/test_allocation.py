"""The command keeps freed memory for its next arrays, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import sys
from pathlib import Path
import numpy as np
from medcl.cli.main import main

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

if sys.argv.pop() == "command":
    sys.argv[1:] = ["--version"]
    try:
        main()
    except SystemExit:
        pass
array = np.ones(2**24)
held = resident()
del array
print(held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to")
def test_an_array_that_the_command_frees_stays_with_its_process() -> None:
    given_back = {}
    for kind in ("command", "library"):
        ran = subprocess.run([sys.executable, "-c", MEASURE, kind], capture_output=True, text=True, check=True)
        given_back[kind] = float(ran.stdout.split()[-1])
    assert given_back["library"] > 120, "128 MiB, given back as glibc does"
    assert given_back["command"] < 8
