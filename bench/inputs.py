"""The masks of an entry: synthetic ones, and segmentations of patients where ``DTK_DATA`` holds them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dtkernels import data

from . import masks
from .entries import HEADER, Entry


class AbsentDataError(LookupError):
    """Real masks that are not on this machine; the message says what was looked for."""


class Inputs(NamedTuple):
    """Masks of an entry, ``(*batch, *shape)`` uint8, and their spacing."""

    images: NDArray[np.uint8]
    spacing: tuple[float, ...] | None
    dims: int

    @property
    def sampling(self) -> tuple[float, ...]:
        """The spacing as libraries want it that know no None."""
        return self.spacing or (1.0,) * self.dims

    @property
    def each(self) -> NDArray[np.uint8]:
        """One image after the other."""
        return self.images.reshape(-1, *self.images.shape[-self.dims :])


@lru_cache(maxsize=2)  # the entries of one mask follow one another
def _images(mask: str, shape: tuple[int, ...], batch: tuple[int, ...]) -> tuple[Any, tuple[float, ...] | None]:
    count = int(np.prod(batch))
    if mask in masks.KINDS:
        images = [masks.make(mask, shape, seed=i) for i in range(count)]
        return np.stack(images).reshape(*batch, *shape), None
    read = list(_hippocampi(shape, count) if mask == "hippocampus" else _kidneys(mask))
    spacings = {spacing for _, spacing in read}
    if len(spacings) > 1:
        raise ValueError(f"{mask}: expected one spacing, got {spacings}")
    images = [image for image, _ in read]
    return np.stack(images).reshape(*batch, *images[0].shape), spacings.pop()


def load(entry: Entry) -> Inputs:
    """The entry's masks. Raises AbsentDataError where real ones are not here."""
    images, header = _images(entry.mask, entry.shape, entry.batch)
    return Inputs(images, header if entry.spacing == HEADER else entry.spacing, images.ndim - len(entry.batch))


def hippocampi() -> list[tuple[Path, Path]]:
    """Images and labels of the hippocampus set. Raises AbsentDataError where it is not here."""
    folder = data.find_hippocampus()
    if folder is None:
        raise AbsentDataError(f"no hippocampus under {data.data_home()}: dtk data hippocampus fetches it")
    return data.decathlon_pairs(folder)


def _hippocampi(shape: tuple[int, ...], count: int) -> Iterator[tuple[NDArray[np.uint8], tuple[float, ...]]]:
    for _, label in hippocampi()[:count]:
        voxels, spacing = data.read_volume(label)
        image = np.zeros(shape, np.uint8)
        low = [(n - min(n, m)) // 2 for n, m in zip(shape, voxels.shape, strict=True)]
        part = voxels[tuple(slice(0, n) for n in shape)] > 0
        image[tuple(slice(a, a + n) for a, n in zip(low, part.shape, strict=True))] = part
        yield image, spacing


def _kidneys(mask: str) -> Iterator[tuple[NDArray[np.uint8], tuple[float, ...]]]:
    file = data.data_home() / f"{mask}.nii.gz"
    if not file.exists():
        raise AbsentDataError(f"no {mask}.nii.gz in the folder that DTK_DATA names")
    voxels, spacing = data.read_volume(file)
    yield np.ascontiguousarray(voxels > 0).view(np.uint8), spacing
