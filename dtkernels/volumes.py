"""Volumes in files: voxels with the spacing and the place in space that the header gives.

NIfTI (``.nii``, ``.nii.gz``; needs nibabel) has both; NumPy's ``.npy`` has neither. Axes of a single voxel at the
end of an array are dropped, so that a slice saved as a volume is an image.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .data import require

SUFFIXES = (".nii.gz", ".nii", ".npy")


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
        zooms = tuple(float(z) for z in image.header.get_zooms())
        return _checked(path, voxels, zooms, np.asarray(image.affine, np.float64))
    except VolumeError:
        raise
    except Exception as error:  # nibabel, gzip, zlib and NumPy each have errors of their own
        detail = " ".join(str(error).split()) or "no further detail"
        raise VolumeError(f"{path}: cannot be read, {type(error).__name__}: {detail}") from error


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
