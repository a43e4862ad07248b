"""Every experiment of the study, as data.

A run trains one network for one seed on one fold. ``distance`` and ``region`` name losses of :mod:`.criteria`,
``schedule`` how they share the training, ``convention`` the distance map, ``options`` the rest of the distance
loss's constructor, ``head`` and ``network`` parts of :mod:`.networks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Experiment:
    """What one line of the study's tables trains."""

    name: str
    title: str
    paper: str  # that it repeats
    region: str | None = "dice"
    distance: str | None = None
    convention: str | None = None  # None: the loss's own, or no map
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "constant"
    head: str = "plain"
    network: str = "unet"
    seeds: tuple[int, ...] = (0, 1, 2)
    folds: tuple[int, ...] = (0, 1, 2)  # that of each seed: every run tests on other cases
    subset: bool = False  # part of `make study`

    def runs(self) -> list[tuple[int, int]]:
        """(seed, fold) of every run."""
        return list(zip(self.seeds, self.folds, strict=True))

    def as_json(self) -> dict[str, Any]:
        """What defines a run's numbers, for its result file."""
        return {
            "region": self.region,
            "distance": self.distance,
            "convention": self.convention,
            "options": dict(self.options),
            "schedule": self.schedule,
            "head": self.head,
            "network": self.network,
        }


BASELINE = "dice"


def _baselines() -> list[Experiment]:
    """Losses without a distance map: Ma21's companions, MONAI's and torch's."""
    titles = {
        "ce": "cross-entropy",
        "focal": "focal",
        "generalized_dice": "generalised Dice",
        "tversky": "Tversky",
        "dice_focal": "Dice + focal",
    }
    return [
        Experiment("dice", "Dice (baseline)", "Ma20", subset=True),
        Experiment("dice-ce", "Dice + CE", "Ma21", region="dice_ce", subset=True),
        *(Experiment(name.replace("_", "-"), title, "Ma21", region=name) for name, title in titles.items()),
        Experiment("vnet-dice", "V-Net, Dice", "Ma20", network="vnet"),
        Experiment("vnet-dice-ce", "V-Net, Dice + CE", "Ma20", region="dice_ce", network="vnet"),
    ]


def _boundary() -> list[Experiment]:
    """Boundary loss: schedules, and raw against normalised maps."""
    of = {"distance": "boundary"}
    schedules = ("linear_slow", "rebalance", "increase", "constant", "ratio")
    maps = ("edt_diff", "half", "xue_sdm", "ma_sdf11", "diagonal", "truncated")
    return [
        Experiment("boundary", "Dice + boundary, linear", "Ma20", schedule="linear", subset=True, **of),
        *(
            Experiment(f"boundary-{s.replace('_', '-')}", f"Dice + boundary, {s.replace('_', ' ')}", "Ma20",
                       schedule=s, **of)
            for s in schedules
        ),
        *(
            Experiment(f"boundary-{m.replace('_', '-')}", f"Dice + boundary, map `{m}`", "Ma20",
                       schedule="linear", convention=m, **of)
            for m in maps
        ),
        Experiment("vnet-boundary", "V-Net, Dice + boundary", "Ma20", schedule="linear", network="vnet", **of),
    ]  # fmt: skip


def _hausdorff() -> list[Experiment]:
    """Hausdorff loss: its three forms, and schedules."""
    of = {"distance": "hausdorff"}
    forms = {"two_sided": "two-sided", "ma2020": "foreground only", "one_sided": "one-sided"}
    return [
        *(
            Experiment(f"hausdorff-{f.replace('_', '-')}", f"Dice + Hausdorff, {title}", "Ma20",
                       schedule="linear", options={"variant": f}, subset=f != "one_sided", **of)
            for f, title in forms.items()
        ),
        *(
            Experiment(f"hausdorff-{s.replace('_', '-')}", f"Dice + Hausdorff, {s.replace('_', ' ')}", "Ma20",
                       schedule=s, **of)
            for s in ("linear_slow", "rebalance", "constant", "ratio")
        ),
        Experiment("log-hausdorff", "Dice + log-Hausdorff", "Ma21", distance="log_hausdorff", schedule="linear"),
    ]  # fmt: skip


