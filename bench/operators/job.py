"""What an operator's file hands to the runner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Run = Callable[[], Any]


def unknown(name: str, result: Any) -> None:
    """The error of what nothing independent says the truth of."""


class Job(NamedTuple):
    """One entry, ready to be timed."""

    ours: Run
    peers: Mapping[str, Callable[[], Run]]
    voxels: int  # of all results together
    bytes_per_voxel: float | None = None  # that the passes move through memory; None where no fixed sequence does
    # Of a contender's result against float64: error(name, result), None of a peer that computes something else.
    error: Callable[[str, Any], float | None] = unknown


def each(function: Callable[[Any], Any], images: Iterable[Any]) -> Run:
    """``function`` of every image: what the peers that know no batch need."""
    return lambda: [function(image) for image in images]


def with_threads(threads: int, run: Run) -> Run:
    """``run`` with another number of torch's threads, which are put back."""

    def changed() -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    return changed


def array(result: Any) -> NDArray[Any]:
    """A result of any library."""
    if isinstance(result, torch.Tensor):
        return result.detach().cpu().numpy()
    if isinstance(result, list | tuple):
        return np.stack([array(x) for x in result])
    if type(result).__module__.startswith("SimpleITK"):
        import SimpleITK

        return np.asarray(SimpleITK.GetArrayFromImage(result))
    return np.asarray(result.get() if hasattr(result, "get") else result)  # CuPy's


def difference(result: Any, exact: NDArray[np.float64]) -> float:
    """The largest absolute difference; where both are the same infinity there is none."""
    found = array(result).reshape(exact.shape)
    with np.errstate(invalid="ignore"):
        return float(np.where(found == exact, 0, np.abs(found - exact)).max(initial=0))
