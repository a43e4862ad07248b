r"""``edt``, ``edtsq``, ``sdf`` and ``sdfsq`` of the package ``edt``: distances in NumPy label maps.

>>> import numpy as np
>>> from dtkernels.compat import edt
>>> edt.edt(np.array([1, 1, 1, 2, 2, 0, 0]))
array([3., 2., 1., 1., 1., 0., 0.], dtype=float32)

A label map is a mask per bit of its labels. Two labels differ if and only if they differ in some bit, so the
nearest voxel of another label is the nearest of all that differ in one bit,

.. math:: d(p) = \min_b |\mathrm{sdf}_b(p)| \quad\text{over the bits } b,

and one signed transform per bit that is not the same everywhere does for any number of labels: 7 for 100 labels.
Where these bits are many, as in hashes or floats, labels are numbered first.

Where it differs from edt on purpose:

- **Precision**: at equal anisotropy squared voxel counts are exact; else both libraries round in float32, each in
  its own way.
- **float16** labels are read as what they are; edt answers with zeros.
- **Threads**: ``parallel`` is ignored, and :func:`torch.set_num_threads` decides. ``order`` is ignored, as in edt.
- **Anisotropy** must be positive and finite; one number serves all axes.
- ``voxel_graph`` is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .. import arrays, functional

_MANY_BITS = 12  # numbering the labels takes as long as so many transforms

Distances = NDArray[np.float32]


def edt(
    data: ArrayLike,
    anisotropy: Any = None,
    black_border: bool = False,
    order: Any = None,
    parallel: Any = 1,
    *,
    voxel_graph: None = None,
) -> Distances:
    """Distance of every voxel of a label map to the nearest voxel of another label; 0 in the background.

    Args:
        data: label map of one to three dimensions, of integers, bools or floats. 0 is background.
        anisotropy: voxel spacing: None (1), a number, or one per axis in array order.
        black_border: whether background surrounds the image.
        order: ignored.
        parallel: ignored; see :func:`torch.set_num_threads`.
        voxel_graph: not supported.

    Returns:
        float32 array of the data's shape and order (C or Fortran): +inf everywhere in an image of one label
        without a black border.

    Raises:
        TypeError: ``data`` has no dimension or more than three, or is neither numeric nor bool.
        ValueError: ``anisotropy`` is not positive and finite or of the wrong length; a side above 32,768.
        NotImplementedError: ``voxel_graph`` is given.

    >>> import numpy as np
    >>> from dtkernels.compat import edt
    >>> edt.edt(np.array([[1, 1, 3, 3]]), anisotropy=(1, 0.5), black_border=True)
    array([[0.5, 0.5, 0.5, 0.5]], dtype=float32)
    """
    return _transform(data, anisotropy, black_border, voxel_graph, squared=False)


def edtsq(
    data: ArrayLike,
    anisotropy: Any = None,
    black_border: bool = False,
    order: Any = None,
    parallel: Any = 1,
    *,
    voxel_graph: None = None,
) -> Distances:
    """Square of :func:`edt`; arguments, errors and infinite values are the same.

    >>> import numpy as np
    >>> from dtkernels.compat import edt
    >>> edt.edtsq(np.array([0, 1, 1, 2, 2, 2]))
    array([0., 1., 1., 1., 4., 9.], dtype=float32)
    """
    return _transform(data, anisotropy, black_border, voxel_graph, squared=True)


def sdf(
    data: ArrayLike, anisotropy: Any = None, black_border: bool = False, order: Any = None, parallel: Any = 1
) -> Distances:
    """:func:`edt`, with the negative distance to the nearest label in the background: ``edt(x) - edt(x == 0)``.

    Arguments and errors are those of :func:`edt`. -inf everywhere without any label, or (without a black border)
    +inf everywhere where there is a single label and no background.

    >>> import numpy as np
    >>> from dtkernels.compat import edt
    >>> edt.sdf(np.array([0, 0, 1, 1, 2, 2]))
    array([-2., -1.,  1.,  1.,  1.,  2.], dtype=float32)
    """
    return _signed(data, anisotropy, black_border, squared=False)


def sdfsq(
    data: ArrayLike, anisotropy: Any = None, black_border: bool = False, order: Any = None, parallel: Any = 1
) -> Distances:
    """:func:`sdf` with squared distances: ``edtsq(x) - edtsq(x == 0)``.

    >>> import numpy as np
    >>> from dtkernels.compat import edt
    >>> edt.sdfsq(np.array([0, 0, 1, 1, 2, 2]))
    array([-4., -1.,  1.,  1.,  1.,  4.], dtype=float32)
    """
    return _signed(data, anisotropy, black_border, squared=True)


def _signed(data: ArrayLike, anisotropy: Any, black_border: bool, squared: bool) -> Distances:
    labels = np.asarray(data)
    inside = _transform(labels, anisotropy, black_border, None, squared)
    inside -= _transform(labels == 0, anisotropy, black_border, None, squared)
    return inside


def _transform(
    data: ArrayLike, anisotropy: Any, black_border: bool, voxel_graph: None, squared: bool
) -> Distances:
    labels = np.asarray(data)
    if not 1 <= labels.ndim <= 3:
        raise TypeError(f"data: expected 1, 2 or 3 dimensions, got {labels.ndim}")
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"data: expected integers, bools or floats, got dtype {labels.dtype}")
    if voxel_graph is not None:
        raise NotImplementedError("voxel_graph: not supported, expected None")
    spacing = arrays.numbers_per_axis("anisotropy", anisotropy, labels.ndim, ValueError)
    if labels.flags.f_contiguous and not labels.flags.c_contiguous:  # the result lies as the data do
        return _nearest_other_label(labels.T, spacing[::-1], black_border, squared).T
    return _nearest_other_label(labels, spacing, black_border, squared)


def _nearest_other_label(
    labels: NDArray[Any], spacing: tuple[float, ...], black_border: bool, squared: bool
) -> Distances:
    options: dict[str, Any] = {
        "spatial_dims": labels.ndim, "squared": squared, "border": "closed" if black_border else "open"
    }  # fmt: skip
    if labels.size == 0:
        return np.zeros(labels.shape, np.float32)
    if labels.dtype == np.bool_:
        return functional.edt(arrays.read("data", labels).tensor, spacing, **options).numpy()
    labels = _as_integers(labels)
    some, every = int(np.bitwise_or.reduce(labels, axis=None)), int(np.bitwise_and.reduce(labels, axis=None))
    # A black border is one more voxel of label 0, and with a bit that is set a voxel sees it.
    varying = some if black_border else some & ~every
    bits = [b for b in range(8 * labels.itemsize) if varying >> b & 1]
    if len(bits) == 1 and every == 0:
        return functional.edt(torch.from_numpy(labels != 0), spacing, **options).numpy()
    nearest = np.full(labels.shape, np.inf, np.float32)
    masked, mask, signed = (
        np.empty(labels.shape, labels.dtype),
        np.empty(labels.shape, bool),
        np.empty_like(nearest),
    )
    for b in bits:
        np.bitwise_and(labels, labels.dtype.type(1 << b), out=masked)
        np.not_equal(masked, 0, out=mask)
        functional.sdf(torch.from_numpy(mask), spacing, out=torch.from_numpy(signed), **options)
        np.minimum(nearest, np.abs(signed, out=signed), out=nearest)
    nearest[labels == 0] = 0
    return nearest


def _as_integers(labels: NDArray[Any]) -> NDArray[Any]:
    """Unsigned integers, few of whose bits vary, that are equal where the labels are and 0 where these are."""
    if labels.dtype.kind != "f":
        labels = labels.view(labels.dtype.str.replace("i", "u"))
        some, every = np.bitwise_or.reduce(labels, axis=None), np.bitwise_and.reduce(labels, axis=None)
        if int(some & ~every).bit_count() <= _MANY_BITS:
            return labels
    values, numbers = np.unique(labels, return_inverse=True)
    numbers = numbers.reshape(labels.shape).astype(np.uint32)
    zero = np.flatnonzero(values == 0)
    if len(zero) == 0:
        return numbers + np.uint32(1)
    # 0 and the lowest label change places
    first, at = numbers == 0, numbers == zero[0]
    numbers[first] = zero[0]
    numbers[at] = 0
    return numbers
