"""``torch.func.vmap`` of what treats every sample by itself: the mapped dimension joins the samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch


def join(size: int, in_dims: Any, args: Any) -> list[Any]:
    """Arguments in which tensors, all of which begin with the samples, have their mapped dimension in front of it.

    A tensor that is not mapped is the same for all ``size``.
    """
    return [
        x
        if not isinstance(x, Tensor)
        else (x.expand(size, *x.shape) if at is None else x.movedim(at, 0)).flatten(0, 1)
        for x, at in zip(args, in_dims, strict=True)
    ]


def split(size: int, result: Tensor | tuple[Tensor, ...]) -> tuple[Any, Any]:
    """Results with the mapped dimension apart again, and where it is: at the beginning."""
    if isinstance(result, Tensor):
        return result.unflatten(0, (size, result.shape[0] // size)), 0
    return tuple(split(size, x)[0] for x in result), (0,) * len(result)


class SampleFunction(torch.autograd.Function):
    """A function of autograd for ``torch.func``, whose tensors all begin with the samples.

    ``forward`` so always has whole tensors and may write over its own. ``backward`` may not while gradients are
    enabled: either a second derivative will read them, or ``torch.func`` maps what is divided among them. Nor may
    it write what :func:`is_batched` over what is not.
    """

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        """The rule of ``torch.func.vmap``."""
        return split(info.batch_size, cls.apply(*join(info.batch_size, in_dims, args)))  # type: ignore[no-untyped-call]


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` is on its way: a tensor may have fewer dimensions than another."""
    return torch._C._are_functorch_transforms_active()


def is_batched(x: Any) -> bool:
    """Whether it stands for many, as the gradients of ``torch.autograd.grad(..., is_grads_batched=True)`` do."""
    if torch.compiler.is_compiling() or not isinstance(x, Tensor):  # a compiler knows no such gradients
        return False
    return bool(functorch.is_legacy_batchedtensor(x))
