"""Seeded damage to small files, most of them real, and the readers that must either read the result or refuse it by name.

A mutant is known by its reader and number, and the same number is the same bytes: ``python tests/reliability/fuzz.py --reader dicom
--only 17`` shows one again.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Files = dict[str, bytes]
"""What a reader needs, by file name; the one to damage comes first."""


@dataclass(frozen=True)
class Reader:
    """``seeds``: the sound files.   ``read``: called with the path of the damaged one; gives a list where it reads the file in several ways,
    with the error of those that refuse it, the main one first.   ``mutate``: how its bytes are damaged."""

    seeds: tuple[Files, ...]
    read: Callable[[Path], object]
    mutate: Callable[[bytes, random.Random], bytes]


def mutant(reader: Reader, rng: random.Random) -> Files:
    """One seed with its first file damaged, one to three times over."""
    files = dict(rng.choice(reader.seeds))
    name = next(iter(files))
    for _ in range(rng.choice((1, 1, 2, 3))):
        files[name] = reader.mutate(files[name], rng)
    return files


def of_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Damage that any file can take: in transfer, on the disk, or by a hand that means harm."""
    if not raw:
        return rng.randbytes(rng.randrange(1, 64))
    return rng.choice(_BYTES)(raw, rng)


def of_headers(raw: bytes, rng: random.Random) -> bytes:
    """As :func:`of_bytes`, more often in the first 512 bytes, where binary formats keep sizes and types."""
    if rng.random() < 0.5 and len(raw) > 64:
        return of_bytes(raw[:512], rng) + raw[512:]
    return of_bytes(raw, rng)


def of_gzip(raw: bytes, rng: random.Random) -> bytes:
    """Damage inside the stream three times of four, else to the stream, whose checksum gives it away."""
    if rng.random() < 0.25:
        return of_bytes(raw, rng)
    try:
        inside = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error):
        return of_bytes(raw, rng)
    return gzip.compress(of_headers(inside, rng), 1, mtime=0)


def of_png(raw: bytes, rng: random.Random) -> bytes:
    """Damage inside a chunk with its checksum put right, three times of four."""
    chunks = _chunks(raw)
    if not chunks or rng.random() < 0.25:
        return of_bytes(raw, rng)
    place = rng.randrange(len(chunks))
    kind, data = chunks[place]
    chunks[place] = (kind, of_bytes(data, rng)) if rng.random() < 0.9 else (rng.randbytes(4), data)
    if rng.random() < 0.2:
        rng.shuffle(chunks)
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return raw[:8] + b"".join(packed)


def of_text(raw: bytes, rng: random.Random) -> bytes:
    """Damage to lines, words and numbers of a text, and now and then to its bytes."""
    return rng.choice(_TEXTS)(raw, rng) if raw and rng.random() < 0.85 else of_bytes(raw, rng)


def of_text_header(raw: bytes, rng: random.Random) -> bytes:
    """Damage to the text before an empty line or to its last line, with binary data behind it (NRRD, MetaImage)."""
    end = raw.find(b"\n\n") if raw.startswith(b"NRRD") else raw.find(b"LOCAL")
    if end < 0 or rng.random() < 0.25:
        return of_bytes(raw, rng)
    return of_text(raw[:end], rng) + raw[end:]


def of_safetensors(raw: bytes, rng: random.Random) -> bytes:
    """Damage to the JSON header, with its length put right half of the time, or anywhere."""
    size = int.from_bytes(raw[:8], "little")
    if rng.random() < 0.3 or size > len(raw):
        return of_headers(raw, rng)
    header = of_text(raw[8 : 8 + size], rng)
    length = len(header) if rng.random() < 0.8 else size
    return length.to_bytes(8, "little") + header + raw[8 + size :]


def _span(raw: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(raw))
    return start, min(len(raw), start + int(2 ** rng.uniform(0, 12)))


def _flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.choice((0, 1, rng.randrange(len(raw)), len(raw) - 1, max(0, len(raw) - rng.randrange(1, 64))))]


def _replace(raw: bytes, rng: random.Random) -> bytes:
    start, end = _span(raw, rng)
    fill = rng.choice((b"\x00", b"\xff", b"A", None))
    return raw[:start] + (rng.randbytes(end - start) if fill is None else fill * (end - start)) + raw[end:]


_NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-38, 3e38, -1e30, 1e308)


