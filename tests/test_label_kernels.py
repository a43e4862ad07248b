"""The labelling kernels, unmodified, run by the emulator with the real launch plan, against SciPy.

As in test_kernels_emulated.py, this file is also the program that runs under a sanitizer.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from emulated import (
    DTYPES,
    H200,
    Library,
    Options,
    Rule,
    as_image,
    execute,
    label,
    label_plans,
    problems,
    under_a_sanitizer,
)
from emulator import build
from numpy.typing import NDArray
from scipy import ndimage

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

Array = NDArray[Any]
SHAPES = ((1,), (33,), (1100,), (12, 45), (40, 3), (3, 2050), (5, 6, 40), (4, 1, 33), (9, 7, 1), (2, 3, 70))
DENSITIES = (0.0, 0.2, 0.4, 0.6, 0.9, 1.0)


def expected_labels(mask: Array, connectivity: int) -> tuple[Array, int]:
    """SciPy's components, numbered by their first voxels in raster order."""
    structure = ndimage.generate_binary_structure(mask.ndim, min(connectivity, mask.ndim))
    components, count = ndimage.label(mask, structure)
    first = np.full(count + 1, mask.size)
    np.minimum.at(first, components.ravel(), np.arange(mask.size))
    rank = np.zeros(count + 1, np.int32)
    rank[1 + np.argsort(first[1:])] = np.arange(1, count + 1)
    return rank[components], count


def check(library: Library, image: Array, connectivity: int, options: Options = Options()) -> None:  # noqa: B008
    """Every image of a batch (batch, class, z, y, x) of zeros and others."""
    labels, counts = label(library, image, connectivity, options)
    for at in np.ndindex(image.shape[:2]):
        expected, count = expected_labels(image[at] != 0, connectivity)
        assert counts[at] == count, (image.shape, connectivity)
        np.testing.assert_array_equal(labels[at], expected, err_msg=f"{image.shape}, {connectivity}")


def noise(shape: tuple[int, ...], density: float, seed: int = 0, images: tuple[int, int] = (1, 1)) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.random((*images, *(1,) * (3 - len(shape)), *shape)) < density).astype(np.uint8)


