"""Volumes beyond one machine's memory: the functions of this package on dask arrays, exact for any chunks.

Everything is lazy and runs on any of dask's schedulers; chunks are of NumPy or of CuPy, and stay where they are.
No task holds more than ``block_bytes`` of the volume. What lies between two passes is as large as the volume,
though: it stays in the memory of the workers, or goes to files in the directory ``scratch``.

>>> import dask.array as da, torch, dtkernels as dtk, dtkernels.dask
>>> mask = da.zeros((40, 40, 40), chunks=16, dtype=bool)
>>> mask[10:30, 10:30, 10:30] = True
>>> phi = dtk.dask.sdf(mask)
>>> bool((phi == dtk.sdf(torch.from_numpy(mask.compute())).numpy()).all().compute())
True

It needs ``pip install 'dtkernels[dask]'``; nothing else of the package imports dask.
"""

from ..optional import require

require("dask.array", "chunked arrays", extra="dask")

from .components import label  # noqa: E402
from .maps import distance_map  # noqa: E402
from .metrics import surface_metrics  # noqa: E402
from .transforms import edt, sdf  # noqa: E402

__all__ = ["distance_map", "edt", "label", "sdf", "surface_metrics"]