def _extreme(raw: bytes, rng: random.Random) -> bytes:
    """A field of 2, 4 or 8 bytes at an even place set to a number that nobody expects there."""
    order = rng.choice("<>")
    if rng.random() < 0.3:
        value = rng.choice(_FLOATS)
        packed = struct.pack(f"{order}d", value)
        if abs(value) < 1e38 or value != value or abs(value) == float("inf"):
            packed = rng.choice((packed, struct.pack(f"{order}f", value)))
    else:
        size = rng.choice((2, 4, 8))
        value = rng.choice(_NUMBERS) % (1 << 8 * size)
        packed = value.to_bytes(size, "little" if order == "<" else "big")
    start = rng.randrange(len(raw)) // 2 * 2
    return raw[:start] + packed + raw[start + len(packed) :]


def _duplicate(raw: bytes, rng: random.Random) -> bytes:
    start, end = _span(raw, rng)
    return raw[:end] + raw[start:end] * rng.choice((1, 2, 16)) + raw[end:]


def _remove(raw: bytes, rng: random.Random) -> bytes:
    start, end = _span(raw, rng)
    return raw[:start] + raw[end:]


def _swap(raw: bytes, rng: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_span(raw, rng), _span(raw, rng)))
    b = min(b, c)
    return raw[:a] + raw[c:d] + raw[b:c] + raw[a:b] + raw[d:]


_BYTES = (_flip, _flip, _cut, _replace, _extreme, _extreme, _duplicate, _remove, _swap)

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_WORD = re.compile(rb"[^\s,:;=\[\]{}\"']+")
_ODD_NUMBERS = (
    b"0", b"-1", b"1e400", b"-1e400", b"nan", b"inf", b"9" * 19, b"9" * 5000, b"1" * 10, b"65536", b"0x1F", b"1.5", b"", b"2001-99-99",
    "²".encode(), "٣".encode(), b"1_0", b"1:2:3", b"0b1", b"null", b"true",
)  # fmt: skip
_ODD_WORDS = (
    b"", b"null", b"[]", b"{}", b"~", b"\x00", b"\xff\xfe", b"\r", "\u2028".encode(), "\ufeff".encode(), b"../../etc/passwd", b"/dev/zero",
    b"/", b".", b"[" * 5000, b'{"a":' * 5000, b"[" * 30, b"&a *a", b"!!python/name:os.system", b"!!timestamp x", b"!!int x", b"!!float x",
    b"!!bool x", b"!!binary x", b"!!set [1]", b"<<", b"? [1]", b"- -", b'"', b"'", b"x" * 200_000, b"#", b"%", b"-", b"\t", b"true",
    b"[1, 2]", b"{a: 1}", "ü\u0301 x".encode(), b"con", b"12",
)  # fmt: skip


def _odd(pattern: re.Pattern[bytes], values: tuple[bytes, ...]) -> Callable[[bytes, random.Random], bytes]:
    def changed(raw: bytes, rng: random.Random) -> bytes:
        found = list(pattern.finditer(raw))
        if not found:
            return of_bytes(raw, rng)
        at = rng.choice(found)
        return raw[: at.start()] + rng.choice(values) + raw[at.end() :]

    return changed


def _lines(raw: bytes, rng: random.Random) -> bytes:
    lines = raw.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    change = rng.randrange(5)
    if change == 0:
        del lines[place]
    elif change == 1:
        lines.insert(other, lines[place])
    elif change == 2:
        lines[place], lines[other] = lines[other], lines[place]
    elif change == 3:
        lines[place] = rng.choice((b" ", b"  ", b"\t", b"- ", b"    ")) + lines[place]
    else:
        lines[place] = lines[place][: rng.randrange(len(lines[place]) + 1)]
    return b"\n".join(lines)


def _punctuation(raw: bytes, rng: random.Random) -> bytes:
    places = [place for place, byte in enumerate(raw) if byte in b",:;=[]{}\"'\n"]
    if not places:
        return of_bytes(raw, rng)
    place = rng.choice(places)
    return raw[:place] + rng.choice((b"", b",", b":", b"[", b"}", b'"', b"\n", b": {", b": [")) + raw[place + 1 :]


_TEXTS = (_odd(_NUMBER, _ODD_NUMBERS), _odd(_WORD, _ODD_WORDS), _odd(_WORD, _ODD_NUMBERS), _lines, _lines, _punctuation)


