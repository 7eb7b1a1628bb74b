"""The page of `medcl view`: what it holds, what it refuses, and what a real browser shows of it."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.errors import ConfigError, DataError, MedclError
from medcl.files import write_json
from medcl.modalities.volume import Volume
from medcl.reporting import niivue
from medcl.reporting.shown_volume import CT_WINDOW, display_window, halved, shown_volume, stored
from medcl.reporting.viewer import write_view
from medcl.types import Array

needs_viewer = pytest.mark.skipif(
    importlib.util.find_spec("ipyniivue") is None, reason='the viewer is not installed: pip install "medcl[view]"'
)

MEASURE = """
addEventListener("load", async () => {
  const viewer = await medclView;
  const look = () => {
    viewer.drawScene();
    const copy = document.createElement("canvas");
    copy.width = viewer.canvas.width; copy.height = viewer.canvas.height;
    const pen = copy.getContext("2d", { willReadFrequently: true });
    pen.drawImage(viewer.canvas, 0, 0);
    const pixels = pen.getImageData(0, 0, copy.width, copy.height).data;
    let dark = 0, bright = 0, coloured = 0, hash = 0;
    for (let at = 0; at < pixels.length; at += 4) {
      const [low, high] = [Math.min(...pixels.subarray(at, at + 3)), Math.max(...pixels.subarray(at, at + 3))];
      dark += high < 10; bright += low > 150; coloured += high - low > 40;
      hash = (hash * 31 + pixels[at] + 7 * pixels[at + 1] + 13 * pixels[at + 2]) | 0;
    }
    const share = (count) => 4 * count / pixels.length;
    return { dark: share(dark), bright: share(bright), coloured: share(coloured), hash };
  };
  const found = { looks: {}, words: document.getElementById("place").textContent };
  for (const view of ["planes", "axial", "coronal", "sagittal", "render"]) {
    document.querySelector(`[data-view=${view}]`).click();
    found.looks[view] = look();
  }
  document.querySelector("[data-view=axial]").click();
  const toggles = [...document.querySelectorAll("[data-mask]")];
  for (const [number, toggle] of toggles.entries()) { toggle.click(); found.looks[`without ${number}`] = look(); }
  toggles[0].click();
  const opacity = document.getElementById("opacity");
  opacity.value = 1; opacity.dispatchEvent(new Event("input")); found.looks.opaque = look();
  const high = document.getElementById("high");
  high.value = 2 * high.value; high.dispatchEvent(new Event("change")); found.looks.darker = look();
  const [volume, mask] = viewer.volumes;
  found.affine = volume.hdr.affine; found.dims = volume.hdr.dims.slice(1, 4);
  found.value = volume.getValue(...volume.mm2vox(PLACE)); found.label = mask.getValue(...mask.mm2vox(PLACE));
  found.loaded = performance.getEntriesByType("resource").map((one) => one.name).filter((name) => !/^(data|blob):/.test(name));
  document.body.innerHTML = "<pre id=found></pre>"; document.getElementById("found").textContent = JSON.stringify(found);
});
"""


@dataclass(frozen=True)
class _Case:
    """A real volume with an oblique affine and text in its header, its truth, and a mask as `medcl predict` leaves it."""

    folder: Path
    volume: Path
    truth: Path
    prediction: Path
    voxels: Array
    labels: Array
    affine: Array


@pytest.fixture(scope="module")
def case(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> _Case:
    folder = tmp_path_factory.mktemp("patient_doe")
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix() @ np.diag([-0.9, 1.0, 1.1])
    affine[:3, 3] = (31.5, -40.25, 12.75)
    affine = affine.astype(np.float32).astype(np.float64)
    voxels, labels = (
        np.asanyarray(nib.load(hippocampus / kind / "hippocampus_004.nii.gz").dataobj)
        for kind in ("imagesTr", "labelsTr")
    )
    (folder / "masks").mkdir()
    files = {"scan.nii.gz": voxels, "truth.nii.gz": labels, "masks/scan.nii.gz": np.roll(labels, 2, axis=0)}
    for name, data in files.items():
        image = nib.Nifti1Image(data, affine)
        image.header["descrip"] = b"DOE^JANE 1960"
        nib.save(image, folder / name)
    write_json(folder / "masks" / "run.json", {"command": "predict", "labels": {"1": "anterior <part>", "2": "back"}})
    paths = [folder / name for name in files]
    return _Case(folder, *paths, voxels, np.asarray(labels), affine)


@pytest.fixture(scope="module")
def page(case: _Case) -> Path:
    masks = [(None, case.truth), (None, case.prediction)]
    return write_view(case.volume, masks, out=case.folder / "scan.view.html").path


def _embedded(page: Path, part: str) -> nib.Nifti1Image:
    found = re.search(rf'<script type="text/plain" id="{part}">([^<]*)</script>', page.read_text())
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(found[1])))


@needs_viewer
def test_the_page_holds_the_same_voxels_and_grid_and_nothing_else_of_the_files(case: _Case, page: Path) -> None:
    volume, truth = _embedded(page, "volume"), _embedded(page, "mask-0")
    values = np.asanyarray(volume.dataobj)
    low, high = np.percentile(case.voxels, (0.5, 99.5))
    assert np.abs(values - case.voxels).max() <= (high - low) / 512
    np.testing.assert_array_equal(volume.affine, case.affine)
    np.testing.assert_array_equal(np.asanyarray(truth.dataobj), case.labels)
    np.testing.assert_array_equal(truth.affine, case.affine)
    assert truth.header["intent_code"] == 1002
    for image in (volume, truth):
        assert b"DOE" not in image.header.binaryblock
    text = page.read_text()
    plain = re.sub(r'<script type="text/plain".*?</script>', "", text)
    assert not re.search(r"https?:|(src|href)\s*=\s*[\"'](?!data:)|@import|url\(", plain)
    for private in ("doe", str(case.folder), "masks/", ".nii.gz"):
        assert private not in plain.lower()
    assert "anterior &lt;part&gt;" in plain
    assert "prediction" in plain
    assert "Redistributions in binary form" in plain


@needs_viewer
def test_a_browser_shows_the_volume_and_toggles_masks(case: _Case, page: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here; install it to look at pages in a browser")
    index = np.argwhere(case.labels == 2)[5]
    place = (case.affine @ [*index, 1])[:3].tolist()
    script = f"<script>{MEASURE.replace('PLACE', json.dumps(place))}</script>"
    target = tmp_path / "page.html"
    target.write_text(page.read_text().replace("</body>", f"{script}</body>"))
    found = _shown(browser, target, tmp_path / "profile")
    looks = found["looks"]
    for view in ("planes", "axial", "coronal", "sagittal"):
        assert looks[view]["dark"] > 0.05, "no background"
        assert looks[view]["bright"] > 0.02, "no tissue"
    assert looks["render"]["dark"] < 0.99
    assert looks["axial"]["coloured"] > looks["without 0"]["coloured"] > looks["without 1"]["coloured"]
    assert looks["axial"]["coloured"] < 0.1, "a mask colours what it does not mark"
    assert len({look["hash"] for look in looks.values()}) == len(looks), "something changed nothing"
    assert looks["darker"]["bright"] < looks["opaque"]["bright"]
    assert found["loaded"] == []
    assert found["dims"] == list(case.voxels.shape)
    np.testing.assert_allclose(found["affine"], case.affine, atol=1e-4)
    assert found["value"] == pytest.approx(float(case.voxels[tuple(index)]), abs=1)
    assert found["label"] == 2
    assert re.match(r"[\d.]+ mm (left|right), .* value [\d.]+ . truth: label [12]", found["words"])


def _shown(browser: str, page: Path, profile: Path) -> dict[str, Any]:
    """What the script in the page found; the console must stay empty."""
    shown = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={profile}",
            "--window-size=900,700", "--virtual-time-budget=20000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    console = [line for line in shown.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', shown.stdout, re.DOTALL)[1].replace("&amp;", "&"))


@needs_viewer
def test_problems_are_one_line_and_leave_no_page(case: _Case, tmp_path: Path) -> None:
    moved = case.affine.copy()
    moved[0, 3] += 3
    nib.save(nib.Nifti1Image(np.asarray(case.labels), moved), tmp_path / "moved.nii.gz")
    target = tmp_path / "page.html"
    with pytest.raises(DataError, match=r"moved.nii.gz: its grid is off that of its image .* by up to 3 mm"):
        write_view(case.volume, [(None, tmp_path / "moved.nii.gz")], out=target)
    with pytest.raises(DataError, match="a mask has a few labels"):
        write_view(case.truth, [(None, _noise(tmp_path / "noise.nii.gz", case))], out=target)
    with pytest.raises(ConfigError, match="larger one"):
        write_view(case.volume, out=target, limit_mb=0.5)
    assert not target.exists()
    target.write_text("<html>mine</html>")
    with pytest.raises(ConfigError, match="no page of medcl view"):
        write_view(case.volume, out=target)
    assert target.read_text() == "<html>mine</html>"


def _noise(path: Path, case: _Case) -> Path:
    values = np.arange(case.labels.size, dtype=np.int32).reshape(case.labels.shape)
    nib.save(nib.Nifti1Image(values, case.affine), path)
    return path


def test_without_the_package_it_says_what_to_install(case: _Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(niivue, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["view", str(case.volume), "--no-open"])
    assert isinstance(done.exception, MedclError)
    (problem,) = done.exception.problems
    assert 'pip install "medcl[view]"' in problem


@needs_viewer
def test_the_command_writes_its_page_again_and_halves_what_is_too_large(
    case: _Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["view", str(case.volume), f"by hand={case.truth}", "--no-open"]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert re.search(r"written: scan.view.html \(1\.\d MB\)", done.output)
    text = Path("scan.view.html").read_text()
    assert "by hand" in text
    limit = (len(text) - 30_000) / 1e6
    done = CliRunner().invoke(app, [*words, "--limit", str(limit)], catch_exceptions=False)
    note = "shown at a lower resolution: 1.8 x 2 x 2.2 mm a voxel where the file has 0.9 x 1 x 1.1 mm"
    assert note in done.output
    assert note in Path("scan.view.html").read_text()


@needs_viewer
def test_a_picture_is_one_slice(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)).save(tmp_path / "chest.png")
    text = write_view(tmp_path / "chest.png", out=tmp_path / "chest.html").path.read_text()
    settings = json.loads(re.search(r'id="settings">(.*?)</script>', text)[1])
    assert (settings["plane"], settings["picture"]) == ("axial", True)
    assert "data-view=" not in text.split('<script type="module">')[0]


def test_voxels_take_the_smallest_type_that_shows_the_same() -> None:
    draw = np.random.default_rng(0)
    whole = draw.integers(-1000, 3000, (6, 7, 8)).astype(np.float32)
    for data, kind in ((whole, np.int16), (whole.clip(0, 255), np.uint8), ((whole + 1000) * 12, np.uint16)):
        voxels, slope, offset = stored(data, (0, 1))
        assert (voxels.dtype, slope, offset) == (kind, 1, 0)
        np.testing.assert_array_equal(voxels, data)
    values = draw.normal(0, 1, (9, 9, 9)).astype(np.float32)
    voxels, slope, offset = stored(values, (-2, 2))
    assert voxels.dtype == np.int16
    np.testing.assert_allclose(voxels * slope + offset, values, atol=slope)
    values[0, 0, 0] = 1e6
    assert stored(values, (-2, 2))[0].dtype == np.float32


def test_windows_of_ct_and_of_anything_else() -> None:
    draw = np.random.default_rng(1)
    body = np.where(draw.random((1, 20, 20, 20)) < 0.5, -1000, draw.normal(50, 40, (1, 20, 20, 20))).astype(np.int16)
    assert display_window(Volume(body, np.eye(4))) == CT_WINDOW
    mri = draw.gamma(2, 100, (1, 20, 20, 20)).astype(np.float32)
    mri[0, 0, 0, :2] = np.nan, np.inf
    low, high = display_window(shown_volume(Volume(mri, np.eye(4)), 1))
    assert (low, high) == pytest.approx(np.percentile(mri[np.isfinite(mri)], (0.5, 99.5)), rel=0.05)
    assert display_window(Volume(np.full((1, 4, 4, 4), 7.0), np.eye(4))) == (7, 8)


def test_halving_keeps_places() -> None:
    """A linear ramp in world coordinates stays that ramp; a coarse axis is left alone."""
    affine = np.array([[0, -0.5, 0, 3], [0.5, 0, 0, -2], [0, 0, 2.5, 8], [0, 0, 0, 1.0]])
    index = np.stack(np.meshgrid(np.arange(8), np.arange(6), np.arange(5), indexing="ij"), axis=-1)
    ramp = (index @ affine[:3, :3].T + affine[:3, 3]) @ [1, 10, 100]
    small = halved(Volume(ramp[None].astype(np.float32), affine))
    assert small.data.shape == (1, 4, 3, 5)
    index = np.stack(np.meshgrid(*map(np.arange, small.data.shape[1:]), indexing="ij"), axis=-1)
    expected = (index @ small.affine[:3, :3].T + small.affine[:3, 3]) @ [1, 10, 100]
    np.testing.assert_allclose(small.data[0], expected, rtol=1e-6)
