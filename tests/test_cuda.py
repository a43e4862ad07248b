"""What only a GPU can show: streams, graphs, device guards, and that nothing waits for the device."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import dtkernels as dtk
from dtkernels.backends.cpu import _C

STATUS = dtk.backends.available()["cuda"]
pytestmark = pytest.mark.skipif(not STATUS.available, reason=f"cuda backend: {STATUS.reason}")


@pytest.fixture
def mask() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, 2, 40, 50, 60, generator=generator) > 0.9).cuda()


@pytest.mark.parametrize(
    "shape", [(4, 2, 17, 19, 33), (1, 1, 300, 9, 13), (2, 1, 128, 128, 128), (1, 1, 20, 140, 150)]
)
@pytest.mark.parametrize("spacing", [None, (3.0, 0.8, 0.7)])
@pytest.mark.parametrize("border", ["open", "closed"])
@pytest.mark.parametrize("function", [dtk.edt, dtk.sdf])
def test_many_slices(
    function: Callable[..., torch.Tensor], shape: tuple[int, ...], spacing: Any, border: str
) -> None:
    """Enough slices for the fused kernel, and few large ones: the same numbers as on the CPU."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.1
    got = function(mask.cuda(), spacing, border=border).cpu()
    expected = function(mask, spacing, border=border)
    if spacing is None:
        assert torch.equal(got, expected)
    else:
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(1, 1, 4000, 3000), (1, 1, 32768, 200), (1, 1, 250, 250, 250)])
def test_roots_are_those_of_the_cpu(shape: tuple[int, ...]) -> None:
    """Millions of sums of squares: the approximation of the processor, corrected once, is the rounded root."""
    mask = torch.ones(shape, dtype=torch.bool)
    mask.view(-1)[0] = False
    for spacing in (None, 0.7):
        assert torch.equal(dtk.edt(mask.cuda(), spacing).cpu(), dtk.edt(mask, spacing))


@pytest.mark.parametrize("shape", [(4, 2, 17, 19, 32), (1, 1, 300, 8, 12), (3, 2, 40, 64)])
def test_memory_off_its_alignment(shape: tuple[int, ...]) -> None:
    """Whatever is read or written in words of several elements may begin at any of them."""
    size = torch.Size(shape).numel()
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(6))
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float32):
        mask = (noise > 0.1).to(dtype)
        expected = dtk.sdf(mask, spatial_dims=len(shape) - 2)
        for offset in (1, 2, 3, 4):
            source = torch.empty(size + offset, dtype=dtype, device="cuda")[offset:].view(shape).copy_(mask)
            out = torch.full((size + offset + 1,), -7.0, device="cuda")
            dtk.sdf(source, spatial_dims=len(shape) - 2, out=out[offset:-1].view(shape))
            assert torch.equal(out[offset:-1].view(shape).cpu(), expected)
            assert (out[:offset] == -7).all().item()
            assert out[-1].item() == -7


def test_a_launch_that_is_refused_says_why_and_leaves_nothing_behind(mask: torch.Tensor) -> None:
    for index, (name, size) in enumerate(_C.cuda_kernels()):
        if name.startswith("dtk::slices"):
            with pytest.raises(RuntimeError, match=rf"{re.escape(name)}, grid \(1, 1, 1\), block 64, .*cudaError"):
                _C.cuda_launch(index, (1, 1, 1), 64, 1 << 20, bytes(size), 0, 0)
    torch.cuda.synchronize()
    assert torch.equal(dtk.sdf(mask).cpu(), dtk.sdf(mask.cpu()))
    assert (mask.float() + 1).sum().item() > 0


