"""Functions of the masks out of functions of a result, with nothing written twice."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def of(measure: Callable[P, R]) -> Callable[[Callable[[R], Tensor]], Callable[P, Tensor]]:
    """Decorate a function that reads one metric off a result: it then takes what ``measure`` takes.

    >>> import torch
    >>> def halves(x: torch.Tensor, *, scale: float = 0.5) -> dict:
    ...     return {"half": scale * x}
    >>> @of(halves)
    ... def half(result):
    ...     return result["half"]
    >>> half(torch.tensor(3.0), scale=0.25)
    tensor(0.7500)
    """
    signature = inspect.signature(measure)

    def decorate(read: Callable[[R], Tensor]) -> Callable[P, Tensor]:
        @functools.wraps(read)
        def function(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            return read(measure(*args, **kwargs))

        function.__signature__ = signature.replace(return_annotation=Tensor)  # type: ignore[attr-defined]
        function.__annotations__ = {**measure.__annotations__, "return": "Tensor"}
        return function

    return decorate
