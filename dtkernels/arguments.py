"""Validation of what users pass, once, before any work: each error names argument, expectation and value."""

from __future__ import annotations

import math
import numbers
import struct
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from .problem import MAX_SIDE, DType, Image, Rule

SpacingLike = float | Sequence[float] | torch.Tensor | None

DTYPES = {
    torch.bool: DType.UINT8,
    torch.uint8: DType.UINT8,
    torch.int8: DType.INT8,
    torch.int16: DType.INT16,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
    torch.float32: DType.FLOAT32,
    torch.float64: DType.FLOAT64,
}


def check_tensor(name: str, value: Any) -> torch.Tensor:
    """A torch tensor of a dtype that the kernels read."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(
            f"{name}: expected a torch.Tensor, got {type(value).__module__}.{type(value).__qualname__}"
        )
    if value.layout != torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name}: expected a dense (strided) tensor, got a {kind} one")
    if value.dtype not in DTYPES:
        names = ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        raise TypeError(f"{name}: expected dtype in {{{names}}}, got {str(value.dtype).removeprefix('torch.')}")
    return value


FUNCTION_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_function(name: str, value: Any) -> torch.Tensor:
    """A torch tensor of real values, not a mask."""
    function = check_tensor(name, value)
    if function.dtype not in FUNCTION_DTYPES:
        raise TypeError(
            f"{name}: expected dtype float16, bfloat16, float32 or float64, "
            f"got {str(function.dtype).removeprefix('torch.')}; pass {name}.float()"
        )
    return function


def needs_gradient(value: torch.Tensor) -> bool:
    """Whether a gradient is asked for, by a transform of ``torch.func`` outside of another, too."""
    if not torch.is_grad_enabled():
        return False
    if not torch.compiler.is_compiling():  # a compiler sees through
        while not value.requires_grad and functorch.is_functorch_wrapped_tensor(value):
            value = functorch.get_unwrapped(value)
    return value.requires_grad


def check_no_gradient(name: str, value: torch.Tensor) -> None:
    """A mask has no derivative: asking for one is a mistake that would pass silently."""
    if needs_gradient(value):
        raise ValueError(
            f"{name}: expected a tensor that needs no gradient (a distance map of a mask is piecewise "
            f"constant in it), got requires_grad=True; pass {name}.detach() or call under torch.no_grad()"
        )


def has_tangent(value: Any) -> bool:
    """Whether a forward derivative is asked for; a compiler asks for none."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0 or not isinstance(value, torch.Tensor):
        return False
    while functorch.is_batchedtensor(value):
        value = functorch.get_unwrapped(value)
    return forward_ad.unpack_dual(value).tangent is not None


def check_no_tangent(name: str, value: Any) -> None:
    """torch asks an operator of a library for no forward derivative, and would take it for zero."""
    if has_tangent(value):
        raise NotImplementedError(
            f"{name}: expected a tensor without a tangent (there is no forward-mode derivative), "
            "got a dual tensor; use reverse mode"
        )


def resolve_spatial_dims(ndim: int, spatial_dims: int | None, name: str = "mask") -> int:
    """How many trailing dimensions are spatial."""
    if spatial_dims is None:
        if ndim == 0:
            raise ValueError(f"{name}: expected at least 1 dimension, got a 0-dimensional tensor")
        if ndim <= 3:
            return ndim
        if ndim <= 5:
            return ndim - 2
        raise ValueError(
            f"{name}: expected at most 5 dimensions when spatial_dims is not given, got {ndim}; "
            "pass spatial_dims (1, 2 or 3)"
        )
    if isinstance(spatial_dims, bool) or not isinstance(spatial_dims, numbers.Integral):
        raise TypeError(f"spatial_dims: expected an int in 1..3, got {spatial_dims!r}")
    spatial_dims = int(spatial_dims)
    if not 1 <= spatial_dims <= 3:
        raise ValueError(f"spatial_dims: expected 1, 2 or 3, got {spatial_dims}")
    if ndim < spatial_dims:
        raise ValueError(f"{name}: expected at least spatial_dims={spatial_dims} dimensions, got {ndim}")
    return spatial_dims


