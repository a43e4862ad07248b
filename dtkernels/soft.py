r"""Exact signed distances of soft masks, with a gradient.

The signed distance of the mask :math:`p > \tau` is piecewise constant in :math:`p`: exact, and useless for
backpropagation. But the mask stands for a surface between the voxels, the level set :math:`p = \tau`, which moves
when :math:`p` changes, and the distance to that surface has a derivative. The layer here returns the one and
differentiates the other.

**The surface near a voxel.** Let :math:`x` be a voxel, :math:`q` the nearest voxel of the other class,
:math:`\delta = x - q` in voxels, :math:`d = \|s \delta\|` their distance and :math:`L = \sum_k |\delta_k|`. The
neighbour :math:`q_k` of :math:`q` one step towards :math:`x` along axis k (where :math:`\delta_k \ne 0`) is nearer
to :math:`x`, so it has the class of :math:`x`: on each such edge :math:`p` crosses :math:`\tau`. With the linear
model of :math:`p` that these edges give, the slope along the ray from :math:`q` to :math:`x` (direction
:math:`s_k |\delta_k| / d`, slopes :math:`(p(q_k) - p(q)) / s_k`) is :math:`\frac{L}{d} (\bar p - p(q))` with
:math:`\bar p = \sum_k \frac{|\delta_k|}{L} p(q_k)`, and the ray meets the surface at

.. math:: r = \frac{d}{L} t, \qquad t = \frac{\tau - p(q)}{\bar p - p(q)} \in [0, 1],

so that the distance of :math:`x` to the surface is :math:`d - r` and

.. math:: \tilde\varphi(x) = \pm d(x) \left(1 - \frac{t(x)}{L(x)}\right).

**Its derivative**, with q fixed (the envelope theorem: where the nearest voxel changes there is a kink),

.. math::

    \frac{\partial\tilde\varphi}{\partial p(q)} = \mp \frac{d}{L} \frac{t - 1}{\bar p - p(q)}, \qquad
    \frac{\partial\tilde\varphi}{\partial p(q_k)} = \pm \frac{d}{L} \frac{|\delta_k|}{L} \frac{t}{\bar p - p(q)},

is never positive: more probability anywhere moves the surface outwards. Together the voxels of a crossing move it
by :math:`\delta p / |\partial_n p|`, the normal velocity of a level set. What is assumed: :math:`p` linear over
the edges at :math:`q`, and the ray to :math:`q` normal to the surface. Both are exact for a plane across an axis;
on a curved or slanted surface the direction is wrong by an angle of about half a voxel over :math:`d`, so that the
derivative of voxels far from the surface is good and that of its neighbours rough, up to the bound of
``min_contrast`` where an edge runs along the surface.
"""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor, nn

from . import arguments, functional
from .arguments import SpacingLike


