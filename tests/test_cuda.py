"""What only a GPU can show: streams, graphs, device guards, and that nothing waits for the device."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch

import dtkernels as dtk

STATUS = dtk.backends.available()["cuda"]
pytestmark = pytest.mark.skipif(not STATUS.available, reason=f"cuda backend: {STATUS.reason}")


@pytest.fixture
def mask() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(2, 2, 40, 50, 60, generator=generator) > 0.9).cuda()


@pytest.mark.parametrize("shape", [(4, 2, 17, 19, 33), (1, 1, 300, 9, 13), (2, 1, 128, 128, 128)])
@pytest.mark.parametrize("spacing", [None, (3.0, 0.8, 0.7)])
@pytest.mark.parametrize("border", ["open", "closed"])
@pytest.mark.parametrize("function", [dtk.edt, dtk.sdf])
def test_many_slices(
    function: Callable[..., torch.Tensor], shape: tuple[int, ...], spacing: Any, border: str
) -> None:
    """Enough slices for the fused kernel: the same numbers as on the CPU."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.1
    got = function(mask.cuda(), spacing, border=border).cpu()
    expected = function(mask, spacing, border=border)
    if spacing is None:
        assert torch.equal(got, expected)
    else:
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


def test_no_host_synchronisation(mask: torch.Tensor) -> None:
    spacing = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]], device="cuda")
    dtk.sdf(mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        dtk.sdf(mask)
        dtk.edt(mask.float(), threshold=0.5)
        dtk.sdf(mask, spacing)
        dtk.labels_sdf(mask[:, :1].long(), 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