def operator_spacing(
    spacing: SpacingLike, spatial_dims: int, *, differentiable: bool = False
) -> list[float] | torch.Tensor | None:
    """What users may write as ``spacing``, in the form that the operators take."""
    if spacing is None:
        return None
    if isinstance(spacing, torch.Tensor):
        if not differentiable:
            check_no_gradient("spacing", spacing)
        if spacing.ndim == 2:
            return spacing
        raise ValueError(
            "spacing: expected a number, a sequence of numbers or a 2-D tensor (one row per sample), "
            f"got a {spacing.ndim}-D tensor; use spacing.tolist()"
        )
    if isinstance(spacing, np.ndarray) and spacing.ndim == 0:
        spacing = spacing[()]
    try:
        if isinstance(spacing, numbers.Real) and not isinstance(spacing, bool):
            return [float(spacing)] * spatial_dims
        if isinstance(spacing, (str, bytes, Mapping, Set)):  # iterable, but not numbers in an order
            raise TypeError
        values = [float(s) for s in spacing]  # type: ignore[union-attr]
    except OverflowError:
        raise ValueError("spacing: expected numbers that a float can hold, got a larger one") from None
    except (TypeError, ValueError):
        raise TypeError(
            f"spacing: expected None, a number, {spatial_dims} numbers or a (B, {spatial_dims}) tensor, "
            f"got {spacing!r}"
        ) from None
    if len(values) != spatial_dims:
        raise ValueError(
            f"spacing: expected {spatial_dims} numbers (one per spatial dimension, in array order), "
            f"got {len(values)}: {values}"
        )
    return values


def host_spacing(spacing: Sequence[float] | None, spatial_dims: int) -> tuple[float, float, float]:
    """Spacing as (z, y, x), 1 for the axes that the image lacks."""
    if spacing is None:
        return (1.0, 1.0, 1.0)
    if len(spacing) == 1:
        spacing = [spacing[0]] * spatial_dims
    if len(spacing) != spatial_dims:
        raise ValueError(
            f"spacing: expected {spatial_dims} numbers (one per spatial dimension, in array order), "
            f"got {len(spacing)}: {list(spacing)}"
        )
    for s in spacing:
        # The kernels hold s^2 as float32: it must be a normal number there.
        if not (math.isfinite(s) and 1e-18 <= s <= 1e18):
            raise ValueError(f"spacing: expected positive finite numbers in [1e-18, 1e18], got {list(spacing)}")
    full = [1.0] * (3 - spatial_dims) + [float(s) for s in spacing]
    return (full[0], full[1], full[2])


def sample_spacing(spacing: torch.Tensor, spatial_dims: int, mask: torch.Tensor, samples: int) -> torch.Tensor:
    """(samples, 3) float64 rows (z, y, x) on the mask's device. Values on a GPU are not read back."""
    if spacing.shape != (samples, spatial_dims):
        raise ValueError(
            f"spacing: expected shape ({samples}, {spatial_dims}) (one row per sample), got {tuple(spacing.shape)}"
        )
    if spacing.is_complex() or spacing.dtype == torch.bool:
        raise TypeError(f"spacing: expected a real dtype, got {spacing.dtype}")
    check_device("spacing", spacing, mask)
    check_no_gradient("spacing", spacing)
    if spacing.device.type == "cpu" and samples:
        low, high = torch.aminmax(spacing)
        if not (math.isfinite(low.item()) and low.item() >= 1e-18 and high.item() <= 1e18):
            raise ValueError(f"spacing: expected positive finite numbers in [1e-18, 1e18], got {spacing.tolist()}")
    rows = torch.ones((samples, 3), dtype=torch.float64, device=mask.device)
    rows[:, 3 - spatial_dims :] = spacing
    return rows


def check_device(name: str, value: torch.Tensor, mask: torch.Tensor) -> None:
    """Nothing is moved to another device by itself."""
    if value.device != mask.device:
        raise ValueError(f"{name}: expected a tensor on device {mask.device} like the mask, got {value.device}")


