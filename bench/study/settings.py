"""How long a run trains, on how much, with which network."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The same for every experiment of a study, so that runs differ in what is compared alone."""

    steps: int  # optimiser steps
    batch: int  # patches per step
    patch: tuple[int, int, int]  # voxels
    window: int  # largest side of a patch at inference; larger volumes slide
    training_cases: int  # of those that are not held out; fewer where there are fewer
    test_cases: int  # of a fold
    channels: tuple[int, ...]  # of the U-Net's levels, which halve the resolution
    peak_rate: float  # of AdamW with a one-cycle schedule
    epochs: int = 100  # that the papers' schedules count, whatever the steps
    pretraining: int = 150  # steps of the LR-Net
    folds: int = 5

    def as_json(self) -> dict[str, Any]:
        """What a result file records, and is compared by before a run is skipped."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


MINIATURE = Settings(
    steps=500,
    batch=2,
    patch=(32, 48, 32),
    window=64,
    training_cases=60,
    test_cases=40,
    channels=(16, 32, 64),
    peak_rate=5e-3,
)

FULL = Settings(
    steps=5000,
    batch=8,
    patch=(32, 48, 32),
    window=128,
    training_cases=10_000,
    test_cases=10_000,
    channels=(32, 64, 128, 256),
    peak_rate=2e-3,
    pretraining=500,
)
