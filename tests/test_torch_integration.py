"""The operators inside torch: schemas, opcheck, compile, export, vmap, autograd, fake tensors, CUDA graphs."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Backend, numpy
from torch._dynamo.testing import CompileCounter, CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import dtkernels as dtk

dtk_ops = torch.ops.dtk


def masks(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy((np.random.default_rng(seed).random(shape) < 0.8).astype(np.float32))


def labels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 3, shape))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


# ---- signatures

OF_MASKS = (
    "(mask, spacing=None, *, spatial_dims=None, squared=False, threshold=None, border='open', "
    "out=None, out_dtype=None, backend=None)"
)
OF_LABELS = (
    "(labels, num_classes, spacing=None, *, spatial_dims=None, squared=False, border='open', first_label=0, "
    "out=None, out_dtype=None, backend=None)"
)
FUNCTION_WORDS = {"edt": OF_MASKS, "sdf": OF_MASKS, "labels_sdf": OF_LABELS}
OPERATOR_TYPES = {
    "mask": "Tensor", "labels": "Tensor", "num_classes": "int", "first_label": "int",
    "spacing": "Optional[List[float]]",
    "spatial_dims": "Optional[int]", "squared": "bool", "threshold": "Optional[float]", "border": "str",
    "out_dtype": "Optional[int]", "backend": "Optional[str]",
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTION_WORDS)
def test_function_signatures(name: str) -> None:
    signature = inspect.signature(getattr(dtk, name))
    bare = signature.replace(
        parameters=[p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == FUNCTION_WORDS[name]


@pytest.mark.parametrize("name", FUNCTION_WORDS)
def test_operator_schemas_take_the_same_words(name: str) -> None:
    words = {n: p for n, p in inspect.signature(getattr(dtk, name)).parameters.items() if n != "out"}
    for overload in ("default", "per_sample"):
        arguments = getattr(getattr(dtk_ops, name), overload)._schema.arguments
        assert {a.name for a in arguments} == set(words)
        for argument in arguments:
            word = words[argument.name]
            assert argument.kwarg_only == (word.kind is inspect.Parameter.KEYWORD_ONLY)
            if argument.name == "spacing" and overload == "per_sample":
                assert str(argument.type) == "Tensor"
                continue
            assert str(argument.type) == OPERATOR_TYPES[argument.name]
            assert argument.has_default_value() == (word.default is not inspect.Parameter.empty)
            if argument.has_default_value():
                assert argument.default_value == word.default
        positional = [a.name for a in arguments if not a.kwarg_only]
        assert positional == [n for n, p in words.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]


def test_operators_equal_the_functions(backend: Backend) -> None:
    x, y = backend.put(masks(2, 1, 6, 9)), backend.put(labels(2, 1, 6, 9))
    rows = torch.tensor([[1.0, 2.0], [0.5, 3.0]], device=backend.device)
    for spacing in (None, [2.0, 0.5], rows):
        given = () if spacing is None else (spacing,)
        for name in ("edt", "sdf"):
            expected = backend.op(name)(x, spacing, squared=True, border="closed", threshold=0.5)
            options = {"squared": True, "border": "closed", "threshold": 0.5, "backend": backend.name}
            assert torch.equal(getattr(dtk_ops, name)(x, *given, **options), expected)
        result = dtk_ops.labels_sdf(y, 3, *given, backend=backend.name)
        assert torch.equal(result, backend.labels_sdf(y, 3, spacing))
    assert torch.equal(dtk_ops.sdf(x), dtk.sdf(x))


# ---- opcheck: schema, autograd registration, fake tensors, tracing with static and dynamic shapes

OPCHECK_CASES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "2-D": ((7, 9), {}),
    "batch": ((2, 3, 5, 8), {"squared": True}),
    "volume": ((2, 1, 4, 5, 6), {"border": "closed", "spacing": [1.0, 2.0, 0.5]}),
    "lines": ((3, 11), {"spatial_dims": 1}),
    "one number": ((6, 6), {"spacing": [0.5]}),
    "threshold": ((2, 1, 6, 7), {"threshold": 0.25}),
    "no samples": ((0, 1, 6, 7), {}),
    "per sample": ((2, 2, 5, 8), {"spacing": torch.tensor([[1.0, 2.0], [0.5, 0.5]])}),
    "per sample, lines": ((3, 4, 9), {"spacing": torch.tensor([[1.0], [0.5], [2]]), "spatial_dims": 1}),
}  # fmt: skip


def opcheck(
    name: str, backend: Backend, inputs: tuple[Any, ...], options: dict[str, Any], out_shape: Any = None
) -> None:
    options = {"backend": backend.name, **options}
    spacing = options.pop("spacing", None)
    overload = "default"
    if isinstance(spacing, torch.Tensor):
        spacing, overload = backend.put(spacing), "per_sample"
    if spacing is not None:
        inputs = (*inputs, spacing)
    if out_shape is not None:
        options["out"] = torch.empty(out_shape, device=backend.device)
    torch.library.opcheck(getattr(getattr(dtk_ops, name), overload), inputs, options)


@pytest.mark.parametrize("case", OPCHECK_CASES)
@pytest.mark.parametrize("name", ["edt", "sdf", "edt_out", "sdf_out"])
def test_opcheck(backend: Backend, name: str, case: str) -> None:
    shape, options = OPCHECK_CASES[case]
    opcheck(name, backend, (backend.put(masks(*shape)),), options, shape if name.endswith("out") else None)


@pytest.mark.parametrize("layout", ["transposed", "channels last", "bool", "expanded"])
def test_opcheck_of_other_inputs(backend: Backend, layout: str) -> None:
    x = backend.put(masks(2, 3, 6, 5))
    x = {
        "transposed": x.transpose(-1, -2),
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "bool": x.bool(),
        "expanded": x[:1].expand(4, 3, 6, 5),
    }[layout]
    for name in ("edt", "sdf"):
        opcheck(name, backend, (x,), {})


@pytest.mark.parametrize("name", ["labels_sdf", "labels_sdf_out"])
@pytest.mark.parametrize(
    ("shape", "options", "out_shape"),
    [
        ((6, 7), {}, (3, 6, 7)),
        ((2, 1, 6, 7), {"spacing": [1.0, 2.0], "squared": True}, (2, 3, 6, 7)),
        ((2, 4, 5, 6), {"spatial_dims": 3, "border": "closed"}, (2, 3, 4, 5, 6)),
        ((2, 1, 6, 7), {"spacing": torch.tensor([[1.0, 2.0], [0.5, 0.5]])}, (2, 3, 6, 7)),
    ],
    ids=["2-D", "batch", "volumes", "per sample"],
)
def test_opcheck_of_labels(
    backend: Backend, name: str, shape: tuple[int, ...], options: dict[str, Any], out_shape: tuple[int, ...]
) -> None:
    inputs = (backend.put(labels(*shape)), 3)
    opcheck(name, backend, inputs, options, out_shape if name.endswith("out") else None)


def test_every_operator_is_opchecked() -> None:
    """A new operator must come with its opcheck."""
    defined = {
        n.split("::")[1].split(".")[0] for n in torch._C._dispatch_get_all_op_names() if n.startswith("dtk::")
    }
    here = {"edt", "sdf", "labels_sdf", "edt_out", "sdf_out", "labels_sdf_out"}
    envelopes = {"envelope", "envelope_index", "envelope_backward"}
    sums = {"boundary_sums", "hausdorff_sums"}
    elsewhere = {"nearest", "label", "sdf_extrema", "distance_map", "distance_map_out"} | envelopes | sums
    assert defined == here | elsewhere


# ---- compile and export

Calls = dict[str, Callable[[Backend, torch.Tensor, torch.Tensor], torch.Tensor]]
CALLS: Calls = {
    "edt": lambda b, x, rows: b.edt(x) * 2,
    "sdf with options": lambda b, x, rows: b.sdf(x, (2.0, 0.5), squared=True, border="closed", threshold=0.5) + x,
    "per sample": lambda b, x, rows: b.sdf(x, rows).sum(dim=1),
    "labels": lambda b, x, rows: b.labels_sdf(x[:, :1].long(), 2, (1.0, 2.0)).abs(),
    "labels per sample": lambda b, x, rows: b.labels_sdf(x[:, :1].long(), 2, rows),
    "the operator": lambda b, x, rows: dtk_ops.sdf(x, backend=b.name),
    "out": lambda b, x, rows: b.edt(x, out=torch.empty_like(x)) + 1,
}  # fmt: skip
# No sizes of the first shape are equal, or 2 (the columns of rows): torch takes equal sizes for one symbol.
SHAPES = [(4, 3, 8, 9), (3, 5, 10, 7), (5, 4, 6, 12), (2, 3, 33, 5)]


@pytest.mark.parametrize("call", CALLS)
def test_compile_with_dynamic_shapes(backend: Backend, call: str) -> None:
    """One graph without breaks, compiled once, serves every shape of the rank."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x, rows: CALLS[call](backend, x, rows), fullgraph=True, dynamic=True, backend=counter
    )
    for shape in SHAPES:
        x, rows = backend.put(masks(*shape)), backend.put(torch.rand(shape[0], 2) + 0.5)
        assert torch.equal(compiled(x, rows), CALLS[call](backend, x, rows))
    assert counter.frame_count == 1, f"compiled {counter.frame_count} times for {len(SHAPES)} shapes"