def device_by_name(name: str) -> torch.device:
    """A device that is here, by the name that a user typed."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected cpu, cuda or cuda:1, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: expected one that is here, got {name!r}, but torch sees no such GPU")
    return device


def where_equal(x: torch.Tensor, value: int) -> torch.Tensor | None:
    """Where ``x`` is ``value``; None where its dtype cannot hold it: to torch a uint8 255 equals -1."""
    if not x.dtype.is_floating_point and x.dtype != torch.bool:
        limits = torch.iinfo(x.dtype)
        if not limits.min <= value <= limits.max:
            return None
    return x == (float(value) if x.dtype.is_floating_point else value)


def check_options(
    *,
    squared: Any = False,
    border: Any = "open",
    backend: Any,
    threshold: Any = None,
    num_classes: Any = 1,
    first_label: Any = 0,
    out_dtype: Any = None,
) -> None:
    """Types of the options: torch's own answer to a wrong one is a dump of the operator's schema."""
    if not isinstance(squared, bool):
        raise TypeError(f"squared: expected a bool, got {squared!r}")
    if not isinstance(border, str):
        raise TypeError(f"border: expected a str, 'open' or 'closed', got {border!r}")
    if backend is not None and not isinstance(backend, str):
        raise TypeError(f"backend: expected None or a str, a backend's name, got {backend!r}")
    if threshold is not None and not isinstance(threshold, numbers.Real):
        raise TypeError(f"threshold: expected None or a number, got {threshold!r}")
    if out_dtype is not None and not isinstance(out_dtype, torch.dtype):
        raise TypeError(f"out_dtype: expected None or a torch.dtype, got {out_dtype!r}")
    for name, value in (("num_classes", num_classes), ("first_label", first_label)):
        if isinstance(value, bool) or not isinstance(value, (numbers.Integral, torch.SymInt)):
            raise TypeError(f"{name}: expected an int, got {value!r}")


OUT_DTYPES = {
    torch.float32: DType.FLOAT32,
    torch.float16: DType.FLOAT16,
    torch.bfloat16: DType.BFLOAT16,
    torch.uint8: DType.UINT8,
}
# The largest finite distance that a type holds: no float16 is between 65504 and infinity, and 255 is the infinity
# of bytes. The others reach as far as float32.
_LARGEST = {torch.float16: 65504.0, torch.uint8: 254.0}
_LONGEST = 1.8e19  # its square is nearly the largest float32
_SAFE_SPACING = _LONGEST / (2 * MAX_SIDE)  # no volume is that long


def check_out_dtype(out_dtype: torch.dtype | None, signed: bool) -> torch.dtype:
    """The element type of the result, float32 by default."""
    if out_dtype is None:
        return torch.float32
    names = [str(dtype).removeprefix("torch.") for dtype in OUT_DTYPES if not (signed and dtype == torch.uint8)]
    if out_dtype not in OUT_DTYPES or (signed and out_dtype == torch.uint8):
        what = "of a signed distance " if signed else ""
        raise TypeError(
            f"out_dtype: expected a type {what}among {names}, got {str(out_dtype).removeprefix('torch.')}"
        )
    return out_dtype


def check_squares_fit(sides: Sequence[int], spacing: Sequence[float] | torch.Tensor) -> None:
    """The kernels hold squared distances as float32. Spacing on a GPU is not read: there they become infinite."""
    if isinstance(spacing, torch.Tensor):
        if spacing.device.type != "cpu" or not spacing.numel():
            return
        spacing = spacing.amax(0).tolist()
    if max(spacing) <= _SAFE_SPACING:
        return
    # Beyond a closed border, background lies one step away from an axis of one voxel.
    diagonal = math.hypot(*(s * max(n - 1, 1) for s, n in zip(spacing, sides, strict=True)))
    if diagonal >= _LONGEST:
        raise ValueError(
            f"spacing: expected distances below {_LONGEST:g}, whose squares are float32, but the image's diagonal "
            f"is {diagonal:g}"
        )


def check_distances_fit(
    out_dtype: torch.dtype,
    sides: Sequence[int],
    spacing: Sequence[float] | torch.Tensor,
    *,
    squared: bool,
    closed: bool,
) -> None:
    """No distance that is possible between voxels of an image of these sides may overflow its type.

    ``spacing`` is one row or a tensor of rows, which must not be on a GPU: reading it would synchronise.
    """
    if out_dtype not in _LARGEST or min(sides) == 0:
        return
    name = str(out_dtype).removeprefix("torch.")
    if isinstance(spacing, torch.Tensor):
        if spacing.device.type != "cpu":
            raise ValueError(
                f"out_dtype: expected spacing as numbers for {name}, which its distances may overflow; "
                f"got a tensor on {spacing.device}, whose values are not read"
            )
        if not spacing.numel():
            return
        rows = spacing.amax(0).tolist()
    else:
        rows = list(spacing)
    square = sum((s * (n - 1)) ** 2 for s, n in zip(rows, sides, strict=True))
    if closed:  # an image of one voxel has no diagonal, but a distance to what surrounds it
        square = max(square, min((s * ((n + 1) // 2)) ** 2 for s, n in zip(rows, sides, strict=True)))
    longest = square if squared else math.sqrt(square)
    if longest > _LARGEST[out_dtype]:
        raise ValueError(
            f"out_dtype: expected {'squared ' if squared else ''}distances up to {_LARGEST[out_dtype]:g} "
            f"for {name}, but the image's diagonal is {longest:g}; take float32 or bfloat16"
        )


def check_border(border: str) -> bool:
    """True where the image is surrounded by background."""
    if border not in ("open", "closed"):
        raise ValueError(f"border: expected 'open' or 'closed', got {border!r}")
    return border == "closed"


def check_connectivity(connectivity: int | None, spatial_dims: int) -> int:
    """In how many coordinates neighbours may differ, 1 by default."""
    if connectivity is None:
        return 1
    if isinstance(connectivity, bool) or not isinstance(connectivity, int):
        raise TypeError(f"connectivity: expected an int in 1..{spatial_dims}, got {connectivity!r}")
    if not 1 <= connectivity <= spatial_dims:
        raise ValueError(
            f"connectivity: expected 1..{spatial_dims} (the number of spatial dimensions), got {connectivity}"
        )
    return connectivity


def round_threshold(threshold: float, dtype: torch.dtype) -> float:
    """The threshold as torch compares it: rounded to the tensor's own floating-point dtype."""
    threshold = float(threshold)
    if math.isnan(threshold):
        raise ValueError("threshold: expected a number, got nan")
    if math.isinf(threshold) or not dtype.is_floating_point or dtype == torch.float64:
        return threshold
    if dtype == torch.float32:
        try:
            return float(struct.unpack("f", struct.pack("f", threshold))[0])
        except OverflowError:
            return math.copysign(math.inf, threshold)
    return torch.tensor(threshold, dtype=dtype).item()


