"""Sharding rules for distributed tensors: ``import dtkernels.dtensor`` once, then pass DTensors to the operators.

Samples and classes are images of their own, so that a tensor split along its batch dimensions is transformed
where its parts are, without communication. A tensor split along a spatial dimension is redistributed first, as
torch does for its own operators; :mod:`dtkernels.dask` computes a volume that fits on no single machine.

>>> import torch
>>> import dtkernels as dtk, dtkernels.dtensor
>>> from torch.distributed.tensor import distribute_tensor, Shard
>>> # on every rank of a mesh: dtk.sdf(distribute_tensor(mask, mesh, [Shard(0)])) is a DTensor with [Shard(0)]

Where the result of one image depends on more than itself, less can be split: of a label map only the samples (a
class is named by its number), and of :func:`dtkernels.distance_map` the samples with ``scope="sample"`` and
nothing with ``scope="batch"``. The forms that write into ``out`` have no rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from . import arguments

Placements = list[Any]


def _rule(outputs: int, batch: Callable[..., range], others: int = 0) -> Callable[..., Any]:
    """All replicated, or all split along one of the dimensions that ``batch`` gives for a call.

    The operator takes ``1 + others`` tensors of images and returns ``outputs`` tensors, all with the same batch
    dimensions in front. Rows of spacing go with the samples.
    """

    def rule(first: Any, *args: Any, **options: Any) -> list[tuple[Placements, Placements]]:
        rows = [x for x in args[others:] if hasattr(x, "tensor_meta")]
        result: list[tuple[Placements, Placements]] = [
            ([Replicate()] * outputs, [Replicate()] * (1 + others + len(rows)))
        ]
        for axis in batch(first, **options):
            spacing = [Shard(0) if axis == 0 else Replicate()] * len(rows)
            result.append(([Shard(axis)] * outputs, [Shard(axis)] * (1 + others) + spacing))
        return result

    return rule


def _leading(x: Any, *, spatial_dims: int | None = None, **options: Any) -> range:
    """Everything before the spatial dimensions."""
    return range(x.ndim - arguments.resolve_spatial_dims(x.ndim, spatial_dims))


def _samples(x: Any, **options: Any) -> range:
    return range(min(1, len(_leading(x, **options))))


def _maps(x: Any, *, num_classes: int | None = None, scope: str = "", **options: Any) -> range:
    """Of a mask any batch dimension, of a label map the samples; not what a maximum is taken over."""
    if scope == "batch":
        return range(0)
    return _leading(x, **options) if num_classes is None and scope != "sample" else _samples(x, **options)


def _of_prediction(x: Any, *, first_label: int | None = None, **options: Any) -> range:
    return range(2 if first_label is None else 1)


_RULES = {
    "edt": _rule(1, _leading),
    "sdf": _rule(1, _leading),
    "labels_sdf": _rule(1, _samples),
    "sdf_extrema": _rule(2, _maps),
    "distance_map": _rule(1, _maps),
    "boundary_sums": _rule(2, _of_prediction, others=1),
    "hausdorff_sums": _rule(2, _of_prediction, others=1),
    "nearest": _rule(2, _leading),
    "label": _rule(2, _leading),
    "envelope": _rule(1, _leading),
    "envelope_index": _rule(2, _leading),
    "envelope_backward": _rule(1, _leading, others=1),
}

for _name, _sharding in _RULES.items():
    _packet = getattr(torch.ops.dtk, _name)
    _operators = [getattr(_packet, _form) for _form in _packet.overloads()]
    register_sharding(_operators)(_sharding)
    if _sharding is _RULES["distance_map"]:
        # torch remembers a rule's answer by the options that are integers; this one also depends on a word.
        for _operator in _operators:
            _info = DTensor._op_dispatcher.sharding_propagator.op_to_schema_info[_operator]
            _info.static_kwargkey = [*(_info.static_kwargkey or ()), "scope"]
