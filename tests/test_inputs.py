"""What goes in: dtypes and thresholds, forms of spacing, dimensions, and the errors that bad input gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from conftest import Backend, numpy

import dtkernels as dtk

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES = [torch.bool, *INTEGERS, *FLOATS]
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def awkward_values(dtype: torch.dtype) -> torch.Tensor:
    """Values that a careless conversion takes for zero, or zero for them."""
    if dtype == torch.bool:
        return torch.tensor([True, False])
    if not dtype.is_floating_point:
        info = torch.iinfo(dtype)
        powers = [2**k for k in range(1, 63) if 2**k <= info.max]  # zero in the low byte, or half, or word
        return torch.tensor([0, 0, 1, info.max, info.min, *powers, *(-p for p in powers if -p >= info.min)]).to(
            dtype
        )
    info = torch.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.0, info.max, info.min, info.tiny, -info.tiny, info.eps, torch.inf, -torch.inf]
    subnormal = torch.tensor([1], dtype={2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).view(
        dtype
    )
    numbers = torch.cat([torch.tensor(values, dtype=dtype), subnormal, -subnormal])
    return torch.cat([numbers, torch.tensor([torch.nan, -torch.nan], dtype=dtype)])


def image_of(values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """An image that holds all the values, in a random order."""
    rng = np.random.default_rng(0)
    which = np.concatenate([np.arange(len(values)), rng.integers(0, len(values), np.prod(shape) - len(values))])
    return values[torch.from_numpy(rng.permutation(which))].reshape(shape)


@all_dtypes
@pytest.mark.parametrize("op", ["edt", "sdf"])
def test_foreground_is_non_zero_in_every_dtype(backend: Backend, op: str, dtype: torch.dtype) -> None:
    """Compared as integers on the host, bit by bit: all but the sign is zero, or it is a NaN."""
    values = image_of(awkward_values(dtype), (9, 40))
    foreground = ((values != 0) & ~torch.isnan(values)).numpy()
    expected = oracle.exact(oracle.squared(op, foreground), is_squared=False)
    x = backend.put(values)
    np.testing.assert_array_equal(numpy(backend.op(op)(x)), expected)
    padded = backend.put(torch.nn.functional.pad(values, (3, 4)))[:, 3:-4]  # strided: another way to read
    np.testing.assert_array_equal(numpy(backend.op(op)(padded)), expected)


@all_dtypes
def test_one_value_alone_counts(backend: Backend, dtype: torch.dtype) -> None:
    """Each awkward value alone among zeros, so that no other can hide its loss."""
    for value in awkward_values(dtype):
        line = torch.zeros(5, dtype=dtype)
        line[2] = value
        expected = 1.0 if value != 0 and not value.isnan() else 0.0
        assert backend.edt(backend.put(line))[2].item() == expected, f"{value!r}"


THRESHOLDS = [
    0.0, -0.0, 0.1, 0.5, 1 / 3, 0.7, 1.0, -0.5, -1.0, 1e-7, 1e-40, 1e-300, 2.5, 100.0, 127.0, 127.5, 254.5,
    255.0, 256.0, 300.0, -129.0, 32767.0, 65504.0, 65519.0, 65520.0, 1e6, 16777216.0, 16777217.0,
    2147483647.0, 2147483648.0, -2147483649.0, 2.0**53, 2.0**63, 1e30, 3.5e38, 1e300, -1e300,
    float("inf"), -float("inf"),
]  # fmt: skip


def values_around(threshold: float, dtype: torch.dtype) -> torch.Tensor:
    """The values of the dtype nearest to the threshold, where comparing in another precision would differ."""
    awkward = awkward_values(dtype)
    if dtype == torch.bool:
        return awkward
    if dtype.is_floating_point:
        t = torch.tensor([threshold], dtype=torch.float64).to(dtype)
        near = [
            t,
            torch.nextafter(t, t.new_full((1,), torch.inf)),
            torch.nextafter(t, t.new_full((1,), -torch.inf)),
        ]
        return torch.cat([awkward, *near, -t])
    info = torch.iinfo(dtype)
    centre = int(min(max(threshold, info.min), info.max))
    near = [centre + k for k in range(-3, 4) if info.min <= centre + k <= info.max]
    return torch.cat([awkward, torch.tensor(near, dtype=torch.int64).to(dtype)])


def is_above(values: torch.Tensor, threshold: float) -> torch.Tensor:
    """What torch says for floats, with the number rounded to their type; for integers, the comparison in float64.

    The latter is exact up to 2^53 and what torch does with an integer threshold. Given a float, torch would
    round the tensor to float32 first and take 16,777,217 > 16,777,216.0 for false.
    """
    return values > threshold if values.is_floating_point() else values.double() > threshold


@all_dtypes
def test_threshold_compares_as_torch_does(backend: Backend, dtype: torch.dtype) -> None:
    wrong = []
    for threshold in THRESHOLDS:
        values = backend.put(values_around(threshold, dtype))
        pairs = torch.stack([values, torch.zeros_like(values)], dim=1)  # each beside a zero of its own
        expected = torch.stack([is_above(pairs[:, k], threshold) for k in range(2)], dim=1)
        result = backend.edt(pairs, threshold=threshold, spatial_dims=1)
        differs = (result != backend.edt(expected, spatial_dims=1)).any(dim=1)
        wrong += [f"{v.item()!r} > {threshold!r}" for v in values[differs]]
    assert not wrong, f"{len(wrong)}: {'; '.join(wrong[:10])}"


@all_dtypes
@pytest.mark.parametrize("op", ["edt", "sdf"])
def test_threshold_on_images(backend: Backend, op: str, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    x = backend.put(rng.random((2, 9, 35))).mul(4).to(dtype)
    for threshold in (0.5, 1.0, 2, np.float32(0.3)):
        expected = backend.op(op)(x > threshold)
        assert torch.equal(backend.op(op)(x, threshold=threshold), expected)
        strided = x.transpose(0, 2).contiguous().transpose(0, 2)
        assert torch.equal(backend.op(op)(strided, threshold=threshold), expected)


def test_inputs_are_left_alone(backend: Backend) -> None:
    for dtype in DTYPES:
        x = backend.put(image_of(awkward_values(dtype), (2, 1, 9, 17)))
        labels = x.to(torch.int32)
        rows = torch.tensor([[1.0, 2.0], [3.0, 0.5]], device=backend.device)
        before = [t.clone() for t in (x, labels, rows)]
        backend.edt(x, rows, threshold=0.5)
        backend.sdf(x, rows, border="closed")
        backend.labels_sdf(labels, 3, rows)
        for tensor, copy in zip((x, labels, rows), before, strict=True):
            assert torch.equal(tensor.view(torch.uint8), copy.view(torch.uint8))


# ---- spacing


@pytest.mark.parametrize(
    ("given", "same_as"),
    [
        (None, (1.0, 1.0)), (2, (2.0, 2.0)), (0.5, (0.5, 0.5)), ([2, 0.5], (2.0, 0.5)), ((2, 0.5), (2.0, 0.5)),
        (np.float32(0.75), (0.75, 0.75)), (np.float64(0.3), (0.3, 0.3)), (np.int64(3), (3.0, 3.0)),
        (np.array([2.0, 0.5]), (2.0, 0.5)), (np.array([2.0, 0.5], np.float32), (2.0, 0.5)),
        (np.array([3, 2]), (3.0, 2.0)), ([np.float32(0.5), 2], (0.5, 2.0)), (torch.Size([2, 3]), (2.0, 3.0)),
        ((1e-18, 1e-18), (1e-18, 1e-18)), ((1e18, 1e18), (1e18, 1e18)),
        (np.array(0.5), (0.5, 0.5)), (np.array(2), (2.0, 2.0)), (np.array(0.5, np.float16), (0.5, 0.5)),
    ],
    ids=repr,
)  # fmt: skip
def test_forms_of_spacing(backend: Backend, given: Any, same_as: tuple[float, float]) -> None:
    mask = np.random.default_rng(0).random((8, 9)) < 0.8
    x = backend.put(mask)
    for op in ("edt", "sdf"):
        result = backend.op(op)(x, given)
        assert torch.equal(result, backend.op(op)(x, same_as))
        oracle.assert_close(numpy(result), oracle.squared(op, mask, same_as), is_squared=False)


def test_distances_whose_squares_are_no_float32_are_refused(backend: Backend) -> None:
    for n, spacing in ((20, 1e18), (20, (1.0, 1e18)), (20, torch.tensor([[1.0, 1e18]], dtype=torch.float64))):
        x = backend.put(np.eye(n, dtype=np.uint8)[:1])
        for op in ("edt", "sdf"):
            if isinstance(spacing, torch.Tensor) and x.device.type != "cpu":
                continue  # whose values are not read
            with pytest.raises(ValueError, match=r"distances below 1\.8e\+19.*diagonal is 1\.9"):
                backend.op(op)(x, spacing)
    assert backend.op("edt")(backend.put(np.array([[0] + [1] * 17])), (1.0, 1e18)).max() == np.float32(1.7e19)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int32, torch.int64], ids=str)
def test_spacing_per_sample(backend: Backend, dtype: torch.dtype) -> None:
    """One row per sample, shared by its channels; of any real dtype and layout."""
    mask = np.random.default_rng(0).random((3, 2, 8, 9)) < 0.8
    rows = torch.tensor(
        [[1, 2], [3, 1], [0.7, 5]] if dtype.is_floating_point else [[1, 2], [3, 1], [2, 5]], dtype=dtype
    )
    x = backend.put(mask)
    for op in ("edt", "sdf"):
        result = backend.op(op)(x, backend.put(rows))
        for b, c in np.ndindex(3, 2):
            square = oracle.squared(op, mask[b, c], rows[b].tolist())
            oracle.assert_close(numpy(result[b, c]), square, is_squared=False)
        for strange in (rows.T.contiguous().T, rows.repeat_interleave(2, dim=1)[:, ::2]):
            assert torch.equal(backend.op(op)(x, backend.put(strange)), result)
        one = backend.put(rows[:1]).expand(3, 2)
        assert torch.equal(backend.op(op)(x, one), backend.op(op)(x, rows[0].tolist()))


def test_spacing_per_sample_of_labels(backend: Backend) -> None:
    labels = backend.put(np.random.default_rng(0).integers(0, 3, (2, 1, 8, 9)))
    rows = torch.tensor([[1.0, 2.0], [0.5, 0.75]], device=backend.device)
    expected = torch.stack([
        torch.stack([backend.sdf(labels[b, 0] == c, rows[b].tolist()) for c in range(3)]) for b in range(2)
    ])  # fmt: skip
    assert torch.equal(backend.labels_sdf(labels, 3, rows), expected)


def test_spacing_per_sample_of_no_samples(backend: Backend) -> None:
    rows = torch.ones(0, 2, device=backend.device)
    assert backend.edt(torch.ones(0, 1, 4, 5, device=backend.device), rows).shape == (0, 1, 4, 5)


# ---- which dimensions are spatial


@pytest.mark.parametrize(
    ("shape", "dims"), [((7,), 1), ((4, 7), 2), ((3, 4, 7), 3), ((2, 3, 4, 7), 2), ((2, 2, 3, 4, 7), 3)], ids=str
)
def test_default_spatial_dims(backend: Backend, shape: tuple[int, ...], dims: int) -> None:
    x = backend.put(np.random.default_rng(0).random(shape) < 0.9)
    for op in ("edt", "sdf"):
        assert torch.equal(backend.op(op)(x), backend.op(op)(x, spatial_dims=dims))
        image = x[(0,) * (len(shape) - dims)]
        expected = oracle.exact(oracle.squared(op, numpy(image)), is_squared=False)
        np.testing.assert_array_equal(numpy(backend.op(op)(x))[(0,) * (len(shape) - dims)], expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("ndim", [1, 2, 3, 4, 5, 6, 7])
def test_spatial_dims_can_be_given(backend: Backend, ndim: int, dims: int) -> None:
    shape = (2, 3, 2, 3, 4, 3, 5)[-ndim:]
    x = backend.put(np.random.default_rng(1).random(shape) < 0.7)
    if ndim < dims:
        with pytest.raises(ValueError, match=rf"mask: expected .*{dims}.* got {ndim}"):
            backend.edt(x, spatial_dims=dims)
        return
    images = x.reshape(-1, *shape[ndim - dims :])
    expected = [oracle.exact(oracle.squared_edt(numpy(image)), is_squared=False) for image in images]
    np.testing.assert_array_equal(numpy(backend.edt(x, spatial_dims=dims)), np.reshape(expected, shape))


def test_the_longest_side_allowed(backend: Backend) -> None:
    line = torch.ones(32768, device=backend.device)
    line[0] = 0
    expected = torch.arange(32768, dtype=torch.float32, device=backend.device)
    assert torch.equal(backend.edt(line), expected)
    assert torch.equal(backend.edt(line[:, None]), expected[:, None])


# ---- bad input: (call, exception, fragments of the message: the argument, what was expected, what came)


def image(**options: Any) -> torch.Tensor:
    x = torch.zeros(3, 1, 4, 6, **options)
    x[:, :, 1:3, 2:5] = 1
    return x


def labels() -> torch.Tensor:
    return image(dtype=torch.int64)


BAD_MASKS: dict[str, tuple[Callable[[], Any], type[Exception], list[str]]] = {
    "list": (lambda: [[0, 1]], TypeError, ["torch.Tensor", "list"]),
    "array": (lambda: np.ones((2, 3)), TypeError, ["torch.Tensor", "ndarray"]),
    "None": (lambda: None, TypeError, ["torch.Tensor", "None"]),
    "complex": (lambda: image(dtype=torch.complex64), TypeError, ["float32", "complex64"]),
    "uint16": (lambda: image().to(torch.uint16), TypeError, ["int16", "uint16"]),
    "0-D": (lambda: torch.tensor(1.0), ValueError, ["1", "0"]),
    "6-D": (lambda: torch.ones(1, 1, 1, 2, 2, 2), ValueError, ["5", "6", "spatial_dims"]),
    "long side": (lambda: torch.ones(1).expand(2, 40000), ValueError, ["32768", "40000"]),
    "long first side": (lambda: torch.ones(1).expand(40001, 2), ValueError, ["32768", "40001"]),
    "gradient": (lambda: image(requires_grad=False).requires_grad_(), ValueError, ["gradient", "detach"]),
    "result with a gradient": (lambda: image().requires_grad_() * 2, ValueError, ["gradient", "detach"]),
    "sparse": (lambda: image().to_sparse(), (TypeError, ValueError), ["sparse"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_MASKS)
@pytest.mark.parametrize("op", ["edt", "sdf"])
def test_bad_masks(backend: Backend, op: str, case: str) -> None:
    make, error, fragments = BAD_MASKS[case]
    mask = make()
    if isinstance(mask, torch.Tensor):
        mask = mask.to(backend.device)
    check_refusal(lambda: backend.op(op)(mask), error, "mask", fragments)


@pytest.mark.parametrize("op", ["edt", "sdf"])
def test_operators_refuse_gradients_too(backend: Backend, op: str) -> None:
    """The torch operator is what a loss calls: silence there would be a loss without a gradient."""
    mask = backend.put(image()).requires_grad_()
    call = getattr(torch.ops.dtk, op)
    check_refusal(lambda: call(mask, backend=backend.name), ValueError, "mask", ["gradient", "detach"])
    rows = torch.ones(3, 2, device=backend.device)
    check_refusal(lambda: call(mask, rows, backend=backend.name), ValueError, "mask", ["gradient", "detach"])


def check_refusal(
    call: Callable[[], Any],
    error: type[Exception] | tuple[type[Exception], ...],
    argument: str,
    fragments: list[str],
) -> None:
    """The error has the right type and says which argument, what was expected and what came."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{argument}:"), message
    assert "expected" in message
    for fragment in fragments:
        assert fragment.lower() in message.lower(), f"{fragment!r} not in {message!r}"


