"""Losses and transforms of ``dtkernels.compat.monai`` against MONAI's own, in values, warnings and errors."""

from __future__ import annotations

import inspect
import itertools
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from test_losses import make_case, one_hot

from dtkernels.compat.monai import losses, transforms

NAMES = ["HausdorffDTLoss", "LogHausdorffDTLoss", "BoundaryLoss"]


@pytest.fixture(scope="module")
def monai() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("monai.losses", exc_type=ImportError)
        if not hasattr(module, "BoundaryLoss"):
            pytest.skip("this MONAI has no BoundaryLoss (1.6 has)")
        yield module


@pytest.fixture(params=NAMES)
def pair(request: pytest.FixtureRequest, monai: Any) -> tuple[Any, Any]:
    return getattr(losses, request.param), getattr(monai, request.param)


def test_constructors_are_monais(pair: tuple[Any, Any]) -> None:
    ours, theirs = (inspect.signature(kind) for kind in pair)
    assert list(ours.parameters) == list(theirs.parameters)
    for name, parameter in theirs.parameters.items():
        assert ours.parameters[name].kind == parameter.kind
        assert str(ours.parameters[name].default) == str(parameter.default)
    assert list(inspect.signature(pair[0].forward).parameters) == list(
        inspect.signature(pair[1].forward).parameters
    )
    ours, theirs = pair[0](), pair[1]()
    for name, value in vars(theirs).items():
        if not name.startswith("_"):
            assert getattr(ours, name) == value, name
    assert isinstance(ours, torch.nn.modules.loss._Loss)
    assert pickle.loads(pickle.dumps(ours)).reduction == "mean"


def test_values_and_gradients(pair: tuple[Any, Any]) -> None:
    for spatial, reduction, batch, labelled in itertools.product(
        ((9, 8), (5, 6, 7)), ("mean", "sum", "none"), (False, True), (False, True)
    ):
        logits, labels = make_case(spatial)
        target = labels if labelled else one_hot(labels, 3).float()
        values, gradients = [], []
        for kind in pair:
            x = logits.clone().requires_grad_()
            loss = kind(softmax=True, to_onehot_y=labelled, reduction=reduction, batch=batch)
            values.append(loss(x, target))
            gradients.append(torch.autograd.grad(values[-1].sum(), x)[0])
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_gradient_of_the_target(pair: tuple[Any, Any]) -> None:
    """MONAI differentiates the squared error with respect to the target, too, but not its map."""
    logits, labels = make_case((9, 8))
    found = []
    for kind in pair:
        x, g = logits.sigmoid().requires_grad_(), (0.8 * one_hot(labels, 3).float()).requires_grad_()
        kind(include_background=True)(x, g).backward()
        found.append(g.grad)
    if found[1] is None:
        assert found[0] is None
    else:
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if "Hausdorff" in name])
def test_gradient_of_the_target_by_transforms(name: str) -> None:
    """Of ``torch.func``, one in the other: a target that is mapped inside does not look as if it needed one."""
    ours = getattr(losses, name)(include_background=True)
    p, g = rand(3, 2, 1, 9, 8), 0.9 * rand(3, 2, 1, 9, 8)
    leaf = g.clone().requires_grad_()
    sum(ours(x, y) for x, y in zip(p, leaf, strict=True)).backward()
    assert leaf.grad is not None
    assert leaf.grad.any()
    mapped = torch.func.grad(lambda g: torch.vmap(ours)(p, g).sum())(g)
    torch.testing.assert_close(mapped, leaf.grad)
    torch.testing.assert_close(torch.vmap(torch.func.grad(ours, 1))(p, g), leaf.grad)


def outcome(run: Any) -> tuple[Any, ...]:
    """What came of it: kind and text of the error or of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = run()
        except Exception as error:
            return type(error).__name__, str(error)
    return "value", round(value.item(), 5), [str(w.message) for w in caught if w.category is UserWarning]


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


CALLS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "two activations": ({"sigmoid": True, "softmax": True}, rand(1, 2, 4, 4), rand(1, 2, 4, 4)),
    "activation and function": ({"sigmoid": True, "other_act": torch.tanh}, rand(1, 2, 4, 4), rand(1, 2, 4, 4)),
    "no function": ({"other_act": "tanh"}, rand(1, 2, 4, 4), rand(1, 2, 4, 4)),
    "unknown reduction": ({"reduction": "unknown"}, rand(1, 2, 4, 4), rand(1, 2, 4, 4)),
    "no reduction": ({"reduction": None}, rand(1, 2, 4, 4), rand(1, 2, 4, 4)),
    "one dimension": ({}, rand(1, 1, 4), rand(1, 1, 4)),
    "four dimensions": ({}, rand(1, 1, 2, 2, 2, 2), rand(1, 1, 2, 2, 2, 2)),
    "other shape": ({}, rand(1, 2, 2, 3), rand(1, 4, 5, 6)),
    "other shape with background": ({"include_background": True}, rand(1, 2, 2, 3), rand(1, 2, 5, 6)),
    "labels of another shape": ({"to_onehot_y": True}, rand(1, 2, 4, 4), torch.ones(1, 1, 4, 5)),
    "labels with channels": ({"to_onehot_y": True}, rand(1, 2, 4, 4), torch.ones(1, 2, 4, 4)),
    "labels without one": ({}, rand(1, 2, 4, 4), rand(1, 1, 4, 4)),
    "softmax of one channel": ({"softmax": True}, rand(1, 1, 4, 4), rand(1, 1, 4, 4)),
    "labels of one channel": ({"to_onehot_y": True}, rand(1, 1, 4, 4), rand(1, 1, 4, 4)),
    "no background of one channel": ({"include_background": False}, rand(1, 1, 4, 4), rand(1, 1, 4, 4)),
}


@pytest.mark.parametrize("call", CALLS)
def test_errors_and_warnings_are_monais(pair: tuple[Any, Any], call: str) -> None:
    options, x, target = CALLS[call]
    ours, theirs = (outcome(lambda kind=kind: kind(**options)(x, target)) for kind in pair)
    assert ours == theirs


def test_labels_without_a_channel(pair: tuple[Any, Any]) -> None:
    """MONAI's boundary loss adds the channel, its Hausdorff losses refuse."""
    logits, labels = make_case((9, 8))
    ours, theirs = (
        outcome(lambda kind=kind: kind(softmax=True, to_onehot_y=True)(logits, labels[:, 0])) for kind in pair
    )
    assert ours[0] == theirs[0]
    if theirs[0] == "value":
        assert ours == theirs


