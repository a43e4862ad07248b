"""Volumes in files: voxels with the spacing and the place in space that the header gives.

NIfTI (``.nii``, ``.nii.gz``; needs nibabel) has both; NumPy's ``.npy`` has neither. Axes of a single voxel at the
end of an array are dropped, so that a slice saved as a volume is an image.

A NIfTI header states the spacing twice: as such (``pixdim``), and in the lengths of the columns of its affine, if
it has one of its own (``sform_code`` above 0). Where the two differ, the affine holds, which is what puts the
voxels in their place for whoever shows or resamples them, and a warning names both.
"""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .optional import require

NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI, ".npy")


class VolumeError(ValueError):
    """A file that cannot be used; the message names it."""


class Volume(NamedTuple):
    """What a file holds."""

    path: Path
    voxels: NDArray[Any]
    spacing: tuple[float, ...] | None  # mm along each axis of the array; None where the file says nothing
    affine: NDArray[np.float64] | None  # (4, 4): voxel indices to mm


def stem(path: Path) -> str:
    """The name without the suffix, ``.nii.gz`` included.

    >>> stem(Path("case.01.nii.gz"))
    'case.01'
    """
    name = path.name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), path.suffix)
    return name[: len(name) - len(suffix)]


def is_volume(path: Path) -> bool:
    """Whether the name says that it can be read here."""
    return path.name.lower().endswith(SUFFIXES)


def read(path: str | os.PathLike[str]) -> Volume:
    """The voxels of a file as stored, nothing reoriented or converted.

    Warns:
        UserWarning: the header contradicts itself about the spacing.

    Raises:
        VolumeError: no such file, an unknown suffix, a damaged or truncated file, no numbers, a header without a
            usable spacing.
        MissingDependencyError: nibabel is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/mask.npy", np.eye(3, dtype=np.uint8)[..., None])
    ...     read(f"{folder}/mask.npy").voxels.shape
    (3, 3)
    """
    path = Path(path)
    if not path.is_file():
        raise VolumeError(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}")
    if not is_volume(path):
        raise VolumeError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    nibabel = None if path.suffix.lower() == ".npy" else require("nibabel", f"reading {path}", extra="cli")
    try:
        if nibabel is None:
            return _checked(path, np.load(path, allow_pickle=False), None, None)
        image = nibabel.load(path)
        # unscaled integers stay integers
        voxels = np.asanyarray(image.dataobj)
        affine = np.asarray(image.affine, np.float64)
        return _checked(path, voxels, _spacing(path, image.header, affine), affine)
    except VolumeError:
        raise
    except Exception as error:  # nibabel, gzip, zlib and NumPy each have errors of their own
        detail = " ".join(str(error).split()) or "no further detail"
        raise VolumeError(f"{path}: cannot be read, {type(error).__name__}: {detail}") from error


def _spacing(path: Path, header: Any, affine: NDArray[np.float64]) -> tuple[float, ...]:
    """As stated where the affine agrees, which has roundings of its own; else the affine's."""
    stated = tuple(float(z) for z in header.get_zooms())
    if "sform_code" not in header or int(header["sform_code"]) <= 0:
        return stated  # nibabel has made the affine of it
    steps = tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
    if np.allclose(stated[:3], steps[: len(stated)], rtol=1e-3, atol=0):
        return stated
    words = (" x ".join(f"{s:g}" for s in spacing[: len(stated)]) for spacing in (stated[:3], steps))
    warnings.warn(
        "{}: the header states a spacing of {}, but its affine steps {}, which is taken".format(path, *words),
        stacklevel=4,
    )
    return steps + stated[3:]


def _checked(
    path: Path, voxels: NDArray[Any], spacing: tuple[float, ...] | None, affine: NDArray[np.float64] | None
) -> Volume:
    if voxels.dtype.kind not in "biuf":
        raise VolumeError(f"{path}: expected real numbers, got dtype {voxels.dtype}")
    dims = voxels.ndim
    while dims > 1 and voxels.shape[dims - 1] == 1:
        dims -= 1
    if not 1 <= dims <= 3:
        raise VolumeError(f"{path}: expected 1 to 3 dimensions, got shape {voxels.shape}")
    if spacing is not None:
        spacing = spacing[:dims]
        if not all(math.isfinite(s) and s > 0 for s in spacing):
            raise VolumeError(f"{path}: expected a positive spacing in the header, got {spacing}")
    return Volume(path, voxels.reshape(voxels.shape[:dims]), spacing, affine)