def _chunks(raw: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place + 12 <= len(raw):
        size = int.from_bytes(raw[place : place + 4], "big")
        found.append((raw[place + 4 : place + 8], raw[place + 8 : place + 8 + size]))
        place += 12 + size
    return found


def readers(shared: Path, scratch: Path) -> dict[str, Reader]:
    """Every reader of files from outside, with its seeds. ``scratch``: an empty folder in which seeds may be made."""
    import medcl.objectives  # noqa: F401  (announces the objectives that a pretraining may name)
    from medcl.config.finetune import FinetuneConfig
    from medcl.config.load import load_config
    from medcl.config.pretrain import PretrainConfig
    from medcl.modalities.dicom import find_series
    from medcl.modalities.ecg import read_ecg
    from medcl.modalities.image import read_label as read_image_label
    from medcl.modalities.radiograph import read_radiograph
    from medcl.modalities.volume import files_of, read_header, read_label, read_volume
    from medcl.records.layouts import open_data
    from medcl.runs import RunFolder
    from medcl.weights.read import read_sheet, read_tensors

    def volume(path: Path) -> object:
        return _all(path, read_volume, read_label, read_header, files_of)

    def series(path: Path) -> object:
        return _all(path, read_volume, read_header, find_series_around, open_data)

    def find_series_around(path: Path) -> object:
        return find_series(path.parent)

    def plane(path: Path) -> object:
        return _all(path, read_radiograph, lambda file: read_radiograph(file, window="stored"), open_data)

    def picture(path: Path) -> object:
        return _all(path, read_volume, read_header, read_image_label, read_radiograph)

    def manifest(path: Path) -> object:
        found = open_data(path)
        return found.digest, found.subject_numbers(found.ids)

    def run(path: Path) -> object:
        folder = RunFolder(path.parent)
        return _all(
            path, lambda _: folder.read_facts(), lambda _: folder.is_finished(), lambda _: folder.read_metrics()
        )

    root = Path(__file__).resolve().parents[2]
    finetunings = tuple(
        {file.name: file.read_bytes()} for file in sorted((root / "configs" / "finetune").glob("*.yaml"))[:4]
    )
    pretrainings = tuple(
        {file.name: file.read_bytes()} for file in sorted((root / "configs" / "pretrain").glob("*.yaml"))[:6]
    )
    data = shared / "data"
    return {
        "nifti": Reader(_nifti_seeds(data, scratch, ".nii"), volume, of_headers),
        "nifti.gz": Reader(_nifti_seeds(data, scratch, ".nii.gz"), volume, of_gzip),
        "itk": Reader(_itk_seeds(data, scratch), volume, of_text_header),
        "dicom series": Reader(_series_seeds(data), series, of_bytes),
        "dicom image": Reader(_plane_seeds(data), plane, of_bytes),
        "png": Reader(_png_seeds(data), picture, of_png),
        "jpeg and tiff": Reader(_jpeg_and_tiff_seeds(data), picture, of_headers),
        "ecg header": Reader(_ecg_seeds(data, ".hea"), read_ecg, of_text),
        "ecg signal": Reader(_ecg_seeds(data, ""), read_ecg, of_bytes),
        "manifest": Reader(_manifest_seeds(), manifest, of_text),
        "dataset.json": Reader(_dataset_seeds(), manifest, of_text),
        "finetune yaml": Reader(
            finetunings, lambda path: load_config(FinetuneConfig, path, ("out=o", "data.path=d")), of_text
        ),
        "pretrain yaml": Reader(
            pretrainings, lambda path: load_config(PretrainConfig, path, ("out=o", "data.path=d")), of_text
        ),
        "recipe.yaml": Reader(_sheet_seeds(), lambda path: read_sheet(path.with_name("weights.safetensors")), of_text),
        "safetensors": Reader(_tensor_seeds(scratch, ".safetensors"), read_tensors, of_safetensors),
        "checkpoint": Reader(_tensor_seeds(scratch, ".pt"), read_tensors, of_bytes),
        "run.json": Reader(_run_seeds(), run, of_text),
    }


def _all(path: Path, *reads: Callable[[Path], object]) -> list[object]:
    """What each of ``reads`` gives, or the MedclError by which it refuses."""
    from medcl.errors import MedclError

    values: list[object] = []
    for read in reads:
        try:
            values.append(read(path))
        except MedclError as error:
            values.append(error)
    return values


def _crop(data: Path):  # type: ignore[no-untyped-def]  # numpy is imported where it is used
    import nibabel
    import numpy as np

    source = nibabel.load(data / "hippocampus" / "imagesTr" / "hippocampus_004.nii.gz")
    return np.asarray(source.dataobj)[:12, :14, :10], source.affine


def _nifti_seeds(data: Path, scratch: Path, suffix: str) -> tuple[Files, ...]:
    import nibabel
    import numpy as np

    voxels, affine = _crop(data)
    scaled = nibabel.Nifti1Image(voxels.astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, -3)
    images = {
        "floats": nibabel.Nifti1Image(voxels.astype(np.float32), affine),
        "scaled": scaled,
        "label": nibabel.Nifti1Image((voxels % 3).astype(np.uint8), affine),
        "second": nibabel.Nifti2Image(voxels.astype(np.int16), affine),
    }
    found = []
    for name, image in images.items():
        path = scratch / f"{name}{suffix}"
        nibabel.save(image, path)
        found.append({path.name: path.read_bytes()})
    return tuple(found)


def _itk_seeds(data: Path, scratch: Path) -> tuple[Files, ...]:
    import numpy as np
    import SimpleITK as sitk

    voxels, _ = _crop(data)
    image = sitk.GetImageFromArray(voxels.astype(np.int16).T)
    found = []
    for number, (name, packed) in enumerate(
        (("a.mha", 0), ("a.mha", 1), ("a.nrrd", 0), ("a.nrrd", 1), ("a.mhd", 0), ("a.nhdr", 0))
    ):
        folder = scratch / f"itk{number}"
        folder.mkdir()
        sitk.WriteImage(image, str(folder / name), useCompression=bool(packed))
        beside = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != name}
        found.append({name: (folder / name).read_bytes(), **beside})
    return tuple(found)