def test_threads_with_streams_of_their_own(mask: torch.Tensor) -> None:
    """Launches of several threads at once: each has scratch of its own, and the order of its stream."""
    masks = [mask.roll(k, -1) for k in range(4)]
    expected = [dtk.sdf(m.cpu()) for m in masks]
    torch.cuda.synchronize()

    def work(k: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            results = [dtk.sdf(masks[k]) for _ in range(30)]
            labels = [dtk.label(masks[k])[0] for _ in range(5)]
            torch.cuda.current_stream().synchronize()
            same = all(torch.equal(labels[0], x) for x in labels)
            return same and all(torch.equal(r.cpu(), expected[k]) for r in results)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize(
    "shape", [(4, 2, 17, 19, 33), (1, 1, 300, 9, 13), (2, 1, 128, 128, 128), (3, 1, 1500, 1100)]
)
def test_positions_and_labels(shape: tuple[int, ...]) -> None:
    """Thousands of blocks at once: ties and unions are decided as on the CPU."""
    dims = len(shape) - 2
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    rows = torch.rand(shape[0], dims, generator=torch.Generator().manual_seed(3)) + 0.5
    rows[0] = 0.7
    for mask in (noise > 0.001, noise > 0.5):
        for spacing in (None, (3.0, 0.8, 0.7)[:dims], rows):
            on_gpu = spacing.cuda() if isinstance(spacing, torch.Tensor) else spacing
            distance, index = dtk.nearest(mask.cuda(), on_gpu, spatial_dims=dims)
            assert torch.equal(index.cpu(), dtk.nearest(mask, spacing, spatial_dims=dims)[1])
            assert torch.equal(distance, dtk.edt(mask.cuda(), on_gpu, spatial_dims=dims))
    for density in (0.02, 0.25, 0.31, 0.5, 0.6, 0.99):
        for connectivity in range(1, dims + 1):
            options: Any = {"spatial_dims": dims, "connectivity": connectivity}
            got = dtk.label((noise < density).cuda(), **options)
            expected = dtk.label(noise < density, **options)
            assert torch.equal(got[0].cpu(), expected[0])
            assert torch.equal(got[1].cpu(), expected[1])


def test_labels_do_not_depend_on_the_order_of_unions() -> None:
    """The worst case for lock-free unions, again and again: one component of long thin chains."""
    side = 1023
    comb = torch.zeros(side, side, dtype=torch.bool)
    comb[:, ::2] = True
    comb[-1] = True
    snake = torch.zeros(side, side, dtype=torch.bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    masks = torch.stack([comb, comb.flip(0), snake, snake.T]).cuda()
    for _ in range(50):
        labels, count = dtk.label(masks, spatial_dims=2)
        assert (count == 1).all().item()
        assert torch.equal(labels, masks.int())


def test_no_host_synchronisation(mask: torch.Tensor) -> None:
    spacing = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]], device="cuda")
    dtk.sdf(mask)
    dtk.nearest(mask)
    dtk.label(mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        dtk.sdf(mask)
        dtk.edt(mask.float(), threshold=0.5)
        dtk.sdf(mask, spacing)
        dtk.labels_sdf(mask[:, :1].long(), 2)
        dtk.nearest(mask)
        dtk.nearest(mask, spacing)
        dtk.label(mask, connectivity=3)
        torch.ops.dtk.boundary_sums(mask.float(), mask)
        torch.ops.dtk.hausdorff_sums(mask.float(), mask, spacing)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "shape", [(4, 2, 17, 19, 33), (2, 2, 128, 128, 128), (1, 1, 300, 200, 250), (2, 3, 700, 900)]
)
def test_sums_and_gradients(shape: tuple[int, ...]) -> None:
    """Thousands of blocks at once: gradients as on the CPU, and the same bits in every run."""
    p = torch.rand(shape, generator=torch.Generator().manual_seed(4))
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(5))
    calls: list[tuple[Any, dict[str, Any]]] = [
        (torch.ops.dtk.boundary_sums, {"shift": True}),
        (torch.ops.dtk.hausdorff_sums, {"alpha": 1}),
        (torch.ops.dtk.hausdorff_sums, {"variant": "one_sided"}),
    ]
    for operator, options in calls:
        expected = operator(p, labels, first_label=0, **options)
        sums, gradient = operator(p.cuda(), labels.cuda(), first_label=0, **options)
        assert torch.equal(gradient.cpu(), expected[1])
        torch.testing.assert_close(sums.cpu(), expected[0], rtol=1e-5, atol=1e-2)
        for _ in range(5):
            again = operator(p.cuda(), labels.cuda(), first_label=0, **options)
            assert torch.equal(again[0], sums)
            assert torch.equal(again[1], gradient)