def test_compile_with_static_shapes(backend: Backend) -> None:
    counter = CompileCounter()
    compiled = torch.compile(lambda x: backend.sdf(x), fullgraph=True, dynamic=False, backend=counter)
    for shape in ((2, 1, 8, 9), (2, 1, 8, 9), (7, 7)):
        x = backend.put(masks(*shape))
        assert torch.equal(compiled(x), backend.sdf(x))
    assert counter.frame_count == 2


def test_compile_other_ranks_and_sizes_0_and_1(backend: Backend) -> None:
    compiled = torch.compile(lambda x: backend.edt(x) + 1, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((9,), (5, 6), (4, 5, 6), (1, 1, 5, 6), (0, 1, 5, 6), (2, 1, 1, 6), (1, 1, 4, 5, 6)):
        x = backend.put(masks(*shape))
        assert torch.equal(compiled(x), backend.edt(x) + 1)


@pytest.mark.large
def test_compile_with_inductor_and_backward(backend: Backend) -> None:
    """The whole way: a boundary loss, its map computed inside, forward and backward, generated code around it."""

    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(logits) * backend.sdf(target, (1.0, 2.0))).mean()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for shape in ((2, 1, 8, 9), (3, 2, 10, 7)):
        target = backend.put(masks(*shape))
        logits = torch.randn(shape, device=backend.device)
        gradients = []
        for function in (loss, compiled):
            leaf = logits.clone().requires_grad_()
            value = function(leaf, target)
            value.backward()
            gradients.append((value.detach(), leaf.grad))
        torch.testing.assert_close(gradients[1], gradients[0])