@pytest.mark.parametrize("connectivity", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise(library: Library, shape: tuple[int, ...], connectivity: int) -> None:
    for density in DENSITIES:
        for max_blocks in (None, 2):  # a few blocks go round their loops
            check(library, noise(shape, density, images=(2, 1)), connectivity, Options(max_blocks=max_blocks))


def snake(side: int) -> Array:
    """One path through the image, row by row, its turns at alternating ends: unions in a chain."""
    mask = np.zeros((side, side), np.uint8)
    mask[::2] = 1
    mask[1::4, -1] = mask[3::4, 0] = 1
    return mask


def spiral(side: int) -> Array:
    mask = np.zeros((side, side), np.uint8)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = 1
    for length in [side - 1, *(n for pair in range(side - 1, 0, -2) for n in (pair, pair))]:
        for _ in range(length):
            y, x = y + dy, x + dx
            mask[y, x] = 1
        dy, dx = dx, -dy
    return mask


def tangled(side: int = 37) -> list[Array]:
    """Components that are joined late, in long chains, or along one row of many runs."""
    comb = np.zeros((side, side), np.uint8)
    comb[:, ::2] = 1
    comb[-1] = 1
    shapes = [snake(side), spiral(side), comb]
    views = [view for mask in shapes for view in (mask, mask[::-1], mask.T, 1 - mask)]
    return [np.ascontiguousarray(view) for view in views]


def test_chains_spirals_and_combs(library: Library) -> None:
    for mask in tangled():
        for connectivity in (1, 2):
            check(library, as_image(mask), connectivity)


@pytest.mark.parametrize("seed", range(1, 7))
def test_random_schedules(library: Library, seed: int) -> None:
    """Threads and blocks in random order, with turns at every atomic: unions meet in the midst of one another."""
    library.set(seed=seed, resident=3)
    try:
        for mask in tangled(21):
            check(library, as_image(mask), 2, Options(max_blocks=None if seed % 2 else 3))
        for connectivity in (1, 2, 3):
            for shape in ((20, 40), (4, 9, 36), (3, 1090)):
                check(library, noise(shape, 0.5 if len(shape) < 3 else 0.3, seed), connectivity)
    finally:
        library.set(seed=0, resident=1)


def test_each_neighbour_alone(library: Library) -> None:
    """Each of the 13 neighbours that come before a voxel: met exactly from its own connectivity on."""
    steps = [step for step in np.ndindex(3, 3, 3) if step < (1, 1, 1)]
    image = np.zeros((len(steps), 4, 3, 3, 70), np.uint8)
    for b, step in enumerate(steps):
        for c, x in enumerate((1, 31, 32, 64)):
            image[b, c, 1, 1, x] = 1
            image[b, c, step[0], step[1], x + step[2] - 1] = 1
    orders = np.array([sum(s != 1 for s in step) for step in steps])
    for connectivity in (1, 2, 3):
        counts = label(library, image, connectivity, Options())[1]
        np.testing.assert_array_equal(counts, np.where(orders[:, None] <= connectivity, 1, 2).repeat(4, 1))


def test_many_chunks(library: Library) -> None:
    """Offsets across chunks of words, taken by one block in several rounds."""
    image = noise((130, 5, 65), 0.3, images=(2, 1))  # 1950 words: 8 chunks for each image
    plan = label_plans.plan(problems.LabelProblem(_described(image), 1, 0, 0), H200)
    steps = [s._replace(block=32) if "count" in s.kernel else s for s in plan.steps]
    for step in (steps, [s._replace(grid=(1, 1, 1)) for s in steps]):
        result = execute(library, plan._replace(steps=tuple(step)), _described(image), 0, 4, second=8)
        assert len(result[1]) == 8
        labels, counts = result[0].view(np.int32).reshape(image.shape), result[1].view(np.int32)
        for b in range(2):
            expected, count = expected_labels(image[b, 0], 1)
            assert counts[b] == count > 256
            np.testing.assert_array_equal(labels[b, 0], expected)
    tall = noise((40, 2), 0.4, images=(1, 1))  # few words of many short rows
    check(library, tall, 2)


def _described(image: Array) -> Any:
    stride = tuple(s // image.itemsize for s in image.strides)
    return problems.Image(image.ctypes.data, problems.DType.UINT8, image.shape, stride)


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_strides_and_rules(library: Library, name: str) -> None:
    """Read where it lies; what is foreground is the business of image.h, which other tests hold to account."""
    rng = np.random.default_rng(1)
    values = np.where(rng.random((3, 40, 2, 6, 5)) < 0.5, 1, 0)
    values = (values * 0x3F80).astype(np.uint16) if name == "bfloat16" else values.astype(name)
    for view in (values, values.transpose(4, 2, 0, 3, 1), values[:, ::2, :, :, ::-1][::-1, ..., ::2]):
        positive = view[::1] if all(s >= 0 for s in view.strides) else np.ascontiguousarray(view)
        labels, counts = label(library, positive, 2, Options(dtype=name))
        for at in np.ndindex(positive.shape[:2]):
            expected, count = expected_labels(positive[at] != 0, 2)
            assert counts[at] == count
            np.testing.assert_array_equal(labels[at], expected)
    if name.startswith("float"):
        image = rng.random((1, 2, 1, 20, 33)).astype(name)
        labels, _ = label(library, image, 1, Options(rule=Rule.ABOVE, threshold=0.5))
        np.testing.assert_array_equal(labels[0, 1], expected_labels(image[0, 1] > 0.5, 1)[0])


def test_plan_stays_within_a_device() -> None:
    """Grids and blocks, scratch that holds what lies in it, and images that positions cannot name."""
    for shape in ((1, 1, 1, 1, 1), (16, 1, 128, 128, 128), (2, 3, 1, 1, 40), (1, 1, 1, 32768, 32768)):
        image = problems.Image(0, problems.DType.UINT8, shape, (0, 0, 0, 0, 1))
        plan = label_plans.plan(problems.LabelProblem(image, 1, 0, 0), H200)
        words = shape[0] * shape[1] * shape[2] * shape[3] * -(-shape[4] // 32)
        assert plan.scratch_bytes >= 10 * words
        for step in plan.steps:
            assert 0 < step.grid[0] < 2**31
            assert step.block % 32 == 0
            assert step.block <= 1024
    assert (
        len(
            label_plans.plan(
                problems.LabelProblem(problems.Image(0, 0, (1, 1, 1, 1, 9), (1,) * 5), 1, 0, 0), H200
            ).steps
        )
        == 4
    )
    huge = problems.Image(0, problems.DType.UINT8, (1, 1, 4, 32768, 32768), (0, 0, 0, 0, 1))
    with pytest.raises(ValueError, match=r"fewer than 2\^32 voxels"):
        label_plans.plan(problems.LabelProblem(huge, 1, 0, 0), H200)
    empty = problems.Image(0, problems.DType.UINT8, (1, 1, 4, 0, 8), (0, 0, 0, 0, 1))
    assert label_plans.plan(problems.LabelProblem(empty, 1, 0, 0), H200).steps == ()


@pytest.mark.parametrize("mode", ["address", "thread"])
def test_under_a_sanitizer(mode: str) -> None:
    """Overruns and undefined behaviour; accesses to parents that are not atomic; races in the sums."""
    under_a_sanitizer(__file__, mode)


def main(path: str) -> None:
    """Every kernel on small images, blocks one after another and interleaved."""
    library = Library(path)
    for seed in (0, 1):
        library.set(seed=seed, resident=2)
        for shape in ((70,), (17, 33), (4, 5, 37), (2, 1090), (40, 60, 2)):
            for max_blocks in (None, 3):
                check(library, noise(shape, 0.4, images=(2, 1)), 3, Options(max_blocks=max_blocks))
        for mask in tangled(13):
            check(library, as_image(mask), 1)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