class Layout(NamedTuple):
    """Where the two batch axes and the three spatial axes of an input are."""

    image: Image
    source: torch.Tensor  # keeps the memory of image.data alive


def mask_layout(
    mask: torch.Tensor, spatial_dims: int, threshold: float | None = None, name: str = "mask"
) -> Layout:
    """Describe ``mask`` to the kernels: leading dimensions become (sample, everything else)."""
    lead = mask.ndim - spatial_dims
    if lead > 2:  # a view wherever the strides allow
        mask = mask.flatten(1, lead - 1)
        lead = 2
    pad = (1,) * (2 - lead)
    shape, stride = tuple(mask.shape), mask.stride()
    gap = (1,) * (3 - spatial_dims)
    image = Image(
        data=mask.data_ptr(),
        dtype=DTYPES[mask.dtype],
        shape=(*shape[:lead], *pad, *gap, *shape[lead:]),  # type: ignore[arg-type]
        stride=(*stride[:lead], *pad, *gap, *stride[lead:]),  # type: ignore[arg-type]
        rule=Rule.NONZERO if threshold is None else Rule.ABOVE,
        threshold=0.0 if threshold is None else round_threshold(threshold, mask.dtype),
    )
    check_sides(name, image.shape, spatial_dims)
    return Layout(image, mask)


