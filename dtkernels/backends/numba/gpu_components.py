"""Connected components on NVIDIA GPUs: union-find over voxels, in the output itself.

A union hangs the larger root below the smaller by an atomic minimum, so that a component's root is its first voxel
whatever the order of threads (Playne & Hawick, IEEE TPDS 29, 2018). Counting roots in raster order numbers them.
"""

from __future__ import annotations

from typing import Any

import numba.cuda
import numpy as np
import torch
from numpy.typing import NDArray

from ...problem import LabelProblem
from . import gpu
from .gpu import ABOVE, EQUALS_CLASS, array, kernel, per_thread
from .layout import FlatMask

cuda: Any = numba.cuda  # known to mypy without the language of kernels
Array = NDArray[Any]  # in memory of a device


# --- Kernels: a thread per voxel; parents are positions within the image, -1 in the background ---


@kernel
def begin(
    data: Array, stride: tuple[int, ...], classes: int, height: int, width: int, image_voxels: int, voxels: int,
    rule: int, threshold: float, parents: Array,
) -> None:  # fmt: skip
    """Every voxel of the foreground is its own root."""
    at = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if at >= voxels:
        return
    image, i = at // image_voxels, at % image_voxels
    index = image % classes
    row = i // width
    start = image // classes * stride[0] + index * stride[1] + i % width * stride[4]
    value = data[start + row // height * stride[2] + row % height * stride[3]]
    if rule == ABOVE:
        inside = np.float64(value) > threshold
    elif rule == EQUALS_CLASS:
        inside = value == index + np.int64(threshold)
    else:
        inside = value != 0 and value == value
    parents[at] = i if inside else -1


def _find_root(parents: Array, base: int, i: int) -> int:
    """Parents never follow their children."""
    parent: Any = np.int64(parents[base + i])
    while parent != i:
        i = parent
        parent = np.int64(parents[base + i])
    return i


root = cuda.jit(device=True)(_find_root)


@kernel
def unite(parents: Array, height: int, width: int, image_voxels: int, voxels: int, connectivity: int) -> None:
    """A voxel with its neighbours that come before it."""
    at = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if at >= voxels or parents[at] < 0:
        return
    i = at % image_voxels
    base = at - i
    x, y, z = i % width, i // width % height, i // width // height
    for k in range(13):  # of 27 steps in raster order, those before the middle
        dz, dy, dx = k // 9 - 1, k // 3 % 3 - 1, k % 3 - 1
        if abs(dz) + abs(dy) + abs(dx) > connectivity:
            continue
        if z + dz < 0 or y + dy < 0 or y + dy >= height or x + dx < 0 or x + dx >= width:
            continue
        j = i + (dz * height + dy) * width + dx
        if parents[base + j] < 0:
            continue
        a, b = root(parents, base, i), root(parents, base, j)
        while a != b:
            if a < b:
                a, b = b, a
            old = np.int64(cuda.atomic.min(parents, base + a, np.int32(b)))
            if old == a:  # it was a root, and has one now
                break
            a = root(parents, base, old)
            b = root(parents, base, b)


@kernel
def flatten(parents: Array, image_voxels: int, voxels: int, is_root: Array) -> None:
    """Every parent becomes the root."""
    at = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if at >= voxels:
        return
    is_root[at] = 0
    if parents[at] >= 0:
        i = at % image_voxels
        r = root(parents, at - i, i)
        parents[at] = r
        is_root[at] = 1 if r == i else 0


@kernel
def number(parents: Array, image_voxels: int, voxels: int, rank: Array) -> None:
    """Roots become labels; ``rank`` counts the roots of the image up to and with a voxel."""
    at = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    if at >= voxels:
        return
    r = np.int64(parents[at])
    parents[at] = rank[at - at % image_voxels + r] if r >= 0 else 0


# --- Launches ---


def run(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
    """Every image at once, on torch's current stream and in torch's memory; nothing is read back."""
    samples, classes, depth, height, width = problem.image.shape
    inside, voxels = depth * height * width, labels.numel()
    if inside >= 1 << 31:
        raise ValueError(f"mask: expected images of fewer than 2^31 voxels, got {inside}")
    mask, parents = FlatMask(problem.image, source), array(labels.view(-1))
    is_root = torch.empty(samples * classes, inside, dtype=torch.int32, device=labels.device)
    with gpu.current_stream(source.device) as stream:
        per_thread(
            begin, stream, voxels, array(mask.memory), mask.stride, classes, height, width, inside, voxels,
            int(mask.rule), problem.image.threshold, parents,
        )  # fmt: skip
        per_thread(unite, stream, voxels, parents, height, width, inside, voxels, problem.connectivity)
        per_thread(flatten, stream, voxels, parents, inside, voxels, array(is_root.view(-1)))
        rank = is_root.cumsum(1, dtype=torch.int32)
        per_thread(number, stream, voxels, parents, inside, voxels, array(rank.view(-1)))
        count.view(-1).copy_(rank[:, -1])
