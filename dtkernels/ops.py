"""Every torch operator of the library: schema, implementation, shapes for tracing, vmap rule.

=========================  =========================================================================
``torch.ops.dtk.``         result
=========================  =========================================================================
``edt``                    distance of each foreground voxel to the nearest background voxel
``sdf``                    signed distance, positive outside
``labels_sdf``             signed distance of every class of a label map
``edt_out``, ``sdf_out``,  the same into a preallocated tensor
``labels_sdf_out``
``sdf_extrema``            one of these maps, and the largest squared distances inside and outside
``distance_map``           a map made of these distances, by the options of :class:`dtkernels.formula.Options`
``distance_map_out``       the same into a preallocated tensor
``boundary_sums``          sum of a prediction times the signed distance of a target, and the gradient
``hausdorff_sums``         squared error, weighed by the distances of prediction and target, and the gradient
``nearest``                distance to the nearest background voxel, and the position of that voxel
``label``                  connected components of the foreground, and their number per image
``envelope``               lower envelope of the parabolas over a function
``envelope_index``         that, and where it is attained
``envelope_backward``      the sum of a gradient over the voxels that attain it at a place
=========================  =========================================================================

``spacing`` is a number or one number per spatial dimension; the overload ``per_sample`` takes it as a tensor
with one row per sample. What depends on a mask is piecewise constant in it and has no
gradient: an input that needs one is refused. The envelopes are differentiable, and the sums in the prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from . import arguments, batching, distance_sums, parabolas, remap, transform
from .formula import Options

_library = Library("dtk", "DEF")

_OPTIONS = "int? spatial_dims=None, bool squared=False, str border='open', str? backend=None"
_OF_LABELS = _OPTIONS + ", ScalarType? out_dtype=None"
_OF_MASK = _OF_LABELS + ", float? threshold=None"


def _define(name: str, inputs: str, options: str, run: Any, fake: Any, vmap: Any) -> None:
    """The four forms of one operator; its implementation serves every device and chooses the backend."""

    def run_into(*args: Any, **kwargs: Any) -> None:
        run(*args, **kwargs)

    def fake_into(*args: Any, **kwargs: Any) -> None:
        arguments.check_device("out", kwargs.pop("out"), args[0])
        fake(*args, **kwargs)

    for suffix, spacing in (("", "float[1]? spacing=None"), (".per_sample", "Tensor spacing")):
        _define_one(name + suffix, f"({inputs}, {spacing}, *, {options}) -> Tensor", run, fake, vmap)
        into = f"{name}_out{suffix}"
        _library.define(f"{into}({inputs}, {spacing}, *, {options}, Tensor(a!) out) -> ()")
        _library.impl(into, run_into, "CompositeExplicitAutograd")
        torch.library.register_fake(f"dtk::{into}", fake_into, lib=_library)


def _define_one(name: str, schema: str, run: Any, fake: Any, vmap: Any) -> None:
    """One form of an operator."""
    _library.define(name + schema)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"dtk::{name}", fake, lib=_library)
    torch.library.register_vmap(f"dtk::{name}", vmap, lib=_library)


# ---- shapes, without data ---------------------------------------------------------------------------


def _check(name: str, x: Tensor, spacing: Any, spatial_dims: int | None, border: str) -> int:
    """What can be said of a call before there is data; the implementation says the rest."""
    arguments.check_tensor(name, x)
    arguments.check_border(border)
    dims = arguments.resolve_spatial_dims(x.ndim, spatial_dims, name)
    if isinstance(spacing, Tensor):
        arguments.check_device("spacing", spacing, x)
    else:
        arguments.host_spacing(spacing, dims)
    return dims


def _mask_fake(signed: bool) -> Callable[..., Tensor]:
    def fake(
        mask: Tensor,
        spacing: Any = None,
        *,
        spatial_dims: int | None = None,
        border: str = "open",
        out_dtype: torch.dtype | None = None,
        **options: Any,
    ) -> Tensor:
        _check("mask", mask, spacing, spatial_dims, border)
        return mask.new_empty(mask.shape, dtype=arguments.check_out_dtype(out_dtype, signed))

    return fake


def _labels_fake(
    labels: Tensor,
    num_classes: int,
    spacing: Any = None,
    *,
    spatial_dims: int | None = None,
    border: str = "open",
    out_dtype: torch.dtype | None = None,
    **options: Any,
) -> Tensor:
    dims = _check("labels", labels, spacing, spatial_dims, border)
    dtype = arguments.check_out_dtype(out_dtype, True)
    return labels.new_empty(arguments.labels_shape(labels, num_classes, dims), dtype=dtype)


def _map_fake(
    mask: Tensor,
    spacing: Any = None,
    *,
    num_classes: int | None = None,
    first_label: int = 0,
    binary: bool = False,
    spatial_dims: int | None = None,
    threshold: float | None = None,
    backend: str | None = None,
    **options: Any,
) -> Tensor:
    dims = _check("mask", mask, spacing, spatial_dims, options.get("border", "open"))
    remap.parse(options, dims)
    shape = mask.shape if num_classes is None else arguments.labels_shape(mask, num_classes, dims)
    return mask.new_empty(shape, dtype=torch.float32)


def _map_vmap(info: Any, in_dims: Any, *args: Any, scope: str = Options().scope, **options: Any) -> Any:
    if scope == "batch":
        raise NotImplementedError("distance_map: scope='batch' under vmap, whose samples would become one batch")
    return _vmap("distance_map", 1)(info, in_dims, *args, scope=scope, **options)


def _map_options() -> str:
    """The options as a schema; policies, which may be numbers, are passed in words."""
    words = []
    for name, default in Options()._asdict().items():
        kind = {"connectivity": "int?", "truncate": "float?"}.get(name, type(default).__name__)
        words.append(f"{kind} {name}={default!r}")
    return ", ".join(words)


def _extrema_fake(
    mask: Tensor,
    spacing: Any = None,
    *,
    num_classes: int | None = None,
    spatial_dims: int | None = None,
    border: str = "open",
    **options: Any,
) -> tuple[Tensor, Tensor]:
    dims = _check("mask", mask, spacing, spatial_dims, border)
    shape = mask.shape if num_classes is None else arguments.labels_shape(mask, num_classes, dims)
    batch = shape[: len(shape) - dims]
    return mask.new_empty(shape, dtype=torch.float32), mask.new_empty((*batch, 2), dtype=torch.float32)


def _sums_fake(
    prediction: Tensor, target: Tensor, spacing: Any = None, *, first_label: int | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    dims = distance_sums.check(prediction, target, first_label)
    _check("prediction", prediction, spacing, dims, "open")
    return prediction.new_empty(prediction.shape[:2]), prediction.new_empty(prediction.shape)


def _nearest_fake(
    mask: Tensor, spacing: Any = None, *, spatial_dims: int | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    _check("mask", mask, spacing, spatial_dims, "open")
    return mask.new_empty(mask.shape, dtype=torch.float32), mask.new_empty(mask.shape, dtype=torch.int64)


def _label_fake(
    mask: Tensor, *, connectivity: int | None = None, spatial_dims: int | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    dims = _check("mask", mask, None, spatial_dims, "open")
    arguments.check_connectivity(connectivity, dims)
    batch = mask.shape[: mask.ndim - dims]
    return mask.new_empty(mask.shape, dtype=torch.int32), mask.new_empty(batch, dtype=torch.int32)


def _values_fake(f: Tensor, spacing: Any = None, *, spatial_dims: int | None = None, **options: Any) -> Tensor:
    arguments.check_function("f", f)
    _check("f", f, spacing, spatial_dims, "open")
    return f.new_empty(f.shape, dtype=parabolas.values_dtype(f))


def _values_index_fake(
    f: Tensor, spacing: Any = None, *, spatial_dims: int | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    values = _values_fake(f, spacing, spatial_dims=spatial_dims)
    return values, values.new_empty(values.shape, dtype=torch.int64)


def _backward_fake(grad: Tensor, index: Tensor, *, spatial_dims: int | None = None, **options: Any) -> Tensor:
    return grad.new_empty(grad.shape)


# ---- vmap: the mapped dimension joins the samples ---------------------------------------------------


def _vmap(operator: str, inputs: int) -> Callable[..., Any]:
    """The rule for an operator that takes ``inputs`` positional arguments before ``spacing``."""

    def rule(info: Any, in_dims: Any, *args: Any, spatial_dims: int | None = None, **options: Any) -> Any:
        size = info.batch_size
        x = args[0].movedim(in_dims[0], 0) if in_dims[0] is not None else args[0].expand(size, *args[0].shape)
        dims = arguments.resolve_spatial_dims(x.ndim - 1, spatial_dims, "labels" if inputs > 1 else "mask")
        samples = x.shape[1 : x.ndim - dims][:1]  # () for a single image
        x = x.flatten(0, 1) if samples else x
        others = list(args[1:])
        if len(args) > inputs and isinstance(args[inputs], Tensor):  # spacing
            rows, at = args[inputs], in_dims[inputs]
            rows = rows.movedim(at, 0) if at is not None else rows.expand(size, *rows.shape)
            others[inputs - 1] = rows.flatten(0, 1)
        result = getattr(torch.ops.dtk, operator)(x, *others, spatial_dims=dims, **options)
        if isinstance(result, tuple):
            return tuple(r.unflatten(0, (size, *samples)) for r in result), (0,) * len(result)
        return result.unflatten(0, (size, *samples)), 0

    return rule


def _sums_vmap(operator: str) -> Callable[..., Any]:
    """The same for the operators of a prediction and its target, each of which may be mapped."""

    def rule(info: Any, in_dims: Any, *args: Any, **options: Any) -> Any:
        size = info.batch_size
        return batching.split(
            size, getattr(torch.ops.dtk, operator)(*batching.join(size, in_dims, args), **options)
        )

    return rule


def _backward_vmap(
    info: Any, in_dims: Any, grad: Tensor, index: Tensor, *, spatial_dims: Any, backend: Any
) -> Any:
    dims = arguments.resolve_spatial_dims(grad.ndim - (in_dims[0] is not None), spatial_dims, "grad")
    size = info.batch_size
    first = [
        x.expand(size, *x.shape) if at is None else x.movedim(at, 0)
        for x, at in zip((grad, index), in_dims, strict=True)
    ]
    return torch.ops.dtk.envelope_backward(*first, spatial_dims=dims, backend=backend), 0


# ---- the operators ----------------------------------------------------------------------------------

_define("edt", "Tensor mask", _OF_MASK, transform.edt, _mask_fake(False), _vmap("edt", 1))
_define("sdf", "Tensor mask", _OF_MASK, transform.sdf, _mask_fake(True), _vmap("sdf", 1))
_define(
    "labels_sdf",
    "Tensor labels, int num_classes",
    _OF_LABELS + ", int first_label=0",
    transform.labels_sdf,
    _labels_fake,
    _vmap("labels_sdf", 2),
)
for _form, _spacing in (("", "float[1]? spacing=None"), (".per_sample", "Tensor spacing")):
    _define_one(
        "sdf_extrema" + _form,
        f"(Tensor mask, {_spacing}, *, int? num_classes=None, bool signed=True, {_OPTIONS}, float? threshold=None)"
        " -> (Tensor map, Tensor extrema)",
        transform.sdf_extrema,
        _extrema_fake,
        _vmap("sdf_extrema", 1),
    )
_define(
    "distance_map",
    "Tensor mask",
    "int? num_classes=None, int first_label=0, bool binary=False, int? spatial_dims=None, float? threshold=None, "
    "str? backend=None, " + _map_options(),
    remap.distance_map,
    _map_fake,
    _map_vmap,
)
for _name, _sum_options, _sums_run, _sums_backward in (
    ("boundary_sums", "bool shift=False", distance_sums.boundary_sums, distance_sums.backward_boundary),
    (
        "hausdorff_sums",
        "int alpha=2, str variant='two_sided'",
        distance_sums.hausdorff_sums,
        distance_sums.backward_hausdorff,
    ),
):
    for _form, _spacing in (("", "float[1]? spacing=None"), (".per_sample", "Tensor spacing")):
        _define_one(
            _name + _form,
            f"(Tensor prediction, Tensor target, {_spacing}, *, int? first_label=None, {_sum_options}, "
            "str? backend=None) -> (Tensor sums, Tensor gradient)",
            _sums_run,
            _sums_fake,
            _sums_vmap(_name),
        )
        torch.library.register_autograd(
            f"dtk::{_name}{_form}", _sums_backward, setup_context=distance_sums.setup, lib=_library
        )
_NEAREST = "int? spatial_dims=None, float? threshold=None, str? backend=None) -> (Tensor distance, Tensor index)"
_define_one(
    "nearest",
    f"(Tensor mask, float[1]? spacing=None, *, {_NEAREST}",
    transform.nearest,
    _nearest_fake,
    _vmap("nearest", 1),
)
_define_one(
    "nearest.per_sample",
    f"(Tensor mask, Tensor spacing, *, {_NEAREST}",
    transform.nearest,
    _nearest_fake,
    _vmap("nearest", 1),
)
_define_one(
    "label",
    "(Tensor mask, *, int? connectivity=None, int? spatial_dims=None, float? threshold=None, "
    "str? backend=None) -> (Tensor labels, Tensor count)",
    transform.label,
    _label_fake,
    _vmap("label", 1),
)
_ENVELOPE = "int? spatial_dims=None, str? backend=None"
for _form, _spacing in (("", "float[1]? spacing=None"), (".per_sample", "Tensor spacing")):
    _define_one(
        f"envelope{_form}",
        f"(Tensor f, {_spacing}, *, {_ENVELOPE}) -> Tensor",
        parabolas.envelope,
        _values_fake,
        _vmap("envelope", 1),
    )
    _define_one(
        f"envelope_index{_form}",
        f"(Tensor f, {_spacing}, *, {_ENVELOPE}) -> (Tensor values, Tensor index)",
        parabolas.envelope_index,
        _values_index_fake,
        _vmap("envelope_index", 1),
    )
    torch.library.register_autograd(
        f"dtk::envelope{_form}", parabolas.backward_values, setup_context=parabolas.setup_values, lib=_library
    )
    torch.library.register_autograd(
        f"dtk::envelope_index{_form}", parabolas.backward_index, setup_context=parabolas.setup_index, lib=_library
    )
_define_one(
    "envelope_backward",
    f"(Tensor grad, Tensor index, *, {_ENVELOPE}) -> Tensor",
    parabolas.envelope_backward,
    _backward_fake,
    _backward_vmap,
)
torch.library.register_autograd(
    "dtk::envelope_backward", parabolas.backward_backward, setup_context=parabolas.setup_backward, lib=_library
)