def test_compile_refuses_gradients_too(backend: Backend) -> None:
    compiled = torch.compile(lambda x: backend.sdf(x), fullgraph=True, backend="aot_eager")
    only_type = r"raised exception .*ValueError"  # all that torch 2.8 says
    with pytest.raises(Exception, match=rf"needs no gradient|{only_type}"):
        compiled(backend.put(masks(4, 5)).requires_grad_())


class Map(torch.nn.Module):
    """A user's module around the operators."""

    def __init__(self, backend: str, spacing: tuple[float, ...] | None = None) -> None:
        super().__init__()
        self.backend, self.spacing = backend, spacing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        classes = dtk.labels_sdf(x[:, :1].long(), 2, self.spacing, backend=self.backend)
        return classes + dtk.sdf(x, self.spacing, threshold=0.5, backend=self.backend).sum(1, keepdim=True)


@pytest.mark.parametrize("strict", [False, True])
def test_export(backend: Backend, strict: bool) -> None:
    module = Map(backend.name, (1.0, 2.0))
    dim = torch.export.Dim
    shapes = {"x": {0: dim("batch"), 2: dim("height", max=1000), 3: dim("width", max=1000)}}
    program = torch.export.export(module, (backend.put(masks(2, 2, 8, 9)),), dynamic_shapes=shapes, strict=strict)
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"dtk.sdf.default", "dtk.labels_sdf.default"} <= targets
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for shape in ((2, 2, 8, 9), (3, 2, 11, 6), (5, 2, 20, 30)):
        x = backend.put(masks(*shape))
        assert torch.equal(program.module()(x), module(x))
        assert torch.equal(loaded(x), module(x))


