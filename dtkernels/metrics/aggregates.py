"""Means over cases that say what they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Aggregate(NamedTuple):
    """A mean over what is finite, and the cases that are not in it."""

    mean: Tensor  # float32; nan where no case is finite, never 0
    used: Tensor  # int64: finite cases
    infinite: Tensor  # int64: left out for being infinite, such as missed objects
    undefined: Tensor  # int64: left out for being nan, such as classes that neither mask has

    def __str__(self) -> str:
        """The mean with what it leaves out; reads the values back."""
        if self.mean.ndim:
            return " | ".join(str(Aggregate(*parts)) for parts in zip(*(x.flatten() for x in self), strict=True))
        used, infinite, undefined = (int(x) for x in self[1:])
        text = f"{float(self.mean):.4g} over {used} of {used + infinite + undefined} cases"
        left = [f"{n} {what}" for n, what in ((infinite, "infinite"), (undefined, "undefined")) if n]
        return text + (f" ({', '.join(left)} left out)" if left else "")


def aggregate(values: Tensor, dim: int | Sequence[int] | None = None) -> Aggregate:
    """Mean over the finite values of one metric, with counts of what is left out.

    The trap: a missed organ has no finite Hausdorff distance. An average that drops it silently gets *better*
    the more organs a model misses: MONAI's gives 3.0 for [3.0, missed], and 0.0, a perfect score, when all are
    missed. Report the counts beside the mean, or measure with ``on_empty="diagonal"`` so that a miss costs.

    Args:
        values: any float tensor, for example ``(B, C)``.
        dim: dimensions to average over; 0 leaves one mean per class. Default: all.

    Returns:
        :class:`Aggregate`, without reading anything back to the host.

    Raises:
        TypeError: ``values`` is no floating-point tensor.

    >>> import torch
    >>> print(aggregate(torch.tensor([3.0, float("inf")])))
    3 over 1 of 2 cases (1 infinite left out)
    >>> print(aggregate(torch.tensor([float("inf"), float("inf")])))
    nan over 0 of 2 cases (2 infinite left out)
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        got = values.dtype if isinstance(values, Tensor) else type(values).__qualname__
        raise TypeError(f"values: expected a floating-point torch.Tensor, got {got}")
    over = tuple(range(values.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    finite, undefined = values.isfinite(), values.isnan()

    def total(x: Tensor) -> Tensor:
        return x.sum(over) if over else x

    used = total(finite.long())
    mean = total(values.masked_fill(~finite, 0).double()) / used
    return Aggregate(mean.float(), used, total(values.isinf().long()), total(undefined.long()))