def exact_signed_distance(
    p: Tensor,
    spacing: SpacingLike = None,
    *,
    spatial_dims: int | None = None,
    threshold: float = 0.5,
    subvoxel: bool = False,
    min_contrast: float = 0.1,
    backend: str | None = None,
) -> Tensor:
    r"""Signed distance of a soft mask, differentiable in it (the formulas are this module's, above).

    Args:
        p: soft mask ``(*batch, *spatial)``, float16, bfloat16, float32 or float64, as :func:`dtkernels.envelope`.
        spacing: as in :func:`dtkernels.edt`; a constant.
        spatial_dims: as in :func:`dtkernels.edt`.
        threshold: the level of the surface; ``p > threshold`` is inside.
        subvoxel: return the distance to the surface between the voxels, whose gradient this is; by default the
            distance between voxels, ``dtkernels.sdf(p, threshold=threshold)``, whose gradient it stands in for.
        min_contrast: :math:`\bar p - p(q)` counts as this at least (in magnitude), so that the gradient stays
            below ``max(spacing) / min_contrast`` where p is flat and its surface could be anywhere.
        backend: as in :func:`dtkernels.edt`.

    Returns:
        Signed distance of p's shape, positive outside; float32, but float64 for float64 with ``subvoxel``. +inf
        or -inf, without a gradient, where the other class is missing.

    Raises:
        TypeError, ValueError, RuntimeError: as :func:`dtkernels.envelope`; ``min_contrast`` not in (0, 1].
        NotImplementedError: ``p`` carries a tangent of forward-mode differentiation, without ``subvoxel``.

    References:
        Osher & Sethian, Fronts propagating with curvature-dependent speed, Journal of Computational Physics 79,
        1988 (the normal velocity of a level set).

    >>> import torch
    >>> from dtkernels.soft import exact_signed_distance
    >>> p = torch.tensor([0.0, 0.0, 0.2, 0.9, 1.0], requires_grad=True)
    >>> phi = exact_signed_distance(p)
    >>> phi.tolist()
    [3.0, 2.0, 1.0, -1.0, -2.0]
    >>> phi[0].backward()
    >>> [round(x, 4) for x in p.grad.tolist()]
    [0.0, 0.0, -0.8163, -0.6122, 0.0]
    """
    arguments.check_function("p", p)
    if isinstance(min_contrast, bool) or not isinstance(min_contrast, numbers.Real) or not 0 < min_contrast <= 1:
        raise ValueError(f"min_contrast: expected a number in (0, 1], got {min_contrast!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real):
        raise TypeError(f"threshold: expected a number, got {threshold!r}")
    if not -math.inf < threshold < math.inf:
        raise ValueError(f"threshold: expected a finite number, got {threshold!r}")
    dims = arguments.resolve_spatial_dims(p.ndim, spatial_dims, "p")
    mask = p.detach()
    exact: Tensor | None = None
    if not subvoxel:
        arguments.check_no_tangent("p", p)
        exact = functional.sdf(mask, spacing, spatial_dims=dims, threshold=threshold, backend=backend)
        if not (p.requires_grad and torch.is_grad_enabled()):
            return exact
    with torch.no_grad():
        inside = mask > threshold
        square, q = _nearest_of_other_class(inside, mask.dtype, spacing, dims, backend)
    surface = _to_surface(p, inside, square, q, dims, threshold, float(min_contrast))
    if exact is None:
        return surface
    # Zero, but for its gradient. Where p is infinite or NaN the surface may be NaN: the distance is exact still.
    change = (surface - surface.detach()).to(exact.dtype)
    return torch.where((q < 0) | change.isnan(), exact, exact + change)


class ExactSignedDistance(nn.Module):
    """:func:`exact_signed_distance` as a layer: exact forward, the gradient of the moving surface backward.

    >>> import torch
    >>> from dtkernels.soft import ExactSignedDistance
    >>> layer = ExactSignedDistance()
    >>> logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    >>> layer(torch.sigmoid(logits), spacing=(1.0, 0.5)).clamp(-3, 3).mean().backward()
    >>> bool((logits.grad <= 0).all())
    True
    """

    def __init__(
        self,
        spatial_dims: int | None = None,
        *,
        threshold: float = 0.5,
        subvoxel: bool = False,
        min_contrast: float = 0.1,
        backend: str | None = None,
    ) -> None:
        """Options as of :func:`exact_signed_distance`."""
        super().__init__()
        self.spatial_dims = spatial_dims
        self.threshold = threshold
        self.subvoxel = subvoxel
        self.min_contrast = min_contrast
        self.backend = backend

    def forward(self, p: Tensor, spacing: SpacingLike = None) -> Tensor:
        """Signed distance of the soft mask ``p``."""
        return exact_signed_distance(
            p,
            spacing,
            spatial_dims=self.spatial_dims,
            threshold=self.threshold,
            subvoxel=self.subvoxel,
            min_contrast=self.min_contrast,
            backend=self.backend,
        )

    def extra_repr(self) -> str:
        """What was asked for."""
        return f"threshold={self.threshold}, subvoxel={self.subvoxel}, min_contrast={self.min_contrast}"


def _nearest_of_other_class(
    inside: Tensor, dtype: torch.dtype, spacing: SpacingLike, dims: int, backend: str | None
) -> tuple[Tensor, Tensor]:
    """Squared distance to the nearest voxel of the other class, and its position; +inf and -1 without any."""
    zero = torch.zeros((), dtype=torch.float64 if dtype == torch.float64 else torch.float32, device=inside.device)
    to_inside, to_outside = (
        functional.envelope(
            torch.where(sites, zero, torch.inf), spacing, spatial_dims=dims, return_index=True, backend=backend
        )
        for sites in (inside, ~inside)
    )
    return torch.where(inside, to_outside[0], to_inside[0]), torch.where(inside, to_outside[1], to_inside[1])


def _to_surface(
    p: Tensor, inside: Tensor, square: Tensor, q: Tensor, dims: int, threshold: float, min_contrast: float
) -> Tensor:
    r"""The distance :math:`\tilde\varphi`, differentiable in ``p``."""
    lead = p.ndim - dims
    values = p.to(square.dtype).flatten(lead)
    at = q.clamp(min=0)

    def read(where: Tensor) -> Tensor:
        return values.gather(-1, where.flatten(lead)).view(p.shape)

    here = read(at)
    towards: list[Tensor] = []  # |delta_k|, and the positions q_k
    rest, stride = at.double(), 1  # exact, and much faster to divide than integers
    for axis in reversed(range(lead, p.ndim)):
        n = p.shape[axis]
        along = [1] * p.ndim
        along[axis] = n
        line = ((rest + 0.5) / n).floor()
        delta = torch.arange(n, dtype=rest.dtype, device=p.device).view(along) - (rest - line * n)
        towards += [delta.abs().to(here.dtype), at + (delta.sign() * stride).long()]
        rest = line
        stride *= n
    steps = torch.stack(towards[::2]).sum(0).clamp(min=1)
    reached = sum(w * read(k) for w, k in zip(towards[::2], towards[1::2], strict=True))
    sign = torch.where(inside, -1.0, 1.0).to(here.dtype)
    t = sign * (here - threshold) / (sign * (here - reached / steps)).clamp(min=min_contrast)
    distance = sign * square.sqrt()
    return torch.where(q < 0, distance, distance * (1 - torch.where(q < 0, 0.0, t) / steps))