def test_deepcopy_and_pickle_of_a_module(backend: Backend) -> None:
    module = Map(backend.name, (0.5, 2.0))
    x = backend.put(masks(2, 2, 8, 9))
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("name", ["edt", "sdf", "labels_sdf"])
def test_functions_can_be_pickled(name: str) -> None:
    """As a spawned worker needs for a transform that holds one."""
    assert pickle.loads(pickle.dumps(getattr(dtk, name))) is getattr(dtk, name)


# ---- vmap


@pytest.mark.parametrize("name", ["edt", "sdf"])
@pytest.mark.parametrize("in_dim", [0, 1, 2, -1])
def test_vmap_over_any_dimension(backend: Backend, name: str, in_dim: int) -> None:
    """Under vmap the mapped dimension does not exist: a 2-D slice is one image."""
    x, call = backend.put(masks(5, 6, 7)), backend.op(name)
    expected = torch.stack([call(image) for image in x.unbind(in_dim)])
    assert torch.equal(torch.vmap(call, in_dims=in_dim)(x), expected)
    mapped = torch.vmap(call, in_dims=in_dim, out_dims=-1)(x)
    assert torch.equal(mapped, expected.movedim(0, -1))


@pytest.mark.parametrize("shape", [(3, 9), (3, 5, 6), (3, 4, 5, 6), (3, 2, 1, 5, 6), (3, 2, 1, 4, 5, 3)], ids=str)
def test_vmap_resolves_spatial_dims_of_the_slice(backend: Backend, shape: tuple[int, ...]) -> None:
    x = backend.put(masks(*shape))
    assert torch.equal(torch.vmap(backend.sdf)(x), torch.stack([backend.sdf(image) for image in x]))


def test_vmap_in_vmap(backend: Backend) -> None:
    x = backend.put(masks(2, 3, 6, 7))
    expected = torch.stack([torch.stack([backend.sdf(image) for image in row]) for row in x])
    assert torch.equal(torch.vmap(torch.vmap(backend.sdf))(x), expected)
    crossed = torch.vmap(torch.vmap(backend.sdf, in_dims=1), in_dims=1)(x.permute(2, 0, 3, 1))
    expected = torch.stack([
        torch.stack([backend.sdf(x.permute(2, 0, 3, 1)[:, i, :][..., j]) for j in range(3)]) for i in range(2)
    ])  # fmt: skip
    assert torch.equal(torch.vmap(torch.vmap(backend.sdf, in_dims=-1), in_dims=1)(x.permute(2, 0, 3, 1)), expected)
    assert crossed.shape == (2, 7, 6, 3)


def test_vmap_with_options(backend: Backend) -> None:
    x = backend.put(masks(4, 6, 7))
    options = {"squared": True, "border": "closed", "threshold": 0.5}
    mapped = torch.vmap(lambda image: backend.edt(image, (2.0, 0.5), **options))(x)
    assert torch.equal(mapped, backend.edt(x, (2.0, 0.5), spatial_dims=2, **options))


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 2), (-1, 1)], ids=str)
def test_vmap_with_spacing_per_sample(backend: Backend, in_dims: tuple[int | None, int | None]) -> None:
    """Masks, spacings or both are mapped, along any dimension."""
    x, rows = backend.put(masks(3, 2, 1, 6, 7)), backend.put(torch.rand(3, 2, 2) + 0.5)
    expected = torch.stack([
        backend.sdf(x[0 if in_dims[0] is None else i], rows[0 if in_dims[1] is None else i]) for i in range(3)
    ])  # fmt: skip
    x = x[0] if in_dims[0] is None else x.movedim(0, in_dims[0])
    rows = rows[0] if in_dims[1] is None else rows.movedim(0, in_dims[1])
    assert torch.equal(torch.vmap(backend.sdf, in_dims=in_dims)(x, rows), expected)


@pytest.mark.parametrize("shape", [(4, 9), (4, 5, 6), (4, 2, 1, 5, 6)], ids=str)
def test_vmap_of_labels(backend: Backend, shape: tuple[int, ...]) -> None:
    y = backend.put(labels(*shape))
    expected = torch.stack([backend.labels_sdf(image, 3) for image in y])
    assert torch.equal(torch.vmap(lambda image: backend.labels_sdf(image, 3))(y), expected)
    last = torch.vmap(lambda image: backend.labels_sdf(image, 3), in_dims=-1)(y.movedim(0, -1))
    assert torch.equal(last, expected)