def test_graph_replay_follows_its_input(mask: torch.Tensor) -> None:
    out = torch.empty(mask.shape, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        dtk.sdf(mask, out=out)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        dtk.sdf(mask, out=out)
    for shift in (0, 3, 7):
        new = mask.roll(shift, -1)
        mask.copy_(new)
        graph.replay()
        assert torch.equal(out.cpu(), dtk.sdf(new.cpu()))


def test_graph_of_positions_and_labels(mask: torch.Tensor) -> None:
    for operator in (dtk.nearest, dtk.label):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            operator(mask)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = operator(mask)
        for shift in (0, 5):
            mask.copy_(mask.roll(shift, -1))
            graph.replay()
            for result, expected in zip(results, operator(mask.cpu()), strict=True):
                assert torch.equal(result.cpu(), expected)


def test_runs_on_the_current_stream(mask: torch.Tensor) -> None:
    """The transform waits for what its stream does before, and only for that."""
    expected = dtk.sdf(mask.cpu())
    stream = torch.cuda.Stream()
    late = torch.zeros_like(mask)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        late.copy_(mask)
        result = dtk.sdf(late)
    stream.synchronize()
    assert torch.equal(result.cpu(), expected)


def test_device_of_the_tensor_not_the_current_one(mask: torch.Tensor) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    other = mask.to("cuda:1")
    with torch.cuda.device(0):
        result = dtk.sdf(other)
        assert torch.cuda.current_device() == 0
    assert result.device == other.device
    assert torch.equal(result.cpu(), dtk.sdf(mask.cpu()))


def test_memory_is_returned(mask: torch.Tensor) -> None:
    dtk.sdf(mask)
    gc.collect()  # what earlier tests left must not go in between
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(100):
        dtk.sdf(mask)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


def test_offsets_beyond_two_to_the_31() -> None:
    """A batch of more than 2^31 voxels: the last image must be as right as the first."""
    side = 512
    count = 2**31 // side**3 + 1
    if torch.cuda.mem_get_info()[0] < count * side**3 * 8:
        pytest.skip("needs about 18 GiB of GPU memory")
    one = torch.zeros(side, side, side, dtype=torch.uint8, device="cuda")
    one[100:300, 120:260, 90:400] = 1
    masks = one.expand(count, 1, side, side, side)
    result = dtk.sdf(masks)
    expected = dtk.sdf(one)
    assert torch.equal(result[0, 0], expected)
    assert torch.equal(result[-1, 0], expected)


def test_labels_and_positions_beyond_two_to_the_31() -> None:
    """An image of more than 2^31 voxels: positions in unsigned words, and 64-bit ones in results."""
    shape = (1100, 1400, 1400)
    size = shape[0] * shape[1] * shape[2]
    if torch.cuda.mem_get_info()[0] < size * 16:
        pytest.skip("needs about 35 GiB of GPU memory")
    mask = torch.zeros(shape, dtype=torch.uint8, device="cuda")
    mask[0, 0, 0] = mask[-1, -1, -1] = 1
    mask[500:600, 3, 5] = 1
    labels, count = dtk.label(mask)
    assert count.item() == 3
    assert labels[0, 0, 0].item() == 1
    assert labels[-1, -1, -1].item() == 3
    assert (labels[500:600, 3, 5] == 2).all().item()
    assert labels.count_nonzero().item() == 102
    del labels
    mask.fill_(1)
    mask[-1, -1, -1] = 0
    distance, index = dtk.nearest(mask)
    assert index[0, 0, 0].item() == index[-1, -1, -1].item() == size - 1
    assert distance[-1, -1, 0].item() == shape[2] - 1