def _series_seeds(data: Path) -> tuple[Files, ...]:
    files = {file.name: file.read_bytes() for file in sorted((data / "dicom-cases" / "oriented-slices").glob("*.dcm"))}
    return tuple({name: files[name], **files} for name in files)


def _plane_seeds(data: Path) -> tuple[Files, ...]:
    files = [
        *sorted((data / "dicom-cases" / "encodings").glob("*.dcm")),
        data / "dicom-cases" / "oriented-slices" / "0.dcm",
        *sorted((data / "dicom-cases" / "ct-seg").glob("*.dcm")),
    ]
    return tuple({file.name: file.read_bytes()} for file in files if file.stat().st_size < 60_000)


def _png_seeds(data: Path) -> tuple[Files, ...]:
    import io

    import numpy as np
    from PIL import Image

    grey = np.array(Image.open(data / "vqa-rad" / "images" / "synpic59536.jpg").convert("L"))[:48, :40]
    found = [{"label.png": sorted((data / "cardiac-cine-sunnybrook" / "Labels").glob("*.png"))[0].read_bytes()}]
    for name, image in (
        ("grey.png", Image.fromarray(grey)),
        ("deep.png", Image.fromarray(grey.astype(np.uint16) * 257)),
        ("palette.png", Image.fromarray(grey % 4).convert("P")),
        ("colour.png", Image.fromarray(grey).convert("RGBA")),
        ("bits.png", Image.fromarray(grey > 100)),
    ):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        found.append({name: stream.getvalue()})
    return tuple(found)


def _jpeg_and_tiff_seeds(data: Path) -> tuple[Files, ...]:
    import io

    import numpy as np
    from PIL import Image

    source = data / "vqa-rad" / "images" / "synpic59536.jpg"
    grey = np.array(Image.open(source).convert("L"))[:48, :40]
    found = [{"real.jpg": source.read_bytes()}]
    for name, image, options in (
        ("plain.tif", Image.fromarray(grey), {}),
        ("deep.tif", Image.fromarray(grey.astype(np.uint16) * 257), {"compression": "tiff_lzw"}),
        ("packed.tif", Image.fromarray(grey), {"compression": "tiff_deflate"}),
        ("floats.tif", Image.fromarray(grey.astype(np.float32)), {}),
        ("pages.tif", Image.fromarray(grey), {"save_all": True, "append_images": [Image.fromarray(grey)]}),
        ("turned.jpg", Image.fromarray(grey), {"quality": 80, "progressive": True}),
    ):
        stream = io.BytesIO()
        image.save(stream, "TIFF" if name.endswith("tif") else "JPEG", **options)
        found.append({name: stream.getvalue()})
    return tuple(found)


