"""The functions that users call: exact Euclidean distance maps of masks and what goes with them.

They are thin: :mod:`dtkernels.ops` holds the operators, :mod:`dtkernels.arguments` the checks.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import arguments
from .arguments import SpacingLike


def edt(
    mask: Tensor,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    threshold: float | None = None,
    border: str = "open",
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Distance of each foreground voxel to the nearest background voxel.

    .. math:: d(p) = \min_{q:\,m(q)=0} \sqrt{\textstyle\sum_k s_k^2 (p_k - q_k)^2}

    Distances are between voxel centres, in the unit of ``spacing``. At equal spacing the squared voxel counts
    are exact integers; otherwise the squared distance has a relative error of a few units of 2^-24.

    Args:
        mask: ``(*batch, *spatial)`` on any device, of any layout; bool, (u)int8, int16, int32, int64,
            float16, bfloat16, float32 or float64. Foreground is non-zero (NaN is background). It may not
            require a gradient.
        spacing: voxel spacing: None (1), a number, one number per spatial dimension in array order, or a
            ``(B, spatial_dims)`` tensor on the mask's device with one row per sample (its values are read
            only where that needs no device synchronisation, on CPUs: a GPU does not check them, and computes in
            float32 even where they are equal).
        spatial_dims: how many trailing dimensions are spatial (1, 2 or 3). Default: 5-D is (B, C, D, H, W),
            4-D is (B, C, H, W), up to 3-D is all spatial.
        squared: return the squared distance.
        threshold: foreground is ``mask > threshold`` instead, so that probabilities and logits need no mask
            of their own.
        border: ``"open"``: the image edge is no boundary. ``"closed"``: background surrounds the image.
        out: contiguous tensor of the result's shape and dtype to write to.
        out_dtype: element type of the result, float32 by default. ``torch.float16`` and ``torch.bfloat16`` halve,
            ``torch.uint8`` (unsigned distances only) quarters the memory; values are those of float32 rounded to
            nearest, ties to even. Where the image's diagonal (its square if ``squared``) exceeds 65504 in float16
            or 254 in uint8 the call is refused, so nothing overflows; 255 is the infinity of uint8.
        backend: a backend by name, see :func:`dtkernels.backends.available`.

    Returns:
        tensor of the mask's shape and device, float32 by default: 0 in the background; 0 everywhere for an empty
        mask; +inf everywhere for a full mask with an open border. Not differentiable.

    Raises:
        TypeError: ``mask`` is no tensor or of an unsupported dtype, ``spacing`` no number, or ``out_dtype`` unfit.
        ValueError: wrong rank, spacing of the wrong length or not positive and finite, unknown border or
            backend, ``mask`` requires a gradient, a side above 32,768, an unfit ``out``, a diagonal of 1.8e19 and
            more, whose square is no float32, distances that may overflow ``out_dtype`` (or cannot be bounded:
            float16 or uint8 with ``spacing`` in a GPU's memory).
        RuntimeError: no backend can run on the mask's device.

    References:
        Felzenszwalb & Huttenlocher, Distance Transforms of Sampled Functions, Theory of Computing 8, 2012.

    >>> import torch, dtkernels as dtk
    >>> mask = torch.tensor([[0, 1, 1, 1, 0]])
    >>> dtk.edt(mask, spacing=(1.0, 0.5))
    tensor([[0.0000, 0.5000, 1.0000, 0.5000, 0.0000]])
    """
    return _call(
        "edt", "mask", (mask,), spacing, spatial_dims, out,
        squared=squared, threshold=threshold, border=border, backend=backend, out_dtype=out_dtype,
    )  # fmt: skip