def test_vmap_of_labels_with_spacing_per_sample(backend: Backend) -> None:
    y, rows = backend.put(labels(3, 2, 1, 5, 6)), backend.put(torch.rand(3, 2, 2) + 0.5)
    expected = torch.stack([backend.labels_sdf(y[i], 3, rows[i]) for i in range(3)])
    assert torch.equal(torch.vmap(lambda image, row: backend.labels_sdf(image, 3, row))(y, rows), expected)


# ---- autograd, autocast, inference


def test_masks_without_gradients_are_fine(backend: Backend) -> None:
    x = backend.put(masks(6, 7)).requires_grad_()
    expected = backend.sdf(x.detach())
    assert not expected.requires_grad
    with torch.no_grad():
        assert torch.equal(backend.sdf(x), expected)
        assert torch.equal(dtk_ops.sdf(x, backend=backend.name), expected)
    with torch.inference_mode():
        assert torch.equal(backend.sdf(x.detach().clone()), expected)
    probabilities = torch.sigmoid(x)
    with pytest.raises(ValueError, match=r"mask: .*gradient.*detach"):
        backend.sdf(probabilities, threshold=0.5)
    assert torch.equal(backend.sdf(probabilities > 0.5), backend.sdf(probabilities.detach(), threshold=0.5))


