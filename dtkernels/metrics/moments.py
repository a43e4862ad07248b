"""What is summed over the surface of every pair of masks; all metrics follow from it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Moments(NamedTuple):
    """Over the directed distances d of surface elements of weight w (1 for surface voxels).

    The axis of size 2 is the direction: 0 from the prediction's surface to the target's, 1 back. Values
    mean nothing where one of the masks is empty, except that ``total`` is 0 for an empty mask only. Where nothing
    but shares are asked, all but ``total`` and ``within`` are 0.
    """

    total: Tensor  # (2, B, K) sum of w
    first: Tensor  # (2, B, K) sum of w d
    second: Tensor  # (2, B, K) sum of w d^2
    maximum: Tensor  # (2, B, K) max of d
    within: Tensor  # (tolerances, 2, B, K) sum of w where d <= tolerance
    percentiles: Tensor  # (percentiles, 2, B, K), or (percentiles, 1, B, K) of both directions pooled