def _ecg_seeds(data: Path, first: str) -> tuple[Files, ...]:
    found = []
    for header in sorted((data / "ecg-12lead" / "records").glob("*.hea"))[:3]:
        signals = [file for file in header.parent.glob(f"{header.stem}.*") if file != header]
        files = {header.name: header.read_bytes(), **{file.name: file.read_bytes() for file in signals}}
        names = sorted(files, key=lambda name: name.endswith(".hea") != (first == ".hea"))
        found.append({name: files[name] for name in names})
    return tuple(found)


def _manifest_seeds() -> tuple[Files, ...]:
    header = {
        "medcl_manifest": 1,
        "source": "a test",
        "label_names": {"0": "background", "1": "body"},
        "channel_names": ["MRI"],
    }
    rows = [
        {"id": f"case_{n}", "subject": f"s{n}", "volume": [f"scans/case_{n}.nii.gz"], "label": f"labels/case_{n}.nii.gz", "labs": {"crp": 3.5 + n},
         "targets": {"grade": n}, "split": "train", "attributes": {"site": "A"}}
        for n in range(4)
    ]  # fmt: skip
    jsonl = "".join(json.dumps(row) + "\n" for row in [header, *rows])
    csv = f"# {json.dumps(header)}\nid,subject,volume,label,targets.grade,labs.crp,split\n"
    csv += "".join(f"case_{n},s{n},a{n}.nii.gz;b{n}.nii.gz,l{n}.nii.gz,{n},{n}.5,test\n" for n in range(4))
    tsv = "image\tpatient_id\tage\tmask\n" + "".join(f"a{n}.nii.gz\t{n}77\t{40 + n}\tm{n}.nii\n" for n in range(4))
    return {"m.jsonl": jsonl.encode()}, {"m.csv": csv.encode()}, {"m.tsv": tsv.encode()}


def _dataset_seeds() -> tuple[Files, ...]:
    pairs = [{"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"} for n in range(3)]
    decathlon = {
        "name": "bodies", "licence": "CC", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "front"}, "numTraining": 3,
        "training": pairs, "test": ["./imagesTs/t.nii.gz"],
    }  # fmt: skip
    nnunet = {
        "channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2],
        "file_ending": ".nii.gz", "numTraining": 1, "dataset": {"c1": {"images": ["a.nii.gz", "b.nii.gz"], "label": "l.nii.gz"}},
    }  # fmt: skip
    ms_cxr = {
        "images": [
            {
                "id": 1,
                "file_name": "a.jpg",
                "path": "files/p10/p1000/s50/a.jpg",
                "width": 10,
                "height": 10,
                "num_annotations": 1,
            }
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [1, 2, 3, 4],
                "label_text": "a phrase",
                "width": 10,
                "height": 10,
            }
        ],
        "categories": [{"id": 2, "name": "Edema"}],
    }
    return tuple({"dataset.json": json.dumps(each, indent=1).encode()} for each in (decathlon, nnunet, ms_cxr))


def _sheet_seeds() -> tuple[Files, ...]:
    from medcl.config.encoder import ResidualEncoderConfig
    from medcl.preparation.recipe import Recipe
    from medcl.weights.card import WeightsCard, WeightsSheet

    recipe = Recipe(spacing=(1, 1, 1), patch=(24, 32, 24), channels=("MRI",), labels={0: "background", 1: "front"})
    card = WeightsCard(
        encoder=ResidualEncoderConfig(size="tiny"),
        in_channels=1,
        classes=2,
        stage="finetuned",
        training={"views": {"patch": [24, 32, 24]}},
    )
    return ({"recipe.yaml": WeightsSheet(sha256="0" * 64, card=card, recipe=recipe).to_yaml().encode()},)


def _tensor_seeds(scratch: Path, suffix: str) -> tuple[Files, ...]:
    import torch
    from safetensors.torch import save_file

    state = {"encoder.a": torch.arange(60.0).reshape(3, 4, 5), "encoder.b": torch.ones(7, dtype=torch.float16)}
    path = scratch / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path, metadata={"format": "pt"})
    else:
        torch.save({"state_dict": state, "epoch": 3}, path)
    return ({path.name: path.read_bytes()},)


def _run_seeds() -> tuple[Files, ...]:
    facts = {
        "command": "finetune",
        "status": "finished",
        "seed": 0,
        "versions": {"medcl": "0.1.0"},
        "wall_seconds": 1.5,
    }
    metrics = "".join(json.dumps({"step": n, "loss": 1 / (n + 1)}) + "\n" for n in range(5))
    one, other = json.dumps(facts, indent=2).encode(), metrics.encode()
    return {"run.json": one, "metrics.jsonl": other}, {"metrics.jsonl": other, "run.json": one}
