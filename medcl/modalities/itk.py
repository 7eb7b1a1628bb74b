"""MetaImage (``.mha``, ``.mhd``) and NRRD (``.nrrd``, ``.nhdr``) files, read with SimpleITK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from medcl.errors import DataError
from medcl.modalities.header import VolumeHeader, axis_codes, refuse_singular
from medcl.modalities.itk_header import check_text, data_files
from medcl.types import Affine, Array

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def ras_affine(image: sitk.Image | sitk.ImageFileReader) -> Affine:
    """The voxel-to-RAS affine of a 3D ITK image, whose own geometry is in LPS."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ affine


def set_ras_affine(image: sitk.Image, affine: Affine) -> None:
    """Give a 3D ITK image the grid of a RAS ``affine`` (which must have no shear)."""
    lps = _LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())


def read_header(path: Path) -> VolumeHeader:
    """The header of ``path``; the voxels are not read. DataError where it is not readable."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    check_text(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise DataError(f"{path}: not a readable {_kind(path)} file ({_reason(error)})") from error
    if reader.GetNumberOfComponents() != 1:
        raise DataError(f"{path}: holds {reader.GetNumberOfComponents()} values a voxel (colour or vector), not one")
    shape = tuple(int(size) for size in reader.GetSize())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    is_volume = reader.GetDimension() == 3
    affine = ras_affine(reader) if is_volume else np.eye(4)
    refuse_singular(path, affine, "correct its spacing and directions")
    unknown = _kind(path) == "nrrd" and not reader.HasMetaDataKey("NRRD_space")
    modality = reader.GetMetaData("Modality") if reader.HasMetaDataKey("Modality") else ""
    return VolumeHeader(
        path=path,
        shape=shape,
        affine=affine,
        orientation=axis_codes(affine) if is_volume and not unknown else None,
        dtype=_numpy_type(reader.GetPixelID()),
        format=_kind(path),
        modality={"MET_MOD_CT": "CT", "MET_MOD_MR": "MR"}.get(modality),
    )


def read_voxels(path: Path) -> tuple[Array, VolumeHeader]:
    """The stored array in ``(x, y, z)`` order with its header."""
    header = read_header(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise DataError(f"{path}: truncated or damaged, its voxels cannot be read") from error
    voxels = np.transpose(sitk.GetArrayViewFromImage(image))
    return np.array(voxels.reshape(header.shape)), header


def files_of(path: Path) -> tuple[Path, ...]:
    """The file, with the data file that a detached header (``.mhd``, ``.nhdr``) names."""
    return (path, *data_files(path))


def _reason(error: RuntimeError) -> str:
    """The telling line of an ITK error, which otherwise names a source file and an address."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "unknown ITK error"


def _kind(path: Path) -> str:
    return "nrrd" if path.suffix.lower() in (".nrrd", ".nhdr") else "metaimage"


def _numpy_type(pixel: int) -> np.dtype[Any]:
    name = sitk.GetPixelIDValueAsString(pixel)  # such as "16-bit signed integer" or "32-bit float"
    bits = int(name.split("-")[0])
    kind = "f" if "float" in name else "u" if "unsigned" in name else "i"
    return np.dtype(f"{kind}{bits // 8}")
