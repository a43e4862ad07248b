"""Whole training steps, forward, backward and update: traced without a look at the data, captured in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from test_losses import Calls, make_case
from test_losses_formulas import ROWS
from torch.fx.experimental.proxy_tensor import make_fx

import dtkernels as dtk
from dtkernels import losses
from dtkernels.losses.segmentation import SegmentationLoss

CUDA = dtk.backends.available()["cuda"]
CLASSES = 3
RATE = 0.5
LOSSES: dict[str, Callable[[], SegmentationLoss]] = {
    **{name: lambda row=row: row.make(to_onehot_y=True, ignore_index=255) for name, row in ROWS.items()},
    "hausdorff": lambda: losses.HausdorffDTLoss(softmax=True, to_onehot_y=True),
    "hausdorff of both classes": lambda: losses.HausdorffDTLoss(1, True, True, softmax=True, ignore_index=255),
    "logarithm": lambda: losses.LogHausdorffDTLoss(softmax=True, to_onehot_y=True),
    "boundary": lambda: losses.BoundaryLoss(softmax=True, to_onehot_y=True),
    "boundary with half a voxel": lambda: losses.BoundaryLoss(softmax=True, to_onehot_y=True, convention="half"),
    "length": lambda: losses.RegionWiseLoss(softmax=True, to_onehot_y=True, convention="ac", length=0.1),
    "weighted classes": lambda: losses.GeneralizedSurfaceLoss(
        softmax=True, to_onehot_y=True, class_weights="inverse_square"
    ),
    "given weights": lambda: losses.GeneralizedSurfaceLoss(
        softmax=True, to_onehot_y=True, class_weights=(0.5, 1.0, 2.0)
    ),
}
MAPS = {"sdf", "labels_sdf", "distance_map", "distance_map_labels", "boundary_sums", "hausdorff_sums"}
EVERY = pytest.mark.parametrize("name", LOSSES)


class Network(torch.nn.Module):
    """One weight and one bias per class: logits of an image."""

    def __init__(self) -> None:
        super().__init__()
        shape = (CLASSES, 1, 1, 1)
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, CLASSES).view(shape))
        self.bias = torch.nn.Parameter(torch.linspace(0.2, -0.3, CLASSES).view(shape))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.weight + self.bias


def batches(device: str, count: int, shape: tuple[int, ...] = (6, 7, 8)) -> Iterator[tuple[torch.Tensor, ...]]:
    """Images and labels, in the last of which a class is absent and another is everywhere."""
    for i in range(count):
        logits, labels = make_case(shape, batch=2, classes=CLASSES, seed=i)
        if i == count - 1:
            labels[0] = 1
        yield logits[:, :1].contiguous().to(device), labels.to(device)


@EVERY
def test_a_step_is_traced_without_a_look_at_the_data(name: str) -> None:
    """The graph of operators that one batch gives, replayed on others: the values of eager steps."""
    loss = LOSSES[name]()
    network = Network()

    def step(weight: torch.Tensor, bias: torch.Tensor, image: torch.Tensor, labels: torch.Tensor) -> Any:
        value = loss(torch.func.functional_call(network, {"weight": weight, "bias": bias}, (image,)), labels)
        slopes = torch.autograd.grad(value, (weight, bias))
        return value, weight - RATE * slopes[0], bias - RATE * slopes[1]

    state: tuple[torch.Tensor, ...] = (network.weight, network.bias)
    graph: Any = None
    for image, labels in batches("cpu", 3):
        if graph is None:  # fake tensors have no data: reading a value back would raise
            graph = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*state, image, labels)
            targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
            called = {t._schema.name.split("::")[1] for t in targets if isinstance(t, torch._ops.OpOverload)}
            assert not called & {*Calls.WAITING}
            assert called & MAPS
        wanted = step(*state, image, labels)
        with torch.no_grad():
            got = graph(*state, image, labels)
        for a, b in zip(got, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
        state = tuple(x.detach().requires_grad_() for x in wanted[1:])
    assert not torch.equal(state[0], network.weight)


@EVERY
def test_a_step_compiles_in_one_graph(name: str) -> None:
    """Network and loss, forward and backward; the optimiser is torch's."""
    torch._dynamo.reset()
    loss, network, mirror = LOSSES[name](), Network(), Network()
    rows = torch.tensor([[1.0, 0.5, 2.0], [0.7, 0.7, 0.7]])
    compiled = torch.compile(
        lambda image, labels: loss(network(image), labels, rows),
        fullgraph=True,
        dynamic=False,
        backend="aot_eager",
    )
    optimisers = [torch.optim.SGD(n.parameters(), RATE) for n in (network, mirror)]
    for image, labels in batches("cpu", 2):
        values = compiled(image, labels), loss(mirror(image), labels, rows)
        for value, optimiser in zip(values, optimisers, strict=True):
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
        torch.testing.assert_close(*values, rtol=1e-6, atol=1e-7)
    for a, b in zip(network.parameters(), mirror.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@EVERY
@pytest.mark.skipif(not CUDA.available, reason=f"cuda backend: {CUDA.reason}")
def test_a_step_is_captured_in_a_cuda_graph(name: str) -> None:
    """Replayed with new data in the same tensors: the values and parameters of eager steps."""
    loss = LOSSES[name]().cuda()
    network, mirror = Network().cuda(), Network().cuda()
    (image, labels), *others = batches("cuda", 4, (20, 24, 32))

    def step(of: Network, optimiser: torch.optim.Optimizer) -> torch.Tensor:
        optimiser.zero_grad(set_to_none=True)
        value: torch.Tensor = loss(of(image), labels)
        value.backward()
        optimiser.step()
        return value

    optimiser, eager = (torch.optim.SGD(n.parameters(), RATE) for n in (network, mirror))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(network, optimiser)
    torch.cuda.current_stream().wait_stream(side)
    network.load_state_dict(mirror.state_dict())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(network, optimiser)
    for new_image, new_labels in others:
        image.copy_(new_image)
        labels.copy_(new_labels)
        graph.replay()
        torch.testing.assert_close(captured, step(mirror, eager), rtol=1e-6, atol=1e-7)
        for a, b in zip(network.parameters(), mirror.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
