"""Regression of distance maps."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ..arguments import SpacingLike
from ._sums import AbsoluteError
from .segmentation import MapLoss, Truth, check_choice, check_number

FORMS = ("l1", "l2", "smooth_l1")


class SignedDistanceRegressionLoss(MapLoss):
    r"""Mean error of a predicted distance map.

    .. math:: L = \frac{1}{N} \sum_v |q - y| \quad\text{or}\quad \frac{1}{N} \sum_v (q - y)^2

    per sample and class, with the target's map y: the loss of an auxiliary regression head
    (:class:`dtkernels.nn.DistanceHead`). The input is a *map*; give the head's activation as ``other_act``,
    :func:`torch.tanh` for signed maps in [-1, 1], or none for ``"ma_dtm"``.

    The result is float32 (float64 for a float64 input), also under autocast, and finite. The gradient is taken in
    closed form: at most three float32 maps of the input's size are held at a time beside input and target, one of
    them the activation's result, and two are kept for the gradient.

    References:
        Ma et al., How distance transform maps boost segmentation CNNs: an empirical study, MIDL 2020. Xue et al.,
        arXiv:1912.03849.

    See Also:
        :doc:`/losses/SignedDistanceRegressionLoss`: when to use it, defaults and why, gradient on a real slice.

    >>> import torch
    >>> from dtkernels.losses import SignedDistanceRegressionLoss
    >>> mask = torch.zeros(1, 1, 1, 6)
    >>> mask[..., 2:5] = 1
    >>> SignedDistanceRegressionLoss(convention="edt_diff")(torch.zeros_like(mask), mask)  # 2 1 1 2 1 1
    tensor(1.3333)
    """

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        reduction: str = "mean",
        batch: bool = False,
        *,
        form: str = "l1",
        beta: float = 1.0,
        convention: str = "xue_sdm",
        ignore_index: int | None = None,
    ) -> None:
        r"""Choose what is compared and how it is averaged.

        Args:
            include_background: as in :class:`~dtkernels.losses.BoundaryLoss`, and so are all others.
            to_onehot_y: the target is a label map.
            sigmoid: apply a sigmoid to the input.
            softmax: apply a softmax over the channels of the input.
            other_act: apply this function to the input instead.
            reduction: ``"mean"``, ``"sum"``, or ``"none"``: (B, C).
            batch: average over the voxels of all samples together, before ``reduction``.
            form: ``"l1"``, ``"l2"``, or ``"smooth_l1"``: :math:`e^2 / 2\beta` where :math:`|e| < \beta`, else
                :math:`|e| - \beta / 2`.
            beta: where the smooth form turns.
            convention: the target's map by name.
            ignore_index: label of the voxels to leave out.

        Raises:
            TypeError, ValueError: as :class:`~dtkernels.losses.BoundaryLoss`, or ``beta`` is no number or
            negative.
        """
        super().__init__(
            include_background,
            to_onehot_y,
            sigmoid,
            softmax,
            other_act,
            reduction,
            batch,
            ignore_index,
            convention,
        )
        self.form = check_choice("form", form, FORMS)
        self.beta = check_number("beta", beta)

    def _per_class(self, input: Tensor, truth: Truth, spacing: SpacingLike) -> Tensor:
        y = self._map(truth, spacing)
        q = self._probabilities(input, truth)
        beta = {"l1": 0.0, "l2": math.inf, "smooth_l1": self.beta}[self.form]
        return self._mean(AbsoluteError.apply(q, y, truth.ignored, beta), truth)  # type: ignore[no-untyped-call]
