"""Which blocks a pass works on, and how blocks of one shape become blocks of another.

A pass needs whole lines along its axes and is free along the others, so its blocks span the former and are cut
along the latter, small enough for one task. Between two passes every block changes hands: in the workers' memory
(dask's own rechunking), or through files in a directory, each written once and read once.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.utils import parse_bytes

Chunks = tuple[tuple[int, ...], ...]


def bytes_of(value: int | str) -> int:
    """What one task may hold, in bytes; ``"64 MiB"`` is understood."""
    try:
        number = int(parse_bytes(value))
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise ValueError(
            f"block_bytes: expected a number of bytes or a text like '64 MiB', got {value!r}"
        ) from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"block_bytes: expected at least 1, got {value!r}")
    return number


def directory(scratch: str | None) -> str | None:
    """Where files may go; it must be there already, whoever will write to it."""
    if scratch is None:
        return None
    path = os.path.abspath(os.fsdecode(scratch))
    if not os.path.isdir(path):
        raise ValueError(f"scratch: expected None or a directory, got {scratch!r}")
    return path


def blocks(shape: Sequence[int], whole: Sequence[int], grain: Sequence[int], voxels: int) -> Chunks:
    """Chunks that span the axes ``whole`` and have about ``voxels`` voxels, or one line (plane) if that is more.

    Along the other axes they are multiples of ``grain``, the chunks that the data come in, or even parts of it: so
    few of those chunks are cut.
    """
    voxels = max(1, voxels)
    free = [axis for axis in range(len(shape)) if axis not in whole]
    size = [n if axis in whole else max(1, min(n, grain[axis])) for axis, n in enumerate(shape)]
    for axis in free:  # the first axes first: cuts along them leave the longest rows
        excess = math.prod(size) / voxels
        if excess > 1:
            size[axis] = _part(size[axis], max(1, int(size[axis] / excess)))
    for axis in reversed(free):
        times = voxels // math.prod(size)
        if times > 1:
            size[axis] = min(shape[axis], size[axis] * times)
    return tuple(cut(n, s) for n, s in zip(shape, size, strict=True))


def _part(n: int, most: int) -> int:
    """The largest divisor of n up to ``most``, unless it is less than half of that."""
    return next((k for k in range(most, most // 2, -1) if n % k == 0), most)


def cut(n: int, size: int) -> tuple[int, ...]:
    """Parts of n of one size, but for the last."""
    return (size,) * (n // size) + ((n % size,) if n % size else ())


def starts(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where each of the parts of an axis begins, and where the last one ends."""
    return (0, *itertools.accumulate(sizes))


def exchange(x: da.Array, chunks: Chunks, scratch: str | None, copy: int = 0) -> da.Array:
    """The array in other chunks: through files in the directory ``scratch`` if one is given.

    Each ``copy`` reads the files by itself, so that what is computed from one is not kept for another.
    """
    if x.chunks == chunks:
        return x
    if scratch is None:
        return x.rechunk(chunks)
    folder = os.path.join(scratch, x.name)
    written = x.map_blocks(_write, folder, dtype=bool, chunks=(1,) * x.ndim, meta=np.empty((0,) * x.ndim, bool))
    return da.map_blocks(
        _read,
        written.any(),  # that all has been written: one number, which every block waits for
        folder,
        tuple(map(starts, x.chunks)),
        copy,
        new_axis=tuple(range(x.ndim)),
        chunks=chunks,
        dtype=x.dtype,
        meta=x._meta,
        like=x._meta,
    )


def _write(block: Any, folder: str, block_id: tuple[int, ...] | None = None) -> Any:
    """A block as a file, complete or not there: a task may run twice."""
    assert block_id is not None
    os.makedirs(folder, exist_ok=True)
    values = block if isinstance(block, np.ndarray) else block.get()
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        np.save(file, values)
    os.replace(name, _path(folder, block_id))
    return np.ones((1,) * block.ndim, bool)


def _read(
    _: Any,
    folder: str,
    starts: tuple[tuple[int, ...], ...],
    copy: int,
    like: Any,
    block_info: dict[Any, Any] | None = None,
) -> Any:
    """What a block overlaps of each file; nothing else of them is read."""
    assert block_info is not None
    location = [(int(a), int(b)) for a, b in block_info[None]["array-location"]]
    result = np.empty([b - a for a, b in location], like.dtype)
    touched = [
        range(np.searchsorted(s, a, "right") - 1, np.searchsorted(s, b, "left"))
        for s, (a, b) in zip(starts, location, strict=True)
    ]
    for index in np.ndindex(*map(len, touched)):
        block = tuple(t[i] for t, i in zip(touched, index, strict=True))
        first = [s[i] for s, i in zip(starts, block, strict=True)]
        last = [s[i + 1] for s, i in zip(starts, block, strict=True)]
        overlap = [(max(f, a), min(e, b)) for f, e, (a, b) in zip(first, last, location, strict=True)]
        source = tuple(slice(a - f, b - f) for (a, b), f in zip(overlap, first, strict=True))
        target = tuple(slice(a - o, b - o) for (a, b), (o, _) in zip(overlap, location, strict=True))
        result[target] = np.load(_path(folder, block), mmap_mode="r")[source]
    return np.asanyarray(result, like=like)


def _path(folder: str, block: Sequence[int]) -> str:
    return os.path.join(folder, ".".join(map(str, block)) + ".npy")
