"""Schedules by hand-made tables, and a compound loss through training, checkpoints and compilation."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from test_losses import make_case

from dtkernels.losses import BoundaryLoss, HausdorffDTLoss, RegionWiseLoss
from dtkernels.schedules import (
    CompoundLoss,
    ConstantSchedule,
    IncreaseSchedule,
    LinearSchedule,
    RatioSchedule,
    RebalanceSchedule,
    Schedule,
)

TABLE: list[tuple[Schedule, dict[int, tuple[float, float]]]] = [
    (ConstantSchedule(2, 3), {0: (2, 3), 77: (2, 3)}),
    (LinearSchedule(), {0: (1, 0), 1: (0.99, 0.01), 99: (0.01, 0.99), 500: (0.01, 0.99)}),
    (LinearSchedule(change=0.001), {500: (0.5, 0.5), 5000: (0.01, 0.99)}),
    (RebalanceSchedule(), {0: (1, 0.01), 1: (0.99, 0.02), 90: (0.1, 0.91), 500: (0.1, 5.01)}),
    (IncreaseSchedule(), {0: (1, 0.01), 99: (1, 1.0), 500: (1, 5.01)}),
    (IncreaseSchedule(ceiling=2.0), {500: (1, 2.0)}),
    (RatioSchedule(), {0: (1, 1), 9: (1, 1)}),
]


@pytest.mark.parametrize(("schedule", "wanted"), TABLE, ids=str)
def test_weights(schedule: Schedule, wanted: dict[int, tuple[float, float]]) -> None:
    for count, weights in wanted.items():
        assert schedule.weights(count) == pytest.approx(weights, abs=1e-9)


def test_ratio_makes_the_losses_equal() -> None:
    """Dice 0.5 and Hausdorff 100 give 200, derivatives 200 and 1."""
    dice = torch.tensor(0.5, requires_grad=True)
    distance = torch.tensor(100.0, requires_grad=True)
    total = RatioSchedule().combine(dice, distance, torch.ones(2))
    total.backward()
    assert (total.item(), dice.grad.item(), distance.grad.item()) == (200, 200, 1)  # type: ignore[union-attr]
    # A perfect region, and a boundary loss below 0, must not turn the region loss round or make it infinite.
    assert RatioSchedule().combine(torch.tensor(0.0), torch.tensor(3.0), torch.ones(2)) == 3
    dice.grad = None
    RatioSchedule().combine(dice, torch.tensor(-2.0), torch.ones(2)).backward()
    assert dice.grad.item() == 4  # type: ignore[attr-defined]


def options() -> dict[str, Any]:
    return {"softmax": True, "to_onehot_y": True}


def compound(schedule: Schedule) -> CompoundLoss:
    return CompoundLoss(RegionWiseLoss(**options()), HausdorffDTLoss(**options()), schedule)


@pytest.mark.parametrize("schedule", [row[0] for row in TABLE], ids=str)
def test_compound_loss_follows_its_schedule(schedule: Schedule) -> None:
    logits, labels = make_case((9, 8))
    loss = compound(copy.deepcopy(schedule))
    spacing = (2.0, 0.5)
    region = RegionWiseLoss(**options())(logits, labels, spacing)
    distance = HausdorffDTLoss(**options())(logits, labels, spacing)
    for count in range(3):
        a, b = schedule.weights(count)
        wanted = schedule.combine(region, distance, torch.tensor([a, b]))
        torch.testing.assert_close(loss(logits, labels, spacing), wanted)
        assert loss.schedule.count == count
        loss.step()
    torch.testing.assert_close(loss.terms(logits, labels, spacing), (region, distance))
    loss.step(40)
    assert loss.weights.tolist() == pytest.approx(schedule.weights(40))


def test_checkpoint() -> None:
    """A training that is stopped and begun again goes on with the same weights."""
    loss = compound(LinearSchedule(change=0.2))
    loss.step()
    loss.step()
    for state in (loss.state_dict(), pickle.loads(pickle.dumps(loss.state_dict()))):
        again = compound(LinearSchedule())
        again.load_state_dict(state)
        assert torch.equal(again.weights, loss.weights)
        assert again.schedule.count == 2
        again.step()
        assert again.weights.tolist() == pytest.approx([0.4, 0.6])
    schedule = LinearSchedule()
    schedule.load_state_dict(loss.schedule.state_dict())
    assert (schedule.count, schedule.change) == (2, 0.2)
    with pytest.raises(ValueError, match=r"state: expected .*those of a RatioSchedule, got"):
        RatioSchedule().load_state_dict(loss.schedule.state_dict())


def test_losses_of_other_libraries_get_no_spacing() -> None:
    logits, labels = make_case((9, 8), classes=2)

    class Region(torch.nn.Module):
        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(input, target[:, 0])

    loss = CompoundLoss(Region(), BoundaryLoss(**options()), ConstantSchedule())
    wanted = Region()(logits, labels) + BoundaryLoss(**options())(logits, labels, 3.0)
    torch.testing.assert_close(loss(logits, labels, spacing=3.0), wanted)


def test_steps_do_not_recompile() -> None:
    torch._dynamo.reset()
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph

    loss = compound(LinearSchedule())
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    logits, labels = make_case((9, 8))
    for _ in range(3):
        torch.testing.assert_close(compiled(logits, labels), loss(logits, labels))
        loss.step()
    assert len(compilations) == 1


def test_bad_options() -> None:
    with pytest.raises(TypeError, match="start: expected a number, got '1'"):
        LinearSchedule(start="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="floor: expected a finite number, got nan"):
        RebalanceSchedule(floor=float("nan"))
    for count in (-1, 0.5, True):
        with pytest.raises(ValueError, match="count: expected None or an int that is not negative"):
            LinearSchedule().step(count)  # type: ignore[arg-type]
    assert "change=0.01" in repr(LinearSchedule())
