"""Connected components on CPUs: union-find over runs of foreground, in the output itself.

    1. a voxel's parent is the first voxel of its run         slabs of rows in parallel
    2. runs are united with those of earlier rows             slabs in parallel, then across their seams
    3. roots are numbered, and voxels get their root's number serial

A union keeps the smaller root, so that a component's root is its first voxel, parents never follow their children,
and one ascending sweep numbers the components in raster order, whatever the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...problem import LabelProblem
from .jit import Pointer, entry, inner
from .layout import FlatMask
from .passes import read_run
from .pool import parallel
from .simd import address, advance

Array = NDArray[Any]

_VOXELS_PER_THREAD = 1 << 16  # less is not worth waking a thread for
_WHOLE_IMAGE = 1 << 21  # voxels; one thread per smaller image, if there are enough


def run(problem: LabelProblem, source: torch.Tensor, labels: torch.Tensor, count: torch.Tensor) -> None:
    """Every image, one by one on all threads, or many at once."""
    samples, classes, depth, height, width = problem.image.shape
    images, rows, voxels = samples * classes, depth * height, depth * height * width
    mask = FlatMask(problem.image, source)
    memory, parents, counts = mask.memory.numpy(), labels.view(-1).numpy(), count.view(-1).numpy()
    threads = min(torch.get_num_threads(), images * voxels // _VOXELS_PER_THREAD)

    def unite(image: int, begin: int, end: int) -> None:
        unite_rows(
            memory, mask.stride, classes, depth, height, width, int(mask.rule), problem.image.threshold,
            problem.connectivity, np.empty(width, np.uint8), parents, image, begin, end,
        )  # fmt: skip

    def finish(image: int) -> None:
        number(parents, image * voxels, voxels, counts, image)

    def whole(first: int, last: int) -> None:
        for image in range(first, last):
            unite(image, 0, rows)
            finish(image)

    if threads <= 1 or (images >= 2 * threads and voxels <= _WHOLE_IMAGE):
        parallel(whole, images, threads)
        return
    slabs = min(rows, 2 * threads)
    seams = [rows * i // slabs for i in range(slabs + 1)]
    for image in range(images):

        def slab(first: int, last: int, image: int = image) -> None:
            for i in range(first, last):
                unite(image, seams[i], seams[i + 1])

        parallel(slab, slabs, threads)
        for seam in seams[1:-1]:
            unite_seam(parents, image * voxels, height, width, problem.connectivity, seam, rows)
        finish(image)


@entry
def unite_rows(
    data: Array, stride: tuple[int, ...],
    classes: int, depth: int, height: int, width: int, rule: int, threshold: float,
    connectivity: int, mask_row: Array, parents: Array, image: int, begin: int, end: int,
) -> None:  # fmt: skip
    """Rows ``begin`` to ``end`` of an image, with one another."""
    mask = address(mask_row, 0)
    base = image * depth * height * width
    start = image // classes * stride[0] + image % classes * stride[1]
    parent = address(parents, base)
    for row in range(begin, end):
        at = start + row // height * stride[2] + row % height * stride[3]
        read_run(address(data, at), stride[4], width, rule, threshold, image % classes, mask)
        run = -1
        for x in range(width):
            if not mask[x]:
                run = -1
            elif run < 0:
                run = row * width + x
            parent[row * width + x] = run
        _unite_with_earlier(parent, height, width, connectivity, row, begin, row)


@entry
def unite_seam(
    parents: Array, base: int, height: int, width: int, connectivity: int, seam: int, rows: int
) -> None:
    """The rows from ``seam`` on that have neighbours before it, with those."""
    for row in range(seam, min(rows, seam + height + 1)):
        _unite_with_earlier(address(parents, base), height, width, connectivity, row, 0, seam)


@inner
def _unite_with_earlier(
    parent: Pointer, height: int, width: int, connectivity: int, row: int, low: int, high: int
) -> None:
    """A row with its neighbours among the rows ``low`` to ``high``.

    Neighbours differ in at most ``connectivity`` coordinates, and the step to another row takes one or two of
    them; what is left decides about the diagonals along x.
    """
    y = row % height
    if y > 0:
        _unite_two(parent, width, row, row - 1, connectivity > 1, low, high)
    _unite_two(parent, width, row, row - height, connectivity > 1, low, high)
    if connectivity > 1:
        if y > 0:
            _unite_two(parent, width, row, row - height - 1, connectivity > 2, low, high)
        if y + 1 < height:
            _unite_two(parent, width, row, row - height + 1, connectivity > 2, low, high)


@inner
def _unite_two(parent: Pointer, width: int, row: int, other: int, diagonal: bool, low: int, high: int) -> None:
    """Runs of two rows that touch, where the contact begins; ``diagonal``: those, too, that only do at a corner.

    Parents tell the mask: they are negative in the background.
    """
    if other < low or other >= high:
        return
    a, b = advance(parent, row * width), advance(parent, other * width)
    a_before, b_before = False, False
    for x in range(width):
        a_here, b_here = a[x] >= 0, b[x] >= 0
        if a_here and b_here:
            if not (a_before and b_before):
                _unite(parent, a[x], b[x])
        elif diagonal:
            if a_here and b_before and not a_before:
                _unite(parent, a[x], b[x - 1])
            elif b_here and a_before and not b_before:
                _unite(parent, a[x - 1], b[x])
        a_before, b_before = a_here, b_here


@inner
def _unite(parent: Pointer, i: int, j: int) -> None:
    i, j = _root(parent, i), _root(parent, j)
    if i < j:
        parent[j] = i
    else:
        parent[i] = j


@inner
def _root(parent: Pointer, i: int) -> int:
    """Halves the path on the way: what is skipped is still an ancestor, and not above it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@entry
def number(parents: Array, base: int, voxels: int, counts: Array, image: int) -> None:
    """Parents become labels, in raster order: a parent comes before its children, and is a label already."""
    parent = address(parents, base)
    components = 0
    for i in range(voxels):
        p = parent[i]
        if p == i:
            components += 1
            parent[i] = components
        else:
            parent[i] = parent[p] if p >= 0 else 0
    counts[image] = components
