"""The life of a MONAI metric: values of every iteration are kept, gathered from all processes, and reduced.

Mirrors ``monai.metrics.CumulativeIterationMetric`` and ``do_metric_reduction`` of MONAI 1.6. Gathering goes
through ``torch.distributed`` where a process group is initialised, and through nothing else (MONAI also knows
ignite's wrapper of it); a process that has no values takes part with none, where MONAI's waits for it for ever.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

REDUCTIONS = ("none", "mean", "sum", "mean_batch", "sum_batch", "mean_channel", "sum_channel")


class CumulativeIterationMetric(ABC):
    """Call it on every batch, then :meth:`aggregate`, then :meth:`reset`."""

    def __init__(self) -> None:
        """Without any value."""
        self.reset()

    def __str__(self) -> str:
        """The class's name, as MONAI's."""
        return type(self).__name__

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Tensor:
        """Measure one batch, ``(B, C, *spatial)`` or lists of ``(C, *spatial)``, and keep the values (B, C)."""
        if isinstance(y_pred, (list, tuple)) or isinstance(y, (list, tuple)):
            rows = [self._compute_tensor(p[None], t[None], **_of_sample(kwargs, i, len(y_pred)))
                    for i, (p, t) in enumerate(zip(y_pred, y, strict=True))]  # fmt: skip
            values = torch.cat(rows)
        elif isinstance(y_pred, Tensor):
            values = self._compute_tensor(y_pred.detach(), y.detach() if isinstance(y, Tensor) else None, **kwargs)
        else:
            raise ValueError(
                "y_pred or y must be a list/tuple of `channel-first` Tensors or a `batch-first` Tensor."
            )
        self.extend(values)
        return values

    @abstractmethod
    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None, **kwargs: Any) -> Tensor:
        """Values (B, C) of one batch."""

    @abstractmethod
    def aggregate(self, reduction: Any = None) -> Tensor | tuple[Tensor, Tensor]:
        """The reduced values of all batches and processes."""

    def reset(self) -> None:
        """Forget all values."""
        self._values: list[Tensor] = []
        self._gathered: Tensor | None = None

    def extend(self, values: Tensor) -> None:
        """Add values with a batch axis."""
        self._values.append(values)
        self._gathered = None

    def append(self, value: Tensor) -> None:
        """Add the values of one sample."""
        self.extend(value[None])

    def get_buffer(self) -> Tensor | None:
        """All values so far, of all processes in order of rank; None where there are none. A collective call."""
        if self._gathered is None:
            own = torch.cat(self._values) if self._values else None
            self._gathered = _gather(own)
        return None if self._gathered is None else self._gathered.clone()

    def __len__(self) -> int:
        """How many samples, in all processes."""
        values = self.get_buffer()
        return 0 if values is None else len(values)

    def _aggregate(self, reduction: Any, get_not_nans: bool) -> Tensor | tuple[Tensor, Tensor]:
        values = self.get_buffer()
        if values is None:
            raise ValueError("the data to aggregate must be PyTorch Tensor.")
        result, known = reduce(values, reduction)
        return (result, known) if get_not_nans else result


def reduce(values: Tensor, reduction: Any = "mean") -> tuple[Tensor, Tensor]:
    """MONAI's reductions of values (B, C), and how many values that are not nan are in each.

    nan is left out; a mean of nothing is 0. The mean is taken over the classes of a sample first.

    >>> import torch
    >>> reduce(torch.tensor([[1.0, 2.0], [torch.nan, 4.0]]), "mean")
    (tensor([2.7500]), tensor(2.))
    """
    name = getattr(reduction, "value", reduction)  # MONAI's enumeration, too
    if name not in REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    known = ~values.isnan()
    if name == "none":
        return values, known.float()
    values = values.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    if name == "mean":
        values, used = _mean(values, known, 1)
        result, count = _mean(values, used > 0, 0)
        return result[None], count
    kind, _, axis = name.partition("_")
    over = {"batch": [0], "channel": [1], "": [0, 1]}[axis]
    if kind == "sum":
        return values.sum(over), known.sum(over).float()
    return _mean(values, known, over[0])


def _mean(values: Tensor, known: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    count = known.sum(axis).float()
    return (values.sum(axis) / count).masked_fill(count == 0, 0.0), count


def _gather(own: Tensor | None) -> Tensor | None:
    """Concatenate the values of all processes; those without any have no shape to share, so objects are sent."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return own
    parts: list[Tensor | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, None if own is None else own.cpu())
    found = [part for part in parts if part is not None]
    if not found:
        return None
    device = found[0].device if own is None else own.device
    return torch.cat(found).to(device)


def _of_sample(kwargs: dict[str, Any], index: int, samples: int) -> dict[str, Any]:
    """Options of one sample of a list: its own row of a spacing with a row per sample."""
    spacing = kwargs.get("spacing")
    rows = (
        isinstance(spacing, Sequence) and len(spacing) == samples and all(hasattr(s, "__len__") for s in spacing)
    )
    if rows or (getattr(spacing, "ndim", 1) == 2):
        return {**kwargs, "spacing": spacing[index : index + 1]}  # type: ignore[index]
    return kwargs
