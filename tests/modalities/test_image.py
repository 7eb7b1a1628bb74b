"""2D images: grey values as they are shown, classes of labels, masks on the same pixels; every other kind is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medcl.errors import DataError
from medcl.modalities.image import UNKNOWN_PIXELS, files_of
from medcl.modalities.volume import read_header, read_label, read_volume, write_mask, write_scores
from medcl.preparation.apply import prepare
from medcl.preparation.recipe import Recipe
from medcl.preparation.restore import Slab, restore

WIDTH, HEIGHT = 7, 5


def shown(dtype: type = np.uint8) -> np.ndarray:
    """Rows and columns of a picture without any symmetry."""
    top = np.iinfo(dtype).max
    picture = np.arange(HEIGHT * WIDTH, dtype=dtype).reshape(HEIGHT, WIDTH)
    picture[1, 5] = top
    return picture


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_x_runs_right_and_y_down_in_the_stored_depth(tmp_path: Path, name: str, dtype: type) -> None:
    path = save(tmp_path / name, shown(dtype))
    volume = read_volume(path)
    assert volume.data.shape == (1, WIDTH, HEIGHT, 1)
    assert volume.data.dtype == dtype
    np.testing.assert_array_equal(volume.data[0, :, :, 0], shown(dtype).T)
    assert volume.data[0, 5, 1, 0] == np.iinfo(dtype).max
    header = read_header(path)
    assert (header.shape, header.dtype, header.format) == ((WIDTH, HEIGHT, 1), np.dtype(dtype), "image")
    assert (header.orientation, header.spacing) == ("LPS", (1.0, 1.0, 1.0))
    assert "1 mm" in UNKNOWN_PIXELS
    assert files_of(path) == (path,)


def test_a_grey_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8)
    volume = read_volume(save(tmp_path / "a.jpg", smooth, quality=95))
    assert np.abs(volume.data[0, :, :, 0].astype(int) - smooth.T).max() <= 3


def test_colour_is_grey_only_where_its_channels_are_equal(tmp_path: Path) -> None:
    grey = np.stack([shown()] * 3, axis=-1)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a.png", grey)).data[0, :, :, 0], shown().T)
    colour = grey.copy()
    colour[2, 3, 1] += 1
    with pytest.raises(DataError, match=r"b\.png: is in colour .*store it as grey"):
        read_volume(save(tmp_path / "b.png", colour))
    palette = Image.fromarray((shown() > 20).astype(np.uint8))
    palette.putpalette([10, 10, 10, 200, 200, 200])
    palette.save(tmp_path / "p.png")
    assert set(np.unique(read_volume(tmp_path / "p.png").data)) == {10, 200}


def test_alpha_must_be_opaque(tmp_path: Path) -> None:
    pixels = np.stack([*[shown()] * 3, np.full_like(shown(), 255)], axis=-1)
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a.png", pixels)).data[0, :, :, 0], shown().T)
    pixels[0, 0, 3] = 128
    with pytest.raises(DataError, match=r"b\.png: has transparent pixels"):
        read_volume(save(tmp_path / "b.png", pixels))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.jpg", np.tile(shown(), (20, 20))).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[200:220] = b"\0" * 20
    (tmp_path / "damaged.png").write_bytes(damaged)
    (tmp_path / "text.png").write_text("no image")
    for name in ("half.jpg", "half.png", "damaged.png", "text.png"):
        with pytest.raises(DataError, match=rf"{name}: truncated, damaged or no image") as caught:
            read_volume(tmp_path / name)
        assert len(caught.value.problems) == 1
    with pytest.raises(DataError, match=r"missing\.png: no such file"):
        read_volume(tmp_path / "missing.png")


def test_stacks_turned_pictures_and_deep_colour_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(shown()), Image.fromarray(shown())]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"stack\.tif: has 2 pages"):
        read_header(tmp_path / "stack.tif")
    turned = Image.Exif()
    turned[0x0112] = 6
    with pytest.raises(DataError, match=r"EXIF orientation 6"):
        read_header(save(tmp_path / "turned.jpg", shown(), exif=turned))
    with pytest.raises(DataError, match=r"CMYK"):
        read_header(_converted(tmp_path / "print.tif", "CMYK"))


def _converted(path: Path, mode: str) -> Path:
    Image.fromarray(shown()).convert(mode).save(path)
    return path


def test_labels_of_0_and_255_are_two_classes_and_others_are_class_numbers(tmp_path: Path) -> None:
    mask = np.where(shown() > 20, 255, 0).astype(np.uint8)
    labels, affine = read_label(save(tmp_path / "two.png", mask))
    np.testing.assert_array_equal(labels[:, :, 0], (shown() > 20).T)
    np.testing.assert_array_equal(affine, read_header(tmp_path / "two.png").affine)
    np.testing.assert_array_equal(read_label(save(tmp_path / "colour.png", np.stack([mask] * 3, axis=-1)))[0], labels)
    np.testing.assert_array_equal(read_label(save(tmp_path / "bits.png", mask > 0))[0], labels)
    several, _ = read_label(save(tmp_path / "several.png", (shown() % 4).astype(np.uint8)))
    np.testing.assert_array_equal(several[:, :, 0], (shown() % 4).T)
    assert read_label(save(tmp_path / "none.png", np.zeros_like(mask)))[0].max() == 0


@pytest.mark.parametrize("values", [(0, 128, 255), (0, 1, 255), (0, 85, 170), (0, 64)])
def test_shades_are_no_labels(tmp_path: Path, values: tuple[int, ...]) -> None:
    label = np.array(values, np.uint8)[np.arange(HEIGHT * WIDTH) % len(values)].reshape(HEIGHT, WIDTH)
    with pytest.raises(DataError, match=rf"grey values {', '.join(map(str, values))} are no label"):
        read_label(save(tmp_path / "a.png", label))


def test_a_jpeg_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a JPEG does not keep label values"):
        read_label(save(tmp_path / "a.jpg", shown()))


@pytest.mark.parametrize("classes", [2, 5])
def test_a_mask_lies_on_the_pixels_of_its_image(tmp_path: Path, classes: int) -> None:
    image = save(tmp_path / "a.png", shown())
    labels = (read_volume(image).data[0] % classes).astype(np.int16)
    write_mask(tmp_path / "mask.png", labels, like=image)
    stored = Image.open(tmp_path / "mask.png")
    assert stored.size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(np.array(stored), shown() % classes)  # a palette image: its numbers
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png")[0], labels)
    if classes == 2:  # and for those who look at the colours
        np.testing.assert_array_equal(np.array(stored.convert("RGB"))[..., 0], 255 * (shown() % 2))
    write_mask(tmp_path / "mask.nii.gz", labels, like=image)
    again, affine = read_label(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_allclose(affine, read_header(image).affine)


def test_a_png_mask_needs_an_image_of_its_shape_and_few_classes(tmp_path: Path) -> None:
    image = save(tmp_path / "a.png", shown())
    with pytest.raises(DataError, match="do not fit the grid"):
        write_mask(tmp_path / "m.png", np.zeros((HEIGHT, WIDTH, 1), int), like=image)
    with pytest.raises(DataError, match="label 64"):
        write_mask(tmp_path / "m.png", np.full((WIDTH, HEIGHT, 1), 64), like=image)
    with pytest.raises(DataError, match=r"written as \.nii"):
        write_scores(tmp_path / "s.png", np.zeros((2, WIDTH, HEIGHT, 1)), like=image)
    assert not list(tmp_path.glob("m*"))


@pytest.mark.parametrize("size", [(8, 6, 1), (5, 5, 1), (4, 16, 1)])
def test_preparing_and_restoring_keeps_every_pixel_in_its_place(tmp_path: Path, size: tuple[int, int, int]) -> None:
    """Reorientation to RAS turns the picture by 180 degrees; a centre crop cuts or pads it. Both are undone."""
    volume = read_volume(save(tmp_path / "a.png", shown()))
    bright = (volume.data[0] > 17).astype(np.uint8)
    recipe = Recipe(spacing=(1, 1, None), patch=size, channels=("grey",), crop="centre", intensity={"name": "minmax"})
    prepared = prepare(volume, recipe, bright)
    assert prepared.data.shape == (1, *size)
    assert prepared.label is not None
    scores = np.stack([1.0 - prepared.label, prepared.label])
    restored = restore([Slab(2, 0, scores.astype(np.float32))], prepared).labels
    kept = np.zeros_like(bright)
    # of an odd difference the lower rest, in RAS order, is the smaller one; x and y are turned round
    first = [(have - want) // 2 for have, want in zip((WIDTH, HEIGHT), size[:2], strict=True)]
    window = tuple(
        slice(max(have - at - want, 0), min(have - at, have))
        for have, at, want in zip((WIDTH, HEIGHT), first, size[:2], strict=True)
    )
    kept[window] = bright[window]
    np.testing.assert_array_equal(restored, kept)