def _maps_of_the_target() -> list[Experiment]:
    """Losses that read one map of the target."""
    alone: dict[str, Any] = {"region": None, "schedule": "alone"}
    return [
        Experiment("region-wise", "Region-wise, rectified", "Val22", distance="region_wise", convention="rrw",
                   subset=True, **alone),
        Experiment("region-wise-boundary", "Region-wise, raw distances", "Val22", distance="region_wise",
                   convention="edt_diff", subset=True, **alone),
        Experiment("region-wise-ac", "Region-wise, active contour", "Val22", distance="region_wise",
                   convention="ac", **alone),
        Experiment("dpce", "Distance-penalised CE", "Ma21", distance="dpce", **alone),
        Experiment("dice-dpce", "Dice + distance-penalised CE", "Ma21", distance="dpce"),
        Experiment("border-ce", "U-Net's border CE", "Ma21", distance="border_ce", **alone),
        Experiment("map-dice-printed", "MapDice, as printed", "Li20", distance="map_dice",
                   options={"form": "printed"}, subset=True, **alone),
        Experiment("map-dice", "MapDice, repaired", "Li20", distance="map_dice", options={"form": "weighted"},
                   subset=True, **alone),
        Experiment("generalized-surface", "Dice + generalised surface", "Celaya", distance="surface",
                   schedule="linear"),
    ]  # fmt: skip


def _heads() -> list[Experiment]:
    """A map predicted beside the segmentation: where, which, under which loss."""
    result = []
    heads = {"multi": "Multi-head", "branch": "Reconstruction branch"}
    targets = {"dtm": "ma_dtm", "sdf": "ma_sdf11"}
    for head, title in heads.items():
        for target, convention in targets.items():
            for form in ("l1", "l2", "both"):
                name = f"{'multi-head' if head == 'multi' else 'branch'}-{target}-{form}"
                what = f"{target.upper()}, {form.upper() if form != 'both' else 'L1 + L2'}"
                result.append(
                    Experiment(name, f"{title}, {what}", "Ma20", distance="regression", convention=convention,
                               options={"form": form}, head=head, subset=(target, form) == ("sdf", "l2"))
                )  # fmt: skip
    raw = {"convention": "edt_diff", "options": {"form": "l1"}}
    return [
        *result,
        Experiment("multi-head-raw-l1", "Multi-head, raw SDF, L1", "Ma20", distance="regression", head="multi",
                   **raw),
        Experiment("sdf-product", "Multi-head, SDF product", "Ma20", distance="product", head="multi",
                   subset=True),
        Experiment("sdf-product-pointwise", "Multi-head, SDF product of voxels", "Ma20", distance="product",
                   head="multi", options={"form": "pointwise"}),
        Experiment("sdf-product-l1", "Multi-head, SDF product + L1", "Xue20", distance="product_l1",
                   head="multi"),
        Experiment("heaviside", "SDM alone, Heaviside joint", "Xue20", region=None, distance="shape_aware",
                   schedule="alone", head="map", subset=True),
        Experiment("heaviside-soft", "SDM alone, Heaviside joint, k = 50", "Xue20", region=None,
                   distance="shape_aware", options={"k": 50.0}, schedule="alone", head="map"),
        Experiment("sdm-l1", "SDM alone, L1", "Xue20", region=None, distance="regression",
                   convention="xue_sdm", schedule="alone", head="map"),
    ]  # fmt: skip


def _lr_net() -> list[Experiment]:
    """A map of the prediction by a network, or by the exact layer."""
    of = {"region": "map_dice", "distance": "lr_net", "convention": "li_nidm"}
    return [
        Experiment("lr-net", "MapDice + LR-Net, pre-trained, frozen", "Li20", subset=True, **of),
        Experiment("lr-net-free", "MapDice + LR-Net, pre-trained, trained on", "Li20",
                   options={"frozen": False}, **of),
        Experiment("lr-net-untrained", "MapDice + LR-Net, trained along", "Li20",
                   options={"pretrained": False, "frozen": False}, **of),
        Experiment("exact-layer", "MapDice + exact distance layer", "Li20", region="map_dice",
                   distance="exact_layer", convention="truncated", subset=True),
        Experiment("dice-lr-net", "Dice + LR-Net, pre-trained, frozen", "Li20",
                   **{**of, "region": "dice"}),
        Experiment("dice-exact-layer", "Dice + exact distance layer", "Li20", distance="exact_layer",
                   convention="truncated"),
    ]  # fmt: skip


EXPERIMENTS: tuple[Experiment, ...] = (
    *_baselines(),
    *_boundary(),
    *_hausdorff(),
    *_maps_of_the_target(),
    *_heads(),
    *_lr_net(),
)


def named(name: str) -> Experiment:
    """One experiment."""
    return next(e for e in EXPERIMENTS if e.name == name)
