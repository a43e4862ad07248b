"""Distance losses on nnU-Net's targets and in its trainer: the installed nnunetv2, or a stand-in of its interface.

The oracle reads a target voxel by voxel with SciPy's transforms in float64.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import nn

from dtkernels.losses import BoundaryLoss, HausdorffDTLoss
from dtkernels.nnunet import DeepSupervisionSafeLoss, reading_options
from dtkernels.schedules import ConstantSchedule, RatioSchedule

SPACING, PATCH = (2.5, 0.75, 0.5), (6, 16, 12)
NAMES = ["DiceBoundary", "DiceHausdorff", "DiceCEBoundary", "DiceCEHausdorff"]


class MinusDice(nn.Module):
    """Any region loss in [-1, 0]; what it sees is no matter here."""

    def forward(self, net_output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return -net_output.float().sigmoid().mean()


# --- oracle


def signed(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return np.asarray(distance_transform_edt(~mask, spacing) - distance_transform_edt(mask, spacing))


def oracle(kind: str, p: np.ndarray, g: np.ndarray, known: np.ndarray, spacing: tuple[float, ...]) -> float:
    """Mean over samples and classes of (B, C, *spatial) probabilities and masks; ``known`` is (B, *spatial)."""
    costs = []
    for sample in range(p.shape[0]):
        k = known[sample]
        for q, m in zip(p[sample], g[sample], strict=True):
            phi = signed(m & k, spacing)
            if kind == "boundary":
                cost = phi * q
            else:
                cost = (q - m) ** 2 * (phi**2 + signed((q > 0.5) & k, spacing) ** 2)
            costs.append(cost[k].sum() / max(k.sum(), 1))
    return float(np.mean(costs))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def distance_loss(kind: str, **reading: Any) -> nn.Module:
    return BoundaryLoss(convention="edt_diff", **reading) if kind == "boundary" else HausdorffDTLoss(**reading)


def joined(kind: str, schedule: Any = None, spacing: Any = SPACING, patch: Any = PATCH, **reading: Any) -> Any:
    return DeepSupervisionSafeLoss(
        MinusDice(),
        distance_loss(kind, **reading),
        schedule or ConstantSchedule(),
        spacing=spacing,
        patch_size=patch,
    )


def labels_of(shape: tuple[int, ...], values: int, seed: int = 0) -> np.ndarray:
    """Blobs of labels (B, 1, *spatial)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, values, (shape[0], 1, *(-(-n // 3) for n in shape[1:])))
    for axis in range(2, coarse.ndim):
        coarse = coarse.repeat(3, axis)
    return coarse[(slice(None), slice(None), *(slice(n) for n in shape[1:]))]


def logits_of(shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(scale=2, size=shape)).float()


# --- the loss alone


@pytest.mark.parametrize("kind", ["boundary", "hausdorff"])
@pytest.mark.parametrize("scale", [(1, 1, 1), (1, 2, 2), (2, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
def test_labels_with_ignored_voxels(kind: str, scale: tuple[int, ...], dtype: torch.dtype) -> None:
    shape = tuple(n // s for n, s in zip(PATCH, scale, strict=True))
    spacing = tuple(s * k for s, k in zip(SPACING, scale, strict=True))
    labels = labels_of((2, *shape), 4)  # 0, 1, 2 and 3, which is ignored
    logits = logits_of((2, 3, *shape))
    loss = joined(kind, **reading_options(3, has_regions=False, ignore_label=3))
    region, distance = loss.terms(logits, torch.from_numpy(labels).to(dtype))
    p = softmax(logits.double().numpy())[:, 1:]
    want = oracle(kind, p, labels == np.array([1, 2])[:, None, None, None], labels[:, 0] != 3, spacing)
    assert loss.spacing_at(shape) == spacing
    assert distance.item() == pytest.approx(want, rel=2e-5)
    assert region.item() == pytest.approx(1 - logits.sigmoid().mean().item(), rel=1e-6)
    assert loss(logits, torch.from_numpy(labels).to(dtype)).item() == pytest.approx((region + distance).item())


@pytest.mark.parametrize("kind", ["boundary", "hausdorff"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.uint8])
@pytest.mark.filterwarnings("error")
def test_regions_with_the_ignored_voxels_last(kind: str, channels: int, ignore: bool, dtype: torch.dtype) -> None:
    g = np.concatenate([labels_of((2, *PATCH), 2, seed=i) for i in range(channels)], 1).astype(
        bool
    )  # they overlap
    unknown = labels_of((2, *PATCH), 3, seed=9) == 0
    target = torch.from_numpy(np.concatenate([g, unknown], 1) if ignore else g).to(dtype)
    logits = logits_of((2, channels, *PATCH))
    loss = joined(kind, **reading_options(channels, has_regions=True, ignore_label=7 if ignore else None))
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    known = ~unknown[:, 0] if ignore else np.ones((2, *PATCH), bool)
    want = oracle(kind, p, g, known, SPACING)
    assert loss.terms(logits, target)[1].item() == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize("kind", ["boundary", "hausdorff"])
def test_what_is_predicted_at_ignored_voxels_is_no_matter(kind: str) -> None:
    labels = labels_of((2, *PATCH), 4)
    ignored = torch.from_numpy(labels == 3)
    loss = joined(kind, **reading_options(3, has_regions=False, ignore_label=3))
    logits = logits_of((2, 3, *PATCH)).requires_grad_()
    other = torch.where(ignored, logits_of((2, 3, *PATCH), 5), logits.detach())
    distance = loss.terms(logits, torch.from_numpy(labels))[1]
    assert loss.terms(other, torch.from_numpy(labels))[1].item() == pytest.approx(distance.item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(distance, logits)
    assert not gradient[ignored.expand_as(gradient)].any()
    assert gradient[~ignored.expand_as(gradient)].any()


@pytest.mark.parametrize("kind", ["boundary", "hausdorff"])
@pytest.mark.parametrize("shape", [(8, 6), (16, 12)])
def test_planes(kind: str, shape: tuple[int, int]) -> None:
    labels, logits = labels_of((2, *shape), 3), logits_of((2, 3, *shape))
    loss = joined(kind, spacing=(0.75, 0.5), patch=(16, 12), **reading_options(3, has_regions=False))
    spacing = (0.75 * 16 / shape[0], 0.5 * 12 / shape[1])
    p = softmax(logits.double().numpy())[:, 1:]
    want = oracle(kind, p, labels == np.array([1, 2])[:, None, None], np.ones((2, *shape), bool), spacing)
    assert loss.terms(logits, torch.from_numpy(labels))[1].item() == pytest.approx(want, rel=2e-5)


@pytest.mark.parametrize("kind", ["boundary", "hausdorff"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_under_autocast_are_scored_in_float32(kind: str, dtype: torch.dtype) -> None:
    labels = torch.from_numpy(labels_of((2, *PATCH), 4))
    loss = joined(kind, **reading_options(3, has_regions=False, ignore_label=3))
    half = logits_of((2, 3, *PATCH)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(half, labels)
    value.backward()
    full = half.detach().float().requires_grad_()
    want = loss(full, labels)
    want.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(want.item(), rel=1e-5)
    assert half.grad is not None
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad.float(), full.grad, rtol=2e-2, atol=1e-4)


def test_a_ratio_stays_finite_where_nnunets_own_loss_passes_zero() -> None:
    """-Dice + cross-entropy is 0 somewhere; divided by, it would blow the sum up."""

    class Zero(MinusDice):
        def forward(self, net_output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return super().forward(net_output, target) * 0

    labels = torch.from_numpy(labels_of((2, *PATCH), 3))
    loss = joined("hausdorff", RatioSchedule(), **reading_options(3, has_regions=False))
    loss.region = Zero()
    logits = logits_of((2, 3, *PATCH)).requires_grad_()
    region, distance = loss.terms(logits, labels)
    assert region.item() == 1
    assert loss(logits, labels).item() == pytest.approx(2 * distance.item(), rel=1e-6)


def test_wrong_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing: expected one number for each axis"):
        joined("boundary", spacing=(1.0, 1.0))
    loss = joined("boundary", **reading_options(2, has_regions=False))
    with pytest.raises(ValueError, match="input: expected 3 spatial dimensions"):
        loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))


# --- the trainers


def stand_in() -> dict[str, types.ModuleType]:
    """What the trainers use of nnunetv2 2.8: constructor, label manager, plans, _build_loss, the epoch's hook."""

    class DeepSupervisionWrapper(nn.Module):
        def __init__(self, loss: nn.Module, weight_factors: Any) -> None:
            super().__init__()
            self.weight_factors, self.loss = tuple(weight_factors), loss

        def forward(self, *args: Any) -> Any:
            pairs = zip(self.weight_factors, zip(*args, strict=True), strict=True)
            return sum(weight * self.loss(*inputs) for weight, inputs in pairs if weight != 0)

    class DiceAndCE(nn.Module):
        def __init__(self, has_regions: bool, ignore_label: int | None) -> None:
            super().__init__()
            self.has_regions, self.ignore_label = has_regions, ignore_label
            self.weight_ce = self.weight_dice = 1.0

        def forward(self, net_output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            if self.has_regions:
                known = torch.ones_like(target[:, :1]) if self.ignore_label is None else 1 - target[:, -1:]
                g, p = target[:, : net_output.shape[1]], net_output.float().sigmoid()
                ce = nn.functional.binary_cross_entropy_with_logits(net_output, g)
            else:
                known = torch.ne(target, -1 if self.ignore_label is None else self.ignore_label).float()
                labels = torch.where(known > 0, target, 0).long()
                g = torch.zeros_like(net_output).scatter_(1, labels, 1)[:, 1:]
                p = net_output.float().softmax(1)[:, 1:]
                ce = (nn.functional.cross_entropy(net_output, labels[:, 0], reduction="none") * known[:, 0]).mean()
            axes = tuple(range(2, p.ndim))
            p, g = p * known, g * known
            dice = (2 * (p * g).sum(axes) + 1e-5) / (p.sum(axes) + g.sum(axes) + 1e-5)
            return self.weight_ce * ce - self.weight_dice * dice.mean()

    class nnUNetTrainer:
        def __init__(
            self, plans: dict[str, Any], configuration: str, fold: int, dataset_json: dict[str, Any], device: Any
        ) -> None:
            settings = plans["configurations"][configuration]
            self.device, self.num_epochs, self.current_epoch = device, 1000, 0
            self.enable_deep_supervision = True
            self.configuration_manager = types.SimpleNamespace(
                spacing=settings["spacing"], patch_size=settings["patch_size"]
            )
            labels = dataset_json["labels"]
            regions = any(isinstance(v, (list, tuple)) for v in labels.values())
            heads = len(labels) - ("ignore" in labels) - regions
            self.label_manager = types.SimpleNamespace(
                has_regions=regions, ignore_label=labels.get("ignore"), num_segmentation_heads=heads
            )

        def initialize(self) -> None:
            self.loss = self._build_loss()

        def _build_loss(self) -> nn.Module:
            loss = DiceAndCE(self.label_manager.has_regions, self.label_manager.ignore_label)
            return DeepSupervisionWrapper(loss, [2 / 3, 1 / 3, 0.0]) if self.enable_deep_supervision else loss

        def on_train_epoch_start(self) -> None:
            pass

    names = [
        "nnunetv2", "nnunetv2.training", "nnunetv2.training.loss", "nnunetv2.training.loss.deep_supervision",
        "nnunetv2.training.nnUNetTrainer", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
    ]  # fmt: skip
    modules = {name: types.ModuleType(name) for name in names}
    modules["nnunetv2.training.loss.deep_supervision"].DeepSupervisionWrapper = DeepSupervisionWrapper  # type: ignore[attr-defined]
    modules["nnunetv2.training.nnUNetTrainer.nnUNetTrainer"].nnUNetTrainer = nnUNetTrainer  # type: ignore[attr-defined]
    return modules


@pytest.fixture(params=["stand-in", "installed"])
def trainers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The module of the trainers."""
    for folder in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{folder}", str(tmp_path / folder))
    monkeypatch.delitem(sys.modules, "dtkernels.nnunet.trainers", raising=False)
    if request.param == "installed":
        pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed (pip install nnunetv2)")
    else:
        for name in [name for name in sys.modules if name.split(".")[0] == "nnunetv2"]:
            monkeypatch.delitem(sys.modules, name)
        for name, module in stand_in().items():
            monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module("dtkernels.nnunet.trainers")
    sys.modules.pop("dtkernels.nnunet.trainers", None)


LABELS = {"background": 0, "organ": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


def plans(spacing: tuple[float, ...], patch: tuple[int, ...]) -> dict[str, Any]:
    """The least of a plans file with which nnU-Net builds its network and loss."""
    dims = len(patch)
    arguments = {
        "n_stages": 4, "features_per_stage": [2, 2, 2, 2], "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
        "kernel_sizes": [[3] * dims] * 4, "strides": [[1] * dims, [1, 2, 2][-dims:], [2] * dims, [1] * dims],
        "n_conv_per_stage": [1] * 4, "n_conv_per_stage_decoder": [1] * 3, "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d", "norm_op_kwargs": {"affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    configuration = {
        "data_identifier": "small", "batch_size": 2, "patch_size": list(patch), "spacing": list(spacing),
        "batch_dice": False, "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }  # fmt: skip
    return {
        "continue_training": False, "dataset_name": "Dataset001_Small", "plans_name": "nnUNetPlans",
        "label_manager": "LabelManager", "configurations": {"small": configuration},
    }  # fmt: skip


def build(trainers: Any, name: str, labels: dict[str, Any], spacing: Any = SPACING, patch: Any = PATCH) -> Any:
    dataset = {"labels": labels, "channel_names": {"0": "CT"}, "regions_class_order": [1, 2]}
    trainer = getattr(trainers, f"nnUNetTrainer{name}")(
        plans(spacing, patch), "small", 0, dataset, torch.device("cpu")
    )
    trainer.was_initialized = False
    return trainer


def scales(trainer: Any, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits and targets in nnU-Net's layout at three scales, the first of them full."""
    manager = trainer.label_manager
    logits, targets = [], []
    patch = trainer.configuration_manager.patch_size
    for i, divide in enumerate([(1, 1, 1), (1, 2, 2), (2, 4, 4)]):
        shape = tuple(n // d for n, d in zip(patch, divide[-len(patch) :], strict=True))
        logits.append(logits_of((2, manager.num_segmentation_heads, *shape), seed + i).requires_grad_())
        labels = torch.from_numpy(labels_of((2, *shape), 3 + (manager.ignore_label is not None), seed + i)).float()
        if manager.has_regions:
            regions = [labels > 0, labels == 2] + [labels == 3] * (manager.ignore_label is not None)
            if manager.ignore_label is not None:
                regions[0] = regions[0] & ~regions[2]
            labels = torch.cat(regions, 1).float()
        targets.append(labels)
    return logits, targets


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("name", NAMES)
def test_a_trainer_builds_its_loss(
    trainers: Any, name: str, labels: dict[str, Any], ignore: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrapped loss is, scale by scale, nnU-Net's plus 1 and ours with that scale's spacing, of the weights."""
    trainer = build(trainers, name, labels | ({"ignore": 3} if ignore else {}))
    wrapped = trainer._build_loss()
    plain = trainers.nnUNetTrainer._build_loss(trainer).loss
    if not name.startswith("DiceCE"):
        plain.weight_ce = 0
    trainer.loss, trainer.current_epoch = wrapped, 250
    kind = "boundary" if name.endswith("Boundary") else "hausdorff"
    monkeypatch.setattr(trainers.nnUNetTrainer, "on_train_epoch_start", lambda self: None)
    trainer.on_train_epoch_start()
    weights = (1, 0.25) if kind == "boundary" else (1, 1)
    assert wrapped.loss.weights.tolist() == pytest.approx(weights)

    logits, targets = scales(trainer)
    heads = trainer.label_manager.num_segmentation_heads
    factors = wrapped.weight_factors
    assert factors[0] > factors[1] > factors[2] == 0
    want = 0.0
    for factor, x, y in zip(factors, logits, targets, strict=True):
        spacing = tuple(s * n / m for s, n, m in zip(SPACING, PATCH, x.shape[2:], strict=True))
        if labels is REGIONS:
            p, g = x.detach().double().sigmoid().numpy(), y[:, :heads].numpy() > 0
            known = y[:, -1].numpy() == 0 if ignore else np.ones_like(g[:, 0])
        else:
            p = softmax(x.detach().double().numpy())[:, 1:]
            g = y.numpy() == np.array([1, 2])[:, None, None, None]
            known = y[:, 0].numpy() != 3
        distance, region = oracle(kind, p, g, known, spacing), plain(x, y).item() + 1
        if kind == "hausdorff":
            region *= distance / region
        want += factor * (weights[0] * region + weights[1] * distance)
    value = wrapped(logits, targets)
    assert value.item() == pytest.approx(want, rel=1e-4, abs=1e-5)
    value.backward()
    for x in logits[:2]:
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.any()
    assert logits[2].grad is None


def test_a_trainer_without_deep_supervision_and_in_the_plane(trainers: Any) -> None:
    trainer = build(trainers, "DiceBoundary", LABELS, (0.75, 0.5), (16, 12))
    trainer.enable_deep_supervision = False
    loss = trainer._build_loss()
    assert isinstance(loss, DeepSupervisionSafeLoss)
    assert loss.spacing_at((16, 12)) == (0.75, 0.5)
    logits, targets = scales(trainer)
    assert loss(logits[0], targets[0]).isfinite()


def test_a_region_loss_without_cross_entropy_is_refused(trainers: Any) -> None:
    trainer = build(trainers, "DiceBoundary", LABELS)
    with pytest.raises(TypeError, match="weight_ce: expected None for a region loss without cross-entropy"):
        trainer._join(MinusDice())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trainers", ["installed"], indirect=True)
def test_nnunet_trains_and_continues(trainers: Any, name: str, tmp_path: Path) -> None:
    """Its own network, optimiser and train_step; a continued training has its epoch's weights."""
    trainer = build(trainers, name, LABELS | {"ignore": 3})
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "one.npz").touch()
    trainer.preprocessed_dataset_folder = str(tmp_path / "cases")
    trainer.initialize()
    trainer.current_epoch = 500
    trainer.on_train_epoch_start()
    boundary = name.endswith("Boundary")
    assert trainer.loss.loss.weights.tolist() == pytest.approx([1, 0.5 if boundary else 1])
    before = [p.clone() for p in trainer.network.parameters()]
    _, targets = scales(trainer)
    result = trainer.train_step({"data": torch.randn(2, 1, *PATCH), "target": targets})
    assert np.isfinite(result["loss"])
    assert any((a != b).any() for a, b in zip(before, trainer.network.parameters(), strict=True))
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    again = build(trainers, name, LABELS | {"ignore": 3})
    again.preprocessed_dataset_folder = trainer.preprocessed_dataset_folder
    again.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    again.on_train_epoch_start()
    assert again.loss.loss.weights.tolist() == pytest.approx([1, 0.501 if boundary else 1])


def external_folder() -> str:
    done = subprocess.run([sys.executable, "-m", "dtkernels.nnunet"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("trainers", ["installed"], indirect=True)
def test_nnunet_finds_the_trainers_by_name(trainers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = pytest.importorskip(
        "nnunetv2.utilities.find_objects", reason="nnUNet_extTrainer came with nnunetv2 2.8"
    ).recursive_find_trainer_class_by_name
    monkeypatch.setenv("nnUNet_extTrainer", external_folder())
    for name in NAMES:
        assert find(f"nnUNetTrainer{name}") is getattr(trainers, f"nnUNetTrainer{name}")


def test_the_folder_to_search_has_every_trainer(trainers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(external_folder())
    monkeypatch.syspath_prepend(str(folder))
    assert [file.name for file in folder.glob("*.py")] == ["dtkernels_trainers.py"]
    monkeypatch.delitem(sys.modules, "dtkernels_trainers", raising=False)
    found = importlib.import_module("dtkernels_trainers")
    monkeypatch.delitem(sys.modules, "dtkernels_trainers")
    assert sorted(found.__all__) == sorted(f"nnUNetTrainer{name}" for name in NAMES)
    for name in found.__all__:
        assert getattr(found, name) is getattr(trainers, name)


def test_without_nnunet_the_loss_is_there_and_the_trainers_say_what_to_install() -> None:
    script = (
        "import sys; sys.modules['nnunetv2'] = None\n"
        "import dtkernels.nnunet\n"
        "try: import dtkernels.nnunet.trainers\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ.copy()
    )
    assert "needs nnunetv2" in done.stdout
    assert "pip install nnunetv2" in done.stdout
