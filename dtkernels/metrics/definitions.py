"""What the libraries call a surface and how they sum it up: a definition is a row of options."""

from __future__ import annotations

from typing import NamedTuple


class Definition(NamedTuple):
    """How one library measures."""

    subvoxel: bool  # surface elements of surfels.py, weighted by their size, instead of surface voxels
    pooled_percentile: bool  # a percentile of both directions together, not the larger of the two
    pooled_mean: bool  # ASSD is the mean over both surfaces together, not the mean of the two means
    connectivity: int = 1  # surface voxels have a background neighbour in at most so many coordinates apart


# monai and medpy share surface and means; MedPy before 0.5 took the mean of the two means.
DEFINITIONS = {
    "medpy": Definition(subvoxel=False, pooled_percentile=True, pooled_mean=True),
    "monai": Definition(subvoxel=False, pooled_percentile=False, pooled_mean=True),
    "deepmind": Definition(subvoxel=True, pooled_percentile=False, pooled_mean=False),
}

# Squared distances carry a relative error below this (tests/oracle.py derives 10 units of 2^-24 in 3-D), so a
# distance that equals a tolerance in exact arithmetic counts as within it.
TIE = 1 + 1e-6