BAD_OPTIONS: dict[str, tuple[str, Any, type[Exception], list[str]]] = {
    # spacing
    "too few": ("spacing", (1.0,), ValueError, ["2", "[1.0]"]),
    "too many": ("spacing", [1.0, 2.0, 3.0], ValueError, ["2", "3"]),
    "none at all": ("spacing", (), ValueError, ["2", "0"]),
    "zero": ("spacing", 0, ValueError, ["positive", "0.0"]),
    "one zero": ("spacing", (1, 0), ValueError, ["positive", "[1.0, 0.0]"]),
    "negative": ("spacing", (1, -2.5), ValueError, ["positive", "-2.5"]),
    "NaN": ("spacing", float("nan"), ValueError, ["finite", "nan"]),
    "infinite": ("spacing", (float("inf"), 1), ValueError, ["finite", "inf"]),
    "square underflows": ("spacing", 1e-30, ValueError, ["1e-30"]),
    "square overflows": ("spacing", (1.0, 1e30), ValueError, ["1e+30"]),
    "string": ("spacing", "ab", TypeError, ["number", "'ab'"]),
    "digits in a string": ("spacing", "12", TypeError, ["number", "'12'"]),
    "string in a list": ("spacing", (1, "a"), TypeError, ["number", "'a'"]),
    "None in a list": ("spacing", (None, 1), TypeError, ["number", "None"]),
    "complex": ("spacing", 1j, TypeError, ["number", "1j"]),
    "dict": ("spacing", {1.0: 2, 2.0: 3}, TypeError, ["number", "{"]),
    "unordered": ("spacing", {1.0, 2.0}, TypeError, ["number", "{"]),
    "rows in a list": ("spacing", [[1.0, 2.0]] * 3, TypeError, ["number", "[[1.0"]),
    "rows in an array": ("spacing", np.ones((3, 2)), TypeError, ["number", "array"]),
    "0-D tensor": ("spacing", torch.tensor(2.0), ValueError, ["number", "0-D"]),
    "1-D tensor": ("spacing", torch.ones(2), ValueError, ["number", "1-D"]),
    "3-D tensor": ("spacing", torch.ones(3, 1, 2), ValueError, ["2-D", "3-D"]),
    "rows of the wrong length": ("spacing", torch.ones(3, 3), ValueError, ["(3, 2)", "(3, 3)"]),
    "too few rows": ("spacing", torch.ones(2, 2), ValueError, ["(3, 2)", "(2, 2)"]),
    "one row for all": ("spacing", torch.ones(1, 2), ValueError, ["(3, 2)", "(1, 2)"]),
    "complex rows": ("spacing", torch.ones(3, 2, dtype=torch.complex64), TypeError, ["real", "complex64"]),
    "rows of bool": ("spacing", torch.ones(3, 2, dtype=torch.bool), TypeError, ["real", "bool"]),
    "rows with a gradient": ("spacing", torch.ones(3, 2, requires_grad=True), ValueError, ["gradient", "detach"]),
    # spatial_dims
    "no spatial dimension": ("spatial_dims", 0, ValueError, ["1, 2 or 3", "0"]),
    "four spatial dimensions": ("spatial_dims", 4, ValueError, ["1, 2 or 3", "4"]),
    "negative spatial_dims": ("spatial_dims", -1, ValueError, ["1, 2 or 3", "-1"]),
    "spatial_dims of float": ("spatial_dims", 2.5, TypeError, ["int", "2.5"]),
    "spatial_dims of str": ("spatial_dims", "2", TypeError, ["int", "'2'"]),
    # border, backend
    "unknown border": ("border", "Open", ValueError, ["'open'", "'closed'", "'Open'"]),
    "empty border": ("border", "", ValueError, ["'open'", "'closed'", "''"]),
    "border of None": ("border", None, TypeError, ["str", "None"]),
    "border of int": ("border", 1, TypeError, ["str", "1"]),
    "unknown backend": ("backend", "gpu", ValueError, ["'cpu'", "'cuda'", "'reference'", "'gpu'"]),
    "empty backend": ("backend", "", ValueError, ["'cpu'", "'cuda'", "'reference'"]),
    "backend of int": ("backend", 1, TypeError, ["str", "1"]),
    # squared, threshold
    "squared of str": ("squared", "yes", TypeError, ["bool", "yes"]),
    "threshold of str": ("threshold", "a", TypeError, ["number", "'a'"]),
    "threshold of list": ("threshold", [0.5], TypeError, ["number", "[0.5]"]),
    "threshold of complex": ("threshold", 1j, TypeError, ["number", "1j"]),
    "threshold of NaN": ("threshold", float("nan"), ValueError, ["number", "nan"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_OPTIONS)
@pytest.mark.parametrize("op", ["edt", "sdf", "labels_sdf"])
def test_bad_options(backend: Backend, op: str, case: str) -> None:
    argument, value, error, fragments = BAD_OPTIONS[case]
    if op == "labels_sdf" and argument == "threshold":
        pytest.skip("labels_sdf has no threshold")
    if isinstance(value, torch.Tensor):
        value = value.detach().to(backend.device).requires_grad_(value.requires_grad)
    x = backend.put(labels() if op == "labels_sdf" else image())
    inputs = (x, 2) if op == "labels_sdf" else (x,)
    before = x.clone()
    out = torch.full((3, 2, 4, 6) if op == "labels_sdf" else x.shape, 5.0, device=backend.device)
    options = {"backend": backend.name, argument: value}
    check_refusal(lambda: getattr(dtk, op)(*inputs, **options), error, argument, fragments)
    check_refusal(lambda: getattr(dtk, op)(*inputs, **options, out=out), error, argument, fragments)
    assert torch.equal(x, before)
    assert (out == 5).all(), "out was written to before the refusal"


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), 1e-30])
def test_values_of_spacing_rows_are_checked_on_cpus(backend: Backend, bad: float) -> None:
    if backend.device != "cpu":
        pytest.skip("reading them would wait for the device, which is documented as not done")
    rows = torch.ones(3, 2, dtype=torch.float64)
    rows[1, 1] = bad
    check_refusal(lambda: backend.edt(image(), rows), ValueError, "spacing", ["positive", str(bad)])