def test_gradients_flow_past_the_map(backend: Backend) -> None:
    """In a boundary loss the map is a constant: the gradient of sum(p * map) in p is the map."""
    target = backend.put(masks(2, 1, 6, 7))
    p = torch.rand(2, 1, 6, 7, device=backend.device, requires_grad=True)
    (p * dtk_ops.sdf(target, backend=backend.name)).sum().backward()
    assert torch.equal(p.grad, backend.sdf(target))
    per_sample = torch.func.vmap(torch.func.grad(lambda q, t: (q * backend.sdf(t)).sum()))(p.detach(), target)
    assert torch.equal(per_sample, backend.sdf(target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(backend: Backend, dtype: torch.dtype) -> None:
    x, y = backend.put(masks(2, 1, 20, 300)), backend.put(labels(2, 1, 20, 30))
    rows = torch.tensor([[0.7, 1.3], [2.1, 0.1]], device=backend.device)
    plain = [backend.edt(x), backend.sdf(x, rows), backend.labels_sdf(y, 3), backend.sdf(x, threshold=0.3)]
    with torch.autocast(backend.device, dtype=dtype):
        cast = [backend.edt(x), backend.sdf(x, rows), backend.labels_sdf(y, 3), backend.sdf(x, threshold=0.3)]
    for a, b in zip(plain, cast, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


def test_default_dtype_changes_nothing(backend: Backend) -> None:
    x = backend.put(masks(8, 9))
    expected = backend.sdf(x, (0.7, 1.1))
    torch.set_default_dtype(torch.float64)
    try:
        result = backend.sdf(x, (0.7, 1.1))
    finally:
        torch.set_default_dtype(torch.float32)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


# ---- shapes without values


@pytest.mark.parametrize("shape", [(7,), (5, 6), (2, 3, 5, 6), (0, 3, 5, 6), (2, 1, 4, 5, 6)], ids=str)
def test_fake_and_meta_tensors(backend: Backend, shape: tuple[int, ...]) -> None:
    """Contiguous float32 of the mask's shape and device, whatever the mask's own layout and dtype."""
    real = backend.put(masks(*shape)).bool().movedim(0, -1).contiguous().movedim(-1, 0)
    expected = backend.sdf(real)
    with FakeTensorMode() as mode:
        fakes = [backend.sdf(mode.from_tensor(real)), backend.edt(mode.from_tensor(real))]
    fakes += [dtk.sdf(real.to("meta")), dtk.edt(real.to("meta"))]
    for fake in fakes:
        assert fake.shape == expected.shape
        assert fake.dtype == expected.dtype
        assert fake.stride() == expected.stride()
    assert [str(fake.device) for fake in fakes[:2]] == [str(expected.device)] * 2
    assert fakes[2].device.type == "meta"


def test_fake_labels(backend: Backend) -> None:
    with FakeTensorMode() as mode:
        y = mode.from_tensor(backend.put(labels(2, 1, 5, 6)))
        fake = backend.labels_sdf(y, 4)
    assert (fake.shape, fake.dtype, fake.device.type) == ((2, 4, 5, 6), torch.float32, backend.device)


def test_fake_tensors_are_checked_as_well(backend: Backend) -> None:
    """What does not depend on sizes is refused while tracing."""
    with FakeTensorMode():
        x = torch.ones(2, 1, 5, 6, device=backend.device)
        with pytest.raises(ValueError, match="spacing"):
            backend.sdf(x, (1.0, 2.0, 3.0))
        with pytest.raises(ValueError, match="border"):
            dtk_ops.sdf(x, border="none", backend=backend.name)
        with pytest.raises(TypeError, match="mask"):
            dtk_ops.sdf(x.to(torch.complex64), backend=backend.name)
        with pytest.raises(ValueError, match="num_classes"):
            dtk_ops.labels_sdf(x.long(), 0, backend=backend.name)


def test_compiled_calls_are_checked_as_well(backend: Backend) -> None:
    """What does depend on sizes is refused at the latest when the compiled call runs."""
    compiled = torch.compile(
        lambda x, rows: backend.sdf(x, rows), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    x = backend.put(masks(4, 1, 5, 6))
    compiled(x, torch.ones(4, 2, device=backend.device))
    for rows in (torch.ones(3, 2), torch.ones(4, 3)):
        with pytest.raises(Exception, match="spacing"):
            compiled(x, rows.to(backend.device))


def test_subclasses_and_parameters(backend: Backend) -> None:
    """A Parameter is a tensor like any other, once it needs no gradient."""
    x = backend.put(masks(5, 6))
    assert torch.equal(backend.sdf(torch.nn.Parameter(x, requires_grad=False)), backend.sdf(x))


# ---- CUDA: streams, graphs, no synchronisation


def needs_cuda(backend: Backend) -> None:
    if backend.device != "cuda":
        pytest.skip(f"streams and graphs are CUDA's, the backend {backend.name} runs on {backend.device}")


def test_cuda_graph_replays(backend: Backend) -> None:
    needs_cuda(backend)
    x, y = backend.put(masks(2, 1, 40, 50)), backend.put(labels(2, 1, 40, 50))
    rows = torch.tensor([[1.0, 2.0], [0.5, 3.0]], device="cuda")

    def step() -> list[torch.Tensor]:
        return [backend.edt(x, (1.0, 2.0)), backend.sdf(x, rows, border="closed"), backend.labels_sdf(y, 3)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in (1, 2):
        x.copy_(masks(2, 1, 40, 50, seed=seed))
        y.copy_(labels(2, 1, 40, 50, seed=seed))
        graph.replay()
        for replayed, eager in zip(captured, step(), strict=True):
            assert torch.equal(replayed, eager)


def test_cuda_calls_do_not_synchronise(backend: Backend) -> None:
    needs_cuda(backend)
    x, rows = backend.put(masks(2, 1, 40, 50)), torch.ones(2, 2, device="cuda")
    out = torch.empty_like(x)
    backend.sdf(x)  # the first call may load kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        backend.sdf(x, (1.0, 2.0))
        backend.edt(x, rows, threshold=0.5, out=out)
        backend.labels_sdf(x.long(), 3, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_streams(backend: Backend) -> None:
    """Work queues on the current stream: behind what made the mask, ahead of what reads the map."""
    needs_cuda(backend)
    expected = [numpy(backend.sdf(backend.put(masks(1, 1, 500, 600, seed=k)))) for k in range(4)]
    streams = [torch.cuda.Stream() for _ in range(4)]
    results = []
    for k, stream in enumerate(streams):
        with torch.cuda.stream(stream):
            x = torch.zeros(1, 1, 500, 600, device="cuda")
            torch.cuda._sleep(10_000_000)
            x += masks(1, 1, 500, 600, seed=k).pin_memory().to("cuda", non_blocking=True)
            results.append(backend.sdf(x))
    torch.cuda.synchronize()
    for result, values in zip(results, expected, strict=True):
        np.testing.assert_array_equal(numpy(result), values)


def test_cuda_calls_keep_the_current_device(backend: Backend) -> None:
    needs_cuda(backend)
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = masks(1, 1, 20, 30)
    result = backend.sdf(x.to("cuda:1"))
    assert result.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    assert torch.equal(result.cpu(), backend.sdf(x.to("cuda:0")).cpu())