def sdf(
    mask: Tensor,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    threshold: float | None = None,
    border: str = "open",
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    r"""Signed distance ``d_out - d_in``: positive outside, negative inside, one sweep per axis for both.

    .. math:: \phi(p) = \begin{cases} +\min_{q:\,m(q)=1} \|p - q\|_s & m(p) = 0 \\
                                      -\min_{q:\,m(q)=0} \|p - q\|_s & m(p) = 1 \end{cases}

    with the norm, the unit and the exactness of :func:`edt`. There is no zero level: values jump from the
    spacing outside to minus the spacing inside.

    Args:
        mask: as in :func:`edt`.
        spacing: as in :func:`edt`.
        spatial_dims: as in :func:`edt`.
        squared: return ``sign(d) d^2``.
        threshold: as in :func:`edt`.
        border: as in :func:`edt`; ``"closed"`` bounds the distances of foreground voxels only.
        out: as in :func:`edt`.
        out_dtype: as in :func:`edt`, but not uint8, which holds no sign.
        backend: as in :func:`edt`.

    Returns:
        tensor of the mask's shape and device, float32 by default: +inf everywhere for an empty mask, -inf
        everywhere for a full mask with an open border. Not differentiable.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`edt`.

    >>> import torch, dtkernels as dtk
    >>> dtk.sdf(torch.tensor([[0, 0, 1, 1, 1, 0]]))
    tensor([[ 2.,  1., -1., -2., -1.,  1.]])
    """
    return _call(
        "sdf", "mask", (mask,), spacing, spatial_dims, out,
        squared=squared, threshold=threshold, border=border, backend=backend, out_dtype=out_dtype,
    )  # fmt: skip


def labels_sdf(
    labels: Tensor,
    num_classes: int,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    squared: bool = False,
    border: str = "open",
    first_label: int = 0,
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Signed distance of every class of a label map, without a one-hot tensor.

    Class ``c`` of the result is ``sdf(labels == first_label + c)``.

    Args:
        labels: integer ``(*spatial)``, ``(B, *spatial)`` or ``(B, 1, *spatial)``. Labels outside
            ``first_label .. first_label + num_classes - 1`` are background of every class.
        num_classes: number of class maps, that of the background included where ``first_label`` is 0.
        spacing: as in :func:`edt`.
        spatial_dims: as in :func:`edt`; pass 3 for a ``(B, D, H, W)`` label map.
        squared: as in :func:`sdf`.
        border: as in :func:`sdf`.
        first_label: the label of the first map; 1 leaves the background out.
        out: as in :func:`edt`.
        out_dtype: as in :func:`sdf`.
        backend: as in :func:`edt`.

    Returns:
        ``(C, *spatial)`` or ``(B, C, *spatial)``, float32 by default; absent and all-covering classes as in
        :func:`sdf`. Not differentiable.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`edt`.

    >>> import torch, dtkernels as dtk
    >>> dtk.labels_sdf(torch.tensor([0, 0, 1, 2, 2]), num_classes=3)
    tensor([[-2., -1.,  1.,  2.,  3.],
            [ 2.,  1., -1.,  1.,  2.],
            [ 3.,  2.,  1., -1., -2.]])
    """
    return _call(
        "labels_sdf", "labels", (labels, num_classes), spacing, spatial_dims, out,
        squared=squared, border=border, backend=backend, out_dtype=out_dtype, first_label=first_label,
    )  # fmt: skip


def nearest(
    mask: Tensor,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    threshold: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Nearest background voxel of each voxel: its distance and its position (the feature transform).

    .. math:: i(p) = \min\, \operatorname*{arg\,min}_{q:\,m(q)=0} \|p - q\|_s

    Positions count within the flattened spatial dimensions, so that of several voxels equally near the lowest is
    the first in raster order, on every backend. A background voxel is its own nearest. At equal spacing squared
    voxel counts are compared, which is exact; otherwise the float32 sums ``(s_x^2 x^2 + s_y^2 y^2) + s_z^2 z^2``
    (the last axis is x), so that voxels whose distances differ by less than rounding may count as equally near.

    To carry values of the background into the foreground, gather them:
    ``values.flatten().take(index)``, where the mask has any background.

    Args:
        mask: as in :func:`edt`.
        spacing: as in :func:`edt`.
        spatial_dims: as in :func:`edt`.
        threshold: as in :func:`edt`.
        backend: as in :func:`edt`.

    Returns:
        ``(distance, index)`` of the mask's shape and device. ``distance`` is that of :func:`edt`, bit for bit:
        float32, +inf everywhere for a full mask. ``index`` is int64, what torch's own indexing takes and what the
        largest volumes need: -1 everywhere for a full mask. Not differentiable.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`edt`.

    References:
        Maurer, Qi & Raghavan, A Linear Time Algorithm for Computing Exact Euclidean Distance Transforms of
        Binary Images in Arbitrary Dimensions, IEEE TPAMI 25, 2003.

    >>> import torch, dtkernels as dtk
    >>> distance, index = dtk.nearest(torch.tensor([0, 1, 1, 1, 0]))
    >>> distance
    tensor([0., 1., 2., 1., 0.])
    >>> index
    tensor([0, 0, 0, 4, 4])
    """
    arguments.check_tensor("mask", mask)
    arguments.check_options(threshold=threshold, backend=backend)
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    given = arguments.operator_spacing(spacing, dims)
    op = torch.ops.dtk.nearest
    overload = op.per_sample if isinstance(given, Tensor) else op.default
    result: tuple[Tensor, Tensor] = overload(mask, given, spatial_dims=dims, threshold=threshold, backend=backend)
    return result


@overload
def envelope(
    f: Tensor,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    return_index: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...


@overload
def envelope(
    f: Tensor,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    return_index: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


def envelope(
    f: Tensor,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    return_index: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Lower envelope of the parabolas over a function: the distance transform of a sampled function.

    .. math:: E(p) = \min_q f(q) + \textstyle\sum_k s_k^2 (p_k - q_k)^2

    Of the indicator of a set (0 on it, +inf elsewhere) this is the squared distance to the set; of any f it is
    its Moreau envelope (with factor 1/2), the erosion by a paraboloid. All squared distances are in the unit of
    ``spacing``, squared, and so is f.

    Computed in the dtype of the result, the last axis first: the least of the sums ``((f + x) + y) + z``, bit for
    bit, where ``x`` is ``s_x^2 k^2`` in that dtype. The minimiser is the lowest position among equal sums; sums
    that differ by less than rounding may count as equal.

    Differentiable in ``f``, whose gradient goes to the minimising q (the lowest where several are, a kink), and in
    a ``spacing`` tensor: ``2 s_k (p_k - q_k)^2``. E is piecewise linear in f, so its second derivative in f is
    zero, and double backward says so. The gradient in f is the same in every run. There is no forward-mode
    derivative, and ``torch.func.grad`` does not go through operators that are registered in Python.

    Args:
        f: ``(*batch, *spatial)`` on any device, of any layout; float16, bfloat16, float32 or float64, of any sign.
            +inf and NaN are no candidates; -inf spreads over its whole image.
        spacing: as in :func:`edt`, but a tensor may require a gradient.
        spatial_dims: as in :func:`edt`.
        return_index: return the minimisers, too.
        backend: as in :func:`edt`.

    Returns:
        E of f's shape and device, float64 for float64 and float32 otherwise: at most f, and +inf in an image where
        f has no finite value. With ``return_index`` also the position of the minimising q within the flattened
        spatial dimensions, int64, -1 where E is +inf.

    Raises:
        TypeError: ``f`` is no tensor or of no floating dtype, or ``spacing`` no number.
        ValueError: wrong rank, spacing of the wrong length or not positive and finite, unknown backend, a side
            above 32,768.
        RuntimeError: no backend can run on f's device.
        NotImplementedError: ``f`` or ``spacing`` carries a tangent of forward-mode differentiation.

    References:
        Felzenszwalb & Huttenlocher, Distance Transforms of Sampled Functions, Theory of Computing 8, 2012.

    >>> import torch, dtkernels as dtk
    >>> f = torch.tensor([4.0, 9.0, 0.0, 9.0, 9.0], requires_grad=True)
    >>> e, index = dtk.envelope(f, return_index=True)
    >>> e.tolist(), index.tolist()
    ([4.0, 1.0, 0.0, 1.0, 4.0], [0, 2, 2, 2, 2])
    >>> e.sum().backward()
    >>> f.grad.tolist()
    [1.0, 0.0, 4.0, 0.0, 0.0]
    """
    arguments.check_function("f", f)
    arguments.check_options(backend=backend)
    if not isinstance(return_index, bool):
        raise TypeError(f"return_index: expected a bool, got {return_index!r}")
    dims = arguments.resolve_spatial_dims(f.ndim, spatial_dims, "f")
    given = arguments.operator_spacing(spacing, dims, differentiable=True)
    arguments.check_no_tangent("f", f)
    arguments.check_no_tangent("spacing", given)
    rows = isinstance(given, Tensor)
    # The gradient needs the minimisers: it would have to find them again.
    needed = torch.is_grad_enabled() and (f.requires_grad or (rows and given.requires_grad))  # type: ignore[union-attr]
    if not (return_index or needed):
        op = torch.ops.dtk.envelope
        values: Tensor = (op.per_sample if rows else op.default)(f, given, spatial_dims=dims, backend=backend)
        return values
    op = torch.ops.dtk.envelope_index
    both: tuple[Tensor, Tensor] = (op.per_sample if rows else op.default)(
        f, given, spatial_dims=dims, backend=backend
    )
    return both if return_index else both[0]


def label(
    mask: Tensor,
    *,
    connectivity: int | None = None,
    spatial_dims: int | None = None,
    threshold: float | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Connected components of the foreground, numbered per image.

    Two foreground voxels are neighbours if they differ by at most 1 in each coordinate, and in at most
    ``connectivity`` coordinates: 1 is 4 neighbours in 2-D and 6 in 3-D, 2 is 8 and 18, 3 is 26
    (``scipy.ndimage.generate_binary_structure``). On a GPU nothing is read back to the host, and parents of
    the union-find lie in the result, so that little other memory is needed.

    Args:
        mask: as in :func:`edt`.
        connectivity: 1 to the number of spatial dimensions; default 1.
        spatial_dims: as in :func:`edt`.
        threshold: as in :func:`edt`.
        backend: as in :func:`edt`.

    Returns:
        ``(labels, count)`` on the mask's device. ``labels`` is int32 of the mask's shape: 0 in the background and
        1 .. n in each image, in the raster order of the components' first voxels, on every backend. ``count`` is
        int32 of the batch's shape (0-dimensional for a single image): n, 0 for an empty mask or an image
        without voxels. Not differentiable.

    Raises:
        TypeError: as :func:`edt`, or ``connectivity`` is no int.
        ValueError: as :func:`edt`, ``connectivity`` out of range, or more than 2^31 - 1 runs of foreground along
            the last axis of an image; on a GPU, where they are not counted first, an image of 2^32 voxels or more.
        RuntimeError: as :func:`edt`.

    References:
        He, Chao & Suzuki, A Run-Based Two-Scan Labeling Algorithm, IEEE Transactions on Image Processing 17, 2008.
        On GPUs: Playne & Hawick, A New Algorithm for Parallel Connected-Component Labelling on GPUs, IEEE TPDS 29,
        2018.

    >>> import torch, dtkernels as dtk
    >>> mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    >>> dtk.label(mask)
    (tensor([[1, 0, 2],
            [0, 3, 0]], dtype=torch.int32), tensor(3, dtype=torch.int32))
    >>> dtk.label(mask, connectivity=2)[1].item()
    1
    """
    arguments.check_tensor("mask", mask)
    arguments.check_options(threshold=threshold, backend=backend)
    if connectivity is not None and (isinstance(connectivity, bool) or not isinstance(connectivity, int)):
        raise TypeError(f"connectivity: expected None or an int, got {connectivity!r}")
    arguments.check_no_gradient("mask", mask)
    dims = arguments.resolve_spatial_dims(mask.ndim, spatial_dims)
    result: tuple[Tensor, Tensor] = torch.ops.dtk.label.default(
        mask, connectivity=connectivity, spatial_dims=dims, threshold=threshold, backend=backend
    )
    return result


def _call(
    operator: str,
    name: str,
    inputs: tuple[Any, ...],
    spacing: SpacingLike,
    spatial_dims: int | None,
    out: Tensor | None,
    **options: Any,
) -> Tensor:
    """Call an operator in the form that suits ``spacing`` and ``out``."""
    x = arguments.check_tensor(name, inputs[0])
    arguments.check_options(**options, **({"num_classes": inputs[1]} if len(inputs) > 1 else {}))
    arguments.check_no_gradient(name, x)
    dims = arguments.resolve_spatial_dims(x.ndim, spatial_dims, name)
    given = arguments.operator_spacing(spacing, dims)
    overload = "default" if not isinstance(given, Tensor) else "per_sample"
    if out is None:
        op = getattr(getattr(torch.ops.dtk, operator), overload)
        result: Tensor = op(*inputs, given, spatial_dims=dims, **options)
        return result
    arguments.check_out_type(out)
    getattr(getattr(torch.ops.dtk, operator + "_out"), overload)(
        *inputs, given, spatial_dims=dims, out=out, **options
    )
    return out
