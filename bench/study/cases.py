"""Volumes, folds and random patches: nibabel reads, MONAI's transforms prepare."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import set_track_meta
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    NormalizeIntensityd,
    RandCropByPosNegLabeld,
    RandScaleIntensityd,
    RandShiftIntensityd,
    SpatialPadd,
)
from torch import Tensor

from dtkernels import data
from dtkernels.optional import MissingDependencyError

from .settings import Settings

KEYS = ("image", "label")


class StudyError(Exception):
    """The study cannot go on; the message says what to do."""


class Batch(NamedTuple):
    """Patches of one size."""

    image: Tensor  # (B, 1, *spatial) float32
    label: Tensor  # (B, 1, *spatial) uint8
    spacing: tuple[float, ...] | Tensor  # mm: one triple where all agree, else one row per sample


def find(where: str | None) -> Path:
    """The folder of a data set in the Decathlon's layout: the one that is named, or the hippocampus set."""
    folder = data.find_hippocampus(where)
    if folder is None:
        raise StudyError(
            f"--data: expected a folder with imagesTr and labelsTr, got {where or data.data_home()}; "
            "`dtk data hippocampus` fetches the hippocampus set (27 MB), DTK_DATA says where it is. "
            "The MNI152 template is one brain and cannot be split into folds."
        )
    return folder


def check(folder: Path, settings: Settings) -> None:
    """Refuse a folder that the study cannot run on, before any process is started."""
    try:
        pairs = data.decathlon_pairs(folder)
        split(len(pairs), 0, settings)
        data.read_case(*pairs[0])
    except (OSError, ValueError, MissingDependencyError) as error:
        raise StudyError(str(error)) from error


def load(folder: str | Path) -> data.Dataset:
    """Every labelled case; about a second for the hippocampus set."""
    try:
        return data.load_decathlon(folder)
    except (OSError, ValueError, MissingDependencyError) as error:
        raise StudyError(str(error)) from error


def split(count: int, fold: int, settings: Settings) -> tuple[list[int], list[int]]:
    """Training and test cases of a fold: every case is tested in one fold, whatever the seed of the training."""
    if count < 2 * settings.folds:
        raise StudyError(f"expected at least {2 * settings.folds} cases for {settings.folds} folds, got {count}")
    order = np.random.default_rng(0).permutation(count).tolist()
    test = order[fold :: settings.folds]
    held_out = set(test)
    rest = [i for i in order if i not in held_out]
    return rest[: settings.training_cases], test[: settings.test_cases]


class Volumes:
    """Prepared cases, and an endless stream of random patches of them."""

    def __init__(self, cases: Sequence[data.Case], settings: Settings) -> None:
        set_track_meta(False)
        prepare = Compose([EnsureChannelFirstd(KEYS, channel_dim="no_channel"), NormalizeIntensityd("image")])
        self.cases = tuple(cases)
        self.settings = settings
        self.prepared: list[dict[str, Tensor]] = [
            prepare({"image": case.image, "label": case.label}) for case in cases
        ]

    def __len__(self) -> int:
        return len(self.cases)

    def batches(self, count: int, seed: int) -> Iterator[Batch]:
        """``count`` batches: every case once before any comes again, cut at random."""
        augment = Compose(
            [
                SpatialPadd(KEYS, self.settings.patch),
                RandCropByPosNegLabeld(KEYS, "label", self.settings.patch, pos=3, neg=1, num_samples=1),
                RandScaleIntensityd("image", factors=0.1, prob=0.5),
                RandShiftIntensityd("image", offsets=0.1, prob=0.5),
            ]
        )
        augment.set_random_state(seed)
        order = random.Random(seed)
        queue: list[int] = []
        for _ in range(count):
            while len(queue) < self.settings.batch:
                queue += order.sample(range(len(self)), len(self))
            chosen = [queue.pop() for _ in range(self.settings.batch)]
            patches = [augment(dict(self.prepared[i]))[0] for i in chosen]
            yield Batch(
                _stacked(patches, "image"),
                _stacked(patches, "label").to(torch.uint8),
                _spacing([self.cases[i].spacing for i in chosen]),
            )


def _spacing(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...] | Tensor:
    """On a GPU a tensor would not be read back, and distances at equal spacing are exact and faster."""
    return rows[0] if len(set(rows)) == 1 else torch.tensor(rows)


def _stacked(patches: Sequence[dict[str, Any]], key: str) -> Tensor:
    return torch.stack([torch.as_tensor(patch[key]).as_subclass(Tensor) for patch in patches])