def labels_shape(labels: torch.Tensor, num_classes: int, spatial_dims: int) -> tuple[int, ...]:
    """Shape of the class maps of a label map: (C, *spatial) or (B, C, *spatial)."""
    lead = tuple(labels.shape[: labels.ndim - spatial_dims])
    spatial = tuple(labels.shape[labels.ndim - spatial_dims :])
    if num_classes < 1:
        raise ValueError(f"num_classes: expected at least 1, got {num_classes}")
    if len(lead) == 0:
        return (num_classes, *spatial)
    if len(lead) == 1 or (len(lead) == 2 and lead[1] == 1):
        return (lead[0], num_classes, *spatial)
    raise ValueError(
        f"labels: expected shape (B, *spatial) or (B, 1, *spatial) with {spatial_dims} spatial dimensions, "
        f"got {tuple(labels.shape)}; pass spatial_dims if that is not what you meant"
    )


def labels_layout(labels: torch.Tensor, num_classes: int, spatial_dims: int, first: int = 0) -> Layout:
    """Describe an integer label map as masks of labels from ``first`` on over the same memory (class stride 0)."""
    if abs(first) > 1 << 53:  # what a double holds
        raise ValueError(f"first_label: expected at most 2^53 in size, got {first}")
    if labels.dtype == torch.bool or labels.dtype.is_floating_point:
        raise TypeError(f"labels: expected an integer dtype, got {str(labels.dtype).removeprefix('torch.')}")
    lead = labels.ndim - spatial_dims
    gap = (1,) * (3 - spatial_dims)
    image = Image(
        data=labels.data_ptr(),
        dtype=DTYPES[labels.dtype],
        shape=(labels.shape[0] if lead else 1, num_classes, *gap, *labels.shape[lead:]),
        stride=(labels.stride(0) if lead else 0, 0, *gap, *labels.stride()[lead:]),  # type: ignore[arg-type]
        rule=Rule.EQUALS_CLASS,
        threshold=float(first),
    )
    check_sides("labels", image.shape, spatial_dims)
    return Layout(image, labels)


def check_sides(name: str, shape: Sequence[int], spatial_dims: int) -> None:
    """Squared voxel counts must fit the kernels' 32-bit integers."""
    sides = tuple(shape[len(shape) - spatial_dims :])
    if max(sides) > MAX_SIDE:
        raise ValueError(f"{name}: expected spatial sides up to {MAX_SIDE}, got {sides}")
    if sum((n - 1) ** 2 for n in sides if n) >= 2**31 - 1:
        raise ValueError(f"{name}: expected a squared image diagonal below 2^31 voxels, got sides {sides}")


def check_out_type(out: Any) -> None:
    """A tensor, so that torch's own dispatch has something to look at."""
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"out: expected a torch.Tensor, got {type(out).__qualname__}")


def check_out(
    out: torch.Tensor,
    shape: Sequence[int],
    mask: torch.Tensor,
    spacing: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """A preallocated result: of its dtype, contiguous, of the result's shape and device, apart from the mask."""
    if out.dtype != dtype:
        expected, got = (str(d).removeprefix("torch.") for d in (dtype, out.dtype))
        raise TypeError(f"out: expected dtype {expected}, got {got}")
    if tuple(out.shape) != tuple(shape):
        raise ValueError(f"out: expected shape {tuple(shape)}, got {tuple(out.shape)}")
    check_device("out", out, mask)
    if not out.is_contiguous():
        raise ValueError(f"out: expected a contiguous tensor, got strides {out.stride()}")
    if out.requires_grad:
        raise ValueError("out: expected a tensor that needs no gradient, got requires_grad=True")
    if _overlap(out, mask):
        raise ValueError("out: expected memory apart from the mask's, got overlapping tensors")
    if spacing is not None and _overlap(out, spacing):
        raise ValueError("out: expected memory apart from the spacing's, got overlapping tensors")


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.numel() > 0 and b.numel() > 0 and max(_range(a)[0], _range(b)[0]) < min(_range(a)[1], _range(b)[1])


def _range(t: torch.Tensor) -> tuple[int, int]:
    """First byte and one past the last byte that a tensor touches (torch strides are never negative)."""
    last = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()
