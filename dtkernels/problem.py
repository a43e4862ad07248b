"""What a backend is asked to do, as plain numbers: the struct that crosses from tensors to kernels.

Nothing here knows a tensor library, so every backend (and the emulator's tests) can build and read it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

MAX_SIDE = 32768  # voxels along an axis; squared distances are exact up to here (csrc/cpu/arithmetic.h)


class DType(enum.IntEnum):
    """Element types of images and results; the order is that of ``csrc/dtk/image.h``."""

    UINT8 = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    FLOAT16 = 5
    BFLOAT16 = 6
    FLOAT32 = 7
    FLOAT64 = 8


class Rule(enum.IntEnum):
    """How an element becomes a class bit."""

    NONZERO = 0
    ABOVE = 1
    EQUALS_CLASS = 2  # of class c where it is ``threshold + c``, a whole number


class Image(NamedTuple):
    """A strided image; axes are (batch, class, z, y, x) and strides count elements.

    The fields come in the order in which the functions of ``csrc/module.cpp`` take them.
    """

    data: int
    dtype: DType
    shape: tuple[int, int, int, int, int]
    stride: tuple[int, int, int, int, int]
    rule: Rule = Rule.NONZERO
    threshold: float = 0.0


class Spacing(NamedTuple):
    """Voxel spacing: one (z, y, x) row known on the host, or ``rows`` rows of float64 in memory."""

    values: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    data: int = 0
    rows: int = 1


class Mapping(NamedTuple):
    """A formula (:mod:`dtkernels.formula`) that needs no more than a voxel's own distance."""

    formula: tuple[float, ...]
    inner_zero: bool  # foreground up to one step from the background gets the formula's ``edge``: at equal spacing


class Problem(NamedTuple):
    """An exact Euclidean transform of every image of a batch."""

    image: Image
    spatial_dims: int
    spacing: Spacing
    signed: bool
    squared: bool
    closed: bool
    out: int
    # float32 (images, 2), zeroed, or 0: the last pass takes into it, by maximum, the largest finite squared
    # distances of each image, after spacing: [of foreground voxels, of background voxels (if signed)].
    extrema: int = 0
    out_dtype: DType = DType.FLOAT32  # FLOAT32, FLOAT16, BFLOAT16 or UINT8
    mapping: Mapping | None = None  # of distances as float32, to be written instead of them; no extrema then
    to_faces: bool = False  # signed distances move as in FacesProblem, and the extrema are theirs


class Inside(enum.IntEnum):
    """How a pass over a distance map tells foreground from background."""

    NEGATIVE = 0  # the map is signed
    POSITIVE = 1  # the map is 0 in the background
    MASK = 2  # the map is nowhere negative: by the mask


class RemapProblem(NamedTuple):
    """A formula (:mod:`dtkernels.formula`), evaluated in place on every distance map of a batch."""

    maps: int  # float32, contiguous
    image: Image  # the masks that the maps are of
    spatial_dims: int
    spacing: Spacing
    inside: Inside
    inner_zero: bool  # foreground voxels with a face neighbour in the background get the formula's ``edge``
    closed: bool  # beyond the image is background, too
    formula: tuple[float, ...]
    extrema: int  # as in Problem, or 0 where the formula does not need them
    labels: int  # int32 components, each with a maximum of its own inside; or 0
    counts: int  # int32, how many per image


class Measure(enum.IntEnum):
    """What is summed (:mod:`dtkernels.distance_sums`); the order is that of ``csrc/dtk/measure.h``."""

    BOUNDARY = 0
    TWO_SIDED = 1
    INSIDE = 2  # distances are 0 outside of both masks
    ONE_SIDED = 3  # of the target alone


class SumsProblem(NamedTuple):
    """A prediction weighed by distances and summed over space, and the gradient, of every image of a batch."""

    prediction: Image  # float32, every (z, y, x) contiguous; its mask is what exceeds 0.5
    target: Image  # of the same shape: labels, or a mask of what exceeds 0.5
    spatial_dims: int
    spacing: Spacing
    measure: Measure
    alpha: int  # 1 or 2: the power of the distances
    shift: bool  # BOUNDARY: distances inside are 1 shorter
    soft: bool  # g is the element of ``target`` itself, whose (z, y, x) are contiguous then; else its mask
    sums: int  # float32, one for every image
    gradient: int  # float32, contiguous


class ContourProblem(NamedTuple):
    """Foreground voxels with a neighbour in the background, of every image of a batch."""

    image: Image
    spatial_dims: int
    connectivity: int  # neighbours differ by at most 1 in each of at most this many coordinates
    closed: bool  # beyond the image is background
    out: int  # uint8: 0 on the contour, 1 elsewhere


class FacesProblem(NamedTuple):
    """Signed distances of every image of a batch, to be moved by half a spacing towards 0 in place.

    It is the spacing of the axis along which the nearest voxel of the other side is the most voxels away; of
    several such axes, the narrowest; of several such voxels, one beyond a closed border, or else the first by x,
    then y, then z.
    """

    maps: int  # float32, contiguous, negative inside
    image: Image  # the masks that the maps are of
    spatial_dims: int
    spacing: Spacing
    closed: bool  # beyond the image is background


class NearestProblem(NamedTuple):
    """Distance to the nearest background voxel and its position within (z, y, x), of every image of a batch."""

    image: Image
    spatial_dims: int
    spacing: Spacing
    distances: int  # float32
    indices: int  # int64


class EnvelopeProblem(NamedTuple):
    """Lower envelope of the parabolas over every image of a batch of functions."""

    image: Image  # float32 or float64; its rule has no meaning
    spatial_dims: int
    spacing: Spacing
    values: int  # of the image's dtype
    indices: int  # int64, 0 where nobody asks


class LabelProblem(NamedTuple):
    """Connected components of the foreground of every image of a batch."""

    image: Image
    connectivity: int  # neighbours differ by at most 1 in each of at most this many coordinates
    labels: int  # int32
    counts: int  # int32, one per image