TYPE_OR_VALUE = (TypeError, ValueError)
BAD_OUT: dict[str, tuple[Callable[[torch.Tensor], Any], Any, list[str]]] = {
    "array": (lambda x: np.zeros(x.shape, np.float32), TypeError, ["torch.Tensor", "ndarray"]),
    "float64": (lambda x: torch.zeros_like(x, dtype=torch.float64), TYPE_OR_VALUE, ["float32", "float64"]),
    "float16": (lambda x: torch.zeros_like(x, dtype=torch.float16), TYPE_OR_VALUE, ["float32", "float16"]),
    "int32": (lambda x: torch.zeros_like(x, dtype=torch.int32), TYPE_OR_VALUE, ["float32", "int32"]),
    "larger": (lambda x: x.new_zeros(3, 1, 4, 7), ValueError, ["(3, 1, 4, 6)", "(3, 1, 4, 7)"]),
    "flat": (lambda x: x.new_zeros(x.numel()), ValueError, ["(3, 1, 4, 6)", "(72,)"]),
    "one rank more": (lambda x: x.new_zeros(1, 3, 1, 4, 6), ValueError, ["(3, 1, 4, 6)", "(1, 3, 1, 4, 6)"]),
    "transposed": (lambda x: x.new_zeros(3, 1, 6, 4).transpose(-1, -2), ValueError, ["contiguous", "1, 4)"]),
    "every other": (lambda x: x.new_zeros(3, 1, 4, 12)[..., ::2], ValueError, ["contiguous", "2"]),
    "stride 0": (lambda x: x.new_zeros(1).expand(3, 1, 4, 6), ValueError, ["contiguous", "0"]),
    "the mask": (lambda x: x, ValueError, ["mask", "overlap"]),
    "gradient": (lambda x: torch.zeros_like(x).requires_grad_(), ValueError, ["gradient", "requires_grad"]),
    "elsewhere": (lambda x: torch.zeros_like(x, device="meta"), ValueError, ["device", "meta"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_OUT)
@pytest.mark.parametrize("op", ["edt", "sdf"])
def test_bad_out(backend: Backend, op: str, case: str) -> None:
    make, error, fragments = BAD_OUT[case]
    x = backend.put(image())
    out = make(x)
    before = x.clone()
    comparable = isinstance(out, torch.Tensor) and out.device.type != "meta"
    kept = out.detach().clone() if comparable else None
    check_refusal(lambda: backend.op(op)(x, out=out), error, "out", fragments)
    assert torch.equal(x, before)
    assert kept is None or torch.equal(out, kept)


def test_out_that_overlaps_the_mask_in_part(backend: Backend) -> None:
    memory = torch.zeros(2 * 24, device=backend.device)
    mask, out = memory[:24].view(4, 6), memory[23:47].view(4, 6)
    check_refusal(lambda: backend.edt(mask, out=out), ValueError, "out", ["mask", "overlap"])
    beside = memory[24:].view(4, 6)  # the same storage, but apart: no overlap
    assert backend.edt(mask, out=beside) is beside


def test_out_that_overlaps_a_mask_of_another_dtype(backend: Backend) -> None:
    memory = torch.zeros(4, 6, device=backend.device)
    mask = memory.view(torch.int32)
    check_refusal(lambda: backend.edt(mask, out=memory), ValueError, "out", ["mask", "overlap"])


def test_out_that_overlaps_the_spacing(backend: Backend) -> None:
    memory = torch.ones(3, 1, 4, 6, device=backend.device)
    rows = memory.flatten()[:6].view(3, 2)
    check_refusal(
        lambda: backend.edt(backend.put(image()), rows, out=memory), ValueError, "out", ["spacing", "overlap"]
    )
    assert (memory == 1).all()


def test_tensors_on_another_device_are_refused(backend: Backend) -> None:
    """Never moved, never read as if they were here: the meta device stands for any other."""
    x, rows = backend.put(image()), torch.ones(3, 2, device="meta")
    for call in (lambda: backend.edt(x, rows), lambda: backend.labels_sdf(x.long(), 2, rows)):
        check_refusal(call, ValueError, "spacing", ["device", "meta", backend.device])
    if backend.device != "cpu":
        check_refusal(lambda: backend.edt(x, torch.ones(3, 2)), ValueError, "spacing", ["device", "cpu"])
        check_refusal(lambda: backend.edt(x, out=torch.ones(3, 1, 4, 6)), ValueError, "out", ["device", "cpu"])


@pytest.mark.parametrize(
    ("classes", "error"),
    [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("3", TypeError), (None, TypeError)],
)
def test_bad_num_classes(backend: Backend, classes: Any, error: type[Exception]) -> None:
    call = lambda: backend.labels_sdf(backend.put(labels()), classes)  # noqa: E731
    check_refusal(call, error, "num_classes", [str(classes)])


@pytest.mark.parametrize(
    ("make", "error", "fragments"),
    [
        (lambda: [[0, 1]], TypeError, ["torch.Tensor", "list"]),
        (lambda: image(), TypeError, ["integer", "float32"]),
        (lambda: image(dtype=torch.bool), TypeError, ["integer", "bool"]),
        (lambda: image(dtype=torch.complex64), TypeError, ["complex64"]),
        (lambda: torch.tensor(1), ValueError, ["1", "0"]),
        (lambda: labels().expand(3, 2, 4, 6), ValueError, ["(B, 1, *spatial)", "(3, 2, 4, 6)"]),
        (lambda: labels().expand(2, 3, 1, 4, 6), ValueError, ["(B, 1, *spatial)", "(2, 3, 1, 4, 6)"]),
    ],
    ids=["list", "float", "bool", "complex", "0-D", "channels", "3-D channels"],
)  # fmt: skip
def test_bad_labels(
    backend: Backend, make: Callable[[], Any], error: type[Exception], fragments: list[str]
) -> None:
    x = make()
    x = x.to(backend.device) if isinstance(x, torch.Tensor) else x
    check_refusal(lambda: backend.labels_sdf(x, 2), error, "labels", fragments)


def test_unknown_words_are_refused(backend: Backend) -> None:
    for call in (backend.edt, backend.sdf):
        with pytest.raises(TypeError, match="sampling"):
            call(backend.put(image()), sampling=(1.0, 2.0))