def test_distance_methods_answer_and_overriding_them_is_refused(monai: Any) -> None:
    _, labels = make_case((9, 8))
    g = one_hot(labels, 3).float()
    field = losses.HausdorffDTLoss().distance_field(g[:, :1])
    torch.testing.assert_close(field, monai.HausdorffDTLoss().distance_field(g[:, :1]))
    torch.testing.assert_close(
        losses.BoundaryLoss().compute_distance_map(g), monai.BoundaryLoss().compute_distance_map(g)
    )
    with pytest.raises(TypeError, match=r"Mine\.distance_field: expected a subclass that leaves it alone"):
        type("Mine", (losses.HausdorffDTLoss,), {"distance_field": lambda self, img: img})

    class Scaled(losses.BoundaryLoss):  # what subclasses usually do
        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input, target)

    p = g.clone()
    assert Scaled()(p, g) == 2 * losses.BoundaryLoss()(p, g)


def test_metadata_tensors(monai: Any) -> None:
    from monai.data import MetaTensor

    logits, labels = make_case((9, 8))
    for kind in (losses.HausdorffDTLoss, losses.BoundaryLoss):
        loss = kind(softmax=True, to_onehot_y=True)
        x = MetaTensor(logits).requires_grad_()
        value = loss(x, MetaTensor(labels))
        value.backward()
        torch.testing.assert_close(torch.as_tensor(value).as_subclass(torch.Tensor), loss(logits, labels))
        assert x.grad is not None


# ---- transforms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [None, 0.7, "axes"])
@pytest.mark.parametrize("shape", [(2, 9, 8), (2, 5, 6, 7)])
def test_distance_transform(monai: Any, shape: tuple[int, ...], sampling: Any) -> None:
    from monai.data import MetaTensor
    from monai.transforms import DistanceTransformEDT

    if sampling == "axes":
        sampling = [2.0, 0.5, 1.5][: len(shape) - 1]
    image = np.random.default_rng(0).random(shape) > 0.2
    for kind in (image, image.astype(np.float32), torch.from_numpy(image).int(), MetaTensor(image.astype(float))):
        ours, theirs = (
            t(sampling=sampling)(kind) for t in (transforms.DistanceTransformEDT, DistanceTransformEDT)
        )
        assert type(ours) is type(theirs)
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-14)


def test_distance_transform_differs_where_monai_is_wrong() -> None:
    """SciPy's distances of a full mask are to a point outside of the image."""
    assert np.isinf(transforms.DistanceTransformEDT()(np.ones((1, 4, 4)))).all()


def test_distance_transform_of_a_dictionary(monai: Any) -> None:
    from monai.transforms import Compose, DistanceTransformEDTd

    image = np.random.default_rng(0).random((1, 9, 8)) > 0.2
    data = {"a": image, "b": ~image, "c": 1}
    ours = Compose([transforms.DistanceTransformEDTd(["a", "b"], sampling=2.0)])(data)
    theirs = DistanceTransformEDTd(["a", "b"], sampling=2.0)(data)
    assert ours["c"] == 1
    assert data["a"] is image
    for key in "ab":
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-14)
    assert transforms.DistanceTransformEDTd("z", allow_missing_keys=True)(data).keys() == data.keys()
    for call in (
        lambda kind: kind("z")(data),
        lambda kind: kind(())(data),
        lambda kind: kind("a")({"a": np.ones(3)}),
        lambda kind: kind("a")({"a": np.ones((1, 2, 2, 2, 2))}),
        lambda kind: kind("a", sampling=[1.0])(data),
    ):
        with pytest.raises((KeyError, ValueError, RuntimeError)) as of_theirs:
            call(DistanceTransformEDTd)
        with pytest.raises((KeyError, ValueError, RuntimeError)) as of_ours:
            call(transforms.DistanceTransformEDTd)
        assert of_ours.type is of_theirs.type
    assert transforms.DistanceTransformEDTD is transforms.DistanceTransformEDTDict
