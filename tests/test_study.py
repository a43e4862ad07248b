"""The study: every experiment trains, runs are kept and skipped, statistics and the page are right."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

MISSING = [
    name
    for name in ("matplotlib", "monai", "nibabel", "pytorch_lightning", "rich", "scipy")
    if importlib.util.find_spec(name) is None
]
if MISSING:
    pytest.skip(f"the study needs {', '.join(MISSING)}: pip install '.[study]'", allow_module_level=True)

from bench.study import (  # noqa: E402
    __main__,
    analysis,
    cases,
    claims,
    criteria,
    demonstrations,
    report,
    runner,
    training,
)
from bench.study.experiments import EXPERIMENTS, Experiment, named  # noqa: E402
from bench.study.networks import Network, Prediction  # noqa: E402
from bench.study.settings import MINIATURE, Settings  # noqa: E402
from dtkernels.data import Case, Dataset  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ROOT / "bench" / "results" / "study"
TINY = Settings(
    steps=2,
    batch=2,
    patch=(16, 16, 16),
    window=16,
    training_cases=2,
    test_cases=1,
    channels=(4, 8, 8),
    peak_rate=1e-3,
    pretraining=1,
    folds=2,
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """One thread; and what a training changes for the whole process is put back."""
    from monai.data import get_track_meta, set_track_meta

    threads, meta = torch.get_num_threads(), get_track_meta()
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    environment = dict(os.environ)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    set_track_meta(meta)
    torch.use_deterministic_algorithms(False)
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.random.set_rng_state(states[2])
    os.environ.clear()
    os.environ.update(environment)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> torch.Tensor:
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    return torch.stack([(x - c) ** 2 for x, c in zip(axes, centre, strict=True)]).sum(0) <= radius**2


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Four volumes with two touching balls, at unequal spacing."""
    noise = torch.Generator().manual_seed(0)
    found = []
    for i in range(4):
        shape = (14 + i, 16, 15)
        label = ball(shape, (6, 5, 6), 3).to(torch.uint8)
        label[ball(shape, (6, 10, 6), 3)] = 2
        image = label * 2 + torch.randn(shape, generator=noise)
        found.append(Case(f"balls_{i}", image, label, (2.0, 1.0, 0.5)))
    return Dataset("balls", "generated", ("background", "a", "b"), tuple(found))


# ---- every experiment --------------------------------------------------------------------------------


def test_the_list_is_consistent() -> None:
    names = [e.name for e in EXPERIMENTS]
    assert len(set(names)) == len(names)
    assert len({json.dumps(e.as_json(), sort_keys=True) for e in EXPERIMENTS}) == len(names), "two are the same"
    required = {
        "dice", "dice-ce", "boundary", "hausdorff-two-sided", "hausdorff-ma2020", "sdf-product", "region-wise",
        "multi-head-sdf-l2", "heaviside",
    }  # fmt: skip
    subset = {e.name for e in EXPERIMENTS if e.subset}
    assert required <= subset
    assert all(len(set(e.seeds)) >= 3 for e in EXPERIMENTS)
    needed = {n for claim in claims.CLAIMS for n in claim.needs} - {"demonstrations"}
    assert needed <= subset, "a claim of the page needs more than `make study` runs"


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_every_experiment_trains(experiment: Experiment, dataset: Dataset) -> None:
    """Two steps change every weight that is trained and give a whole result."""
    record = training.run(experiment, 0, 0, dataset, TINY)
    json.dumps(runner.finite(record), allow_nan=False)
    assert not record["diverged"]
    assert len(record["curve"]) == 2
    assert record["cases"] == [dataset.cases[i].name for i in cases.split(4, 0, TINY)[1]]
    for metric in training.METRICS:
        assert np.array(record["scores"][metric], dtype=float).shape == (1, 2)
    seconds = record["seconds"]
    assert seconds["iteration"] > 0
    assert 0 <= seconds["maps"] <= seconds["loss"] + 0.05
    reads_a_map = experiment.distance is not None or experiment.region == "map_dice"
    assert (seconds["maps"] > 0) == reads_a_map


@pytest.mark.parametrize("name", ["multi-head-sdf-l2", "branch-sdf-l2", "heaviside", "lr-net-free", "exact-layer"])
def test_gradients_reach_every_weight(name: str, dataset: Dataset) -> None:
    experiment = named(name)
    torch.manual_seed(0)
    network, criterion = Network(experiment, 3, TINY), criteria.Criterion(experiment)
    volumes = cases.Volumes(dataset.cases, TINY)
    criterion.prepare(criteria.one_hot(b.label, 3) for b in volumes.batches(2, 1))
    batch = next(volumes.batches(1, 0))
    criterion(network(batch.image), batch.label, batch.spacing).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias before an instance normalisation has no effect, and so no gradient but rounding.
    assert not [n for n in without if not n.endswith("bias")]
    trained = [p for p in criterion.parameters() if p.requires_grad]
    assert bool(trained) == (name == "lr-net-free")
    assert all(p.grad is not None for p in trained)


def test_a_frozen_lr_net_stays_as_it_is(dataset: Dataset) -> None:
    experiment = named("lr-net")
    criterion = criteria.Criterion(experiment)
    volumes = cases.Volumes(dataset.cases, TINY)
    criterion.prepare(criteria.one_hot(b.label, 3) for b in volumes.batches(2, 1))
    before = [p.clone() for p in criterion.parameters()]
    module = training.Module(Network(experiment, 3, TINY), criterion, TINY, lambda step: None)
    training.fit(module, volumes, 0, TINY, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(before, criterion.parameters(), strict=True))
    assert not criterion.distance.net.training  # type: ignore[union-attr]


def test_a_schedule_goes_through_its_epochs_whatever_the_steps(dataset: Dataset) -> None:
    experiment = named("boundary")
    criterion = criteria.Criterion(experiment)
    module = training.Module(Network(experiment, 3, TINY), criterion, TINY, lambda step: None)
    training.fit(module, cases.Volumes(dataset.cases, TINY), 0, TINY, "cpu")
    assert criterion.schedule.count == TINY.epochs == 100
    assert criterion.weights.tolist() == pytest.approx([0.01, 0.99])


def test_the_total_is_the_schedules() -> None:
    """Dice + boundary by hand."""
    from monai.losses import DiceLoss

    from dtkernels.losses import BoundaryLoss

    words: dict[str, Any] = {"softmax": True, "to_onehot_y": True, "include_background": False}
    criterion = criteria.Criterion(named("boundary"))
    for _ in range(30):
        criterion.epoch()
    logits = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(2, 1, 8, 8, 8, dtype=torch.uint8)
    labels[:, :, 2:5, 2:6, 2:6] = 1
    labels[:, :, 5:7, 2:6, 2:6] = 2
    spacing = torch.tensor([[1.0, 1.0, 2.0], [0.5, 1.0, 1.0]])
    expected = 0.7 * DiceLoss(**words)(logits, labels) + 0.3 * BoundaryLoss(**words)(logits, labels, spacing)
    assert criterion(Prediction(logits), labels, spacing).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_run_is_repeatable(dataset: Dataset) -> None:
    settings = dataclasses.replace(TINY, steps=3, training_cases=2)
    first, again = (training.run(named("hausdorff-two-sided"), 3, 1, dataset, settings) for _ in range(2))
    other = training.run(named("hausdorff-two-sided"), 4, 1, dataset, settings)
    assert first["curve"] == again["curve"]
    assert first["scores"] == again["scores"]
    assert first["curve"] != other["curve"]


def test_a_miss_costs_the_diagonal(dataset: Dataset) -> None:
    """An organ that is not predicted at all is scored, not dropped."""

    class Nothing(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> Prediction:
            background = torch.ones(len(image), 1, *image.shape[2:])
            return Prediction(torch.cat([background, -background, -background], 1))

    scores = training.evaluate(Nothing(), dataset, [0], TINY, 8, torch.device("cpu"))  # type: ignore[arg-type]
    case = dataset.cases[0]
    diagonal = math.hypot(*(n * s for n, s in zip(case.image.shape, case.spacing, strict=True)))
    assert scores["missed"] == [[1, 1]]
    assert scores["dice"] == [[0.0, 0.0]]
    assert scores["nsd"] == [[0.0, 0.0]]
    assert scores["hd95"][0] == pytest.approx([diagonal] * 2, rel=1e-4)


# ---- data --------------------------------------------------------------------------------------------


def test_folds_share_no_case() -> None:
    everything = []
    for fold in range(5):
        training_cases, test = cases.split(200, fold, MINIATURE)
        assert not set(training_cases) & set(test)
        assert (len(training_cases), len(test)) == (60, 40)
        everything += test
    assert sorted(everything) == list(range(200))
    with pytest.raises(cases.StudyError, match="at least 10 cases for 5 folds, got 9"):
        cases.split(9, 0, MINIATURE)


def test_batches_keep_each_cases_spacing_and_labels(dataset: Dataset) -> None:
    volumes = cases.Volumes(dataset.cases, dataclasses.replace(TINY, batch=2))
    for batch in volumes.batches(4, 0):
        assert batch.image.shape == batch.label.shape == (2, 1, 16, 16, 16)
        assert type(batch.image) is torch.Tensor
        assert batch.label.dtype == torch.uint8
        assert batch.spacing == (2.0, 1.0, 0.5)
        assert set(batch.label.unique().tolist()) <= {0, 1, 2}
    mixed = [case._replace(spacing=(1.0, 1.0, i + 1.0)) for i, case in enumerate(dataset.cases)]
    for batch in cases.Volumes(mixed, dataclasses.replace(TINY, batch=4)).batches(2, 0):
        assert isinstance(batch.spacing, torch.Tensor)
        assert sorted(batch.spacing.tolist()) == [[1.0, 1.0, i + 1.0] for i in range(4)]


def test_no_data_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DTK_DATA", str(tmp_path))
    assert __main__.main(["run", "--results", str(tmp_path / "out")]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "`dtk data hippocampus` fetches the hippocampus set" in printed
    assert "Traceback" not in printed


def test_data_that_cannot_be_used_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import nibabel

    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
        for i in range(10):
            channels = (3,) if part == "imagesTr" else ()
            image = nibabel.Nifti1Image(np.zeros((8, 8, 8, *channels), np.uint8), np.eye(4))
            nibabel.save(image, tmp_path / part / f"x_{i}.nii.gz")
    command = ["run", "--data", str(tmp_path), "--results", str(tmp_path / "out")]
    assert __main__.main(command) == 1
    assert "got shape (8, 8, 8, 3)" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "imagesTr" / "x_0.nii.gz").unlink()
    assert __main__.main(command) == 1
    assert "expected at least 10 cases for 5 folds, got 9" in capsys.readouterr().out


# ---- runs and files ----------------------------------------------------------------------------------


def test_a_result_that_stands_is_skipped_and_another_one_refused(tmp_path: Path) -> None:
    (job,) = runner.jobs([dataclasses.replace(named("dice"), seeds=(0,), folds=(0,))], tmp_path)
    assert not runner.stands(job, TINY)
    record = {"definition": job.experiment.as_json(), "settings": TINY.as_json()}
    runner.write(job.path, record)
    assert runner.stands(job, TINY)
    with pytest.raises(runner.OtherResultError, match="other settings: remove it"):
        runner.stands(job, MINIATURE)
    with pytest.raises(ValueError):
        runner.write(job.path, {"x": math.inf})
    assert json.loads(job.path.read_text()) == record, "a failed write must leave the old file"
    assert sorted(tmp_path.iterdir()) == [job.path], "and nothing else"


def test_from_a_folder_to_the_page(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself, with a worker process, on files; the second time nothing runs."""
    import nibabel

    for part in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for i in range(10):
        case = dataset.cases[i % 4]
        for part, voxels in (("imagesTr", case.image), ("labelsTr", case.label)):
            image = nibabel.Nifti1Image(voxels.numpy(), np.diag([*case.spacing, 1.0]))
            nibabel.save(image, tmp_path / "data" / part / f"balls_{i}.nii.gz")
    results = tmp_path / "out"
    runner.write(results / report.DEMONSTRATIONS, demonstration_record())
    # One run stands before the command is given, as after an interruption.
    settings = dataclasses.replace(MINIATURE, steps=1)
    first = next(runner.jobs([named("dice")], results))
    monkeypatch.setattr(runner, "_folder", str(tmp_path / "data"))
    monkeypatch.setattr(runner, "_dataset", None)
    monkeypatch.setattr(runner, "_news", queue.SimpleQueue())
    runner._work(first, settings, "cpu")
    before = first.path.stat().st_mtime_ns
    command = ["run", "--data", str(tmp_path / "data"), "--results", str(results), "--steps", "1"]
    command += ["--only", "dice|heaviside", "--workers", "1", "--device", "cpu"]
    assert __main__.main(command) == 0
    stamps = {path: path.stat().st_mtime_ns for path in results.glob("*-s*.json")}
    assert len(stamps) == 6
    assert stamps[first.path] == before, "what stands is not run again"
    assert __main__.main(command) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in results.glob("*-s*.json")}
    page = (results / "report.md").read_text()
    assert "| Dice (baseline) (`dice`) | Ma20 | 3 |" in page
    assert {p.suffix for p in (results / "tables").iterdir()} == {".md", ".csv"}
    assert len(list((results / "figures").glob("*.png"))) == 3


def demonstration_record() -> dict[str, Any]:
    signs = {"raw": {"rises": 0.5, "overtakes": 0.1}, "rectified": {"rises": 0.0, "overtakes": 0.0}}
    hollow = {"loss of the ball": 0.1, "loss reached": 0.05, "Dice": 0.9, "centre": 0.0}
    return {
        "date": "2000-01-01",
        "processor": "none",
        "results": {
            "wrong_signs": [{"classes": 3, **signs}],
            "hollow": [{"form": form, **hollow} for form in ("printed", "weighted")],
            "island": [{"distance": 2, "two_sided": 1.0, "ma2020": 1.0, "one_sided": 1.0}],
            "convergence": [{"classes": 2, "trials": 4, "raw": 1, "rectified": 3}],
        },
    }


@pytest.mark.parametrize("arguments", [["run", "--steps", "0"], ["run", "--only", "("], ["walk"], []])
def test_bad_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        __main__.main(arguments)
    assert stop.value.code == 2


# ---- numbers -----------------------------------------------------------------------------------------


def made_up(name: str, dice: np.ndarray, seeds: tuple[int, ...] = (0,)) -> analysis.Scores:
    """Runs with these Dice values (runs, cases, classes); the other metrics follow."""
    scores = analysis.Scores(named(name))
    for seed, values in zip(seeds, dice, strict=True):
        distance = 10 * (1 - values)
        record = {
            "seed": seed,
            "fold": seed,
            "cases": [f"case {i}" for i in range(len(values))],
            "scores": {
                **{m: values.tolist() for m in ("dice", "jaccard", "nsd")},
                **{m: distance.tolist() for m in ("hd95", "asd")},
                "missed": np.zeros_like(values).tolist(),
            },
        }
        scores.records.append(record)
    return scores


def test_holm_is_by_hand() -> None:
    assert analysis.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert analysis.holm([0.5, 0.9]) == [1.0, 1.0]
    assert analysis.holm([]) == []


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        low, high = analysis.interval(generator.normal(3, 2, 40))
        inside += low <= 3 <= high
    assert 180 <= inside <= 199


def test_comparisons_pair_cases_of_the_same_fold() -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(0.5, 0.9, (3, 20, 2))
    scores = {
        "dice": made_up("dice", base, (0, 1, 2)),
        "dice-ce": made_up("dice-ce", base + 0.01, (0, 1, 2)),  # small beside the spread, but always there
        "focal": made_up("focal", base[:, ::-1], (0, 1, 2)),  # the same values on other cases
        "ce": made_up("ce", base, (0, 1, 2)),
    }
    found = analysis.compare(scores, "dice")
    assert found["dice-ce"].difference == pytest.approx(0.01)
    assert found["dice-ce"].better
    assert found["dice-ce"].runs_better == 3
    assert not found["focal"].clear
    assert found["dice-ce"].no_worse_than(0.001)
    assert not found["focal"].no_worse_than(0.001)
    assert (found["ce"].p, found["ce"].runs_better) == (1.0, 0)
    distances = analysis.compare(scores, "hd95")
    assert distances["dice-ce"].difference == pytest.approx(-0.1)
    assert distances["dice-ce"].runs_better == 3
    assert distances["dice-ce"].better
    assert distances["dice-ce"].no_worse_than(0.0)
    # Runs that do not agree make a difference unclear, however many cases are better.
    mixed = base + np.array([0.05, 0.05, -0.01])[:, None, None]
    (c,) = analysis.compare({"dice": scores["dice"], "ce": made_up("ce", mixed, (0, 1, 2))}, "dice").values()
    assert c.p < 0.05
    assert c.runs_better == 2
    assert not c.clear


def test_ranks_are_of_means_per_class_and_metric() -> None:
    scores = {
        "dice": made_up("dice", np.array([[[0.9, 0.5]]])),
        "ce": made_up("ce", np.array([[[0.8, 0.7]]])),
        "focal": made_up("focal", np.array([[[0.8, 0.6]]])),
    }
    assert analysis.rank_scores(scores) == {"dice": 2.0, "ce": 1.75, "focal": 2.25}


def test_a_class_that_is_nowhere_does_not_count() -> None:
    scores = made_up("dice", np.array([[[0.9, math.nan], [0.5, 0.7]]]))
    assert scores.per_case("dice").tolist() == pytest.approx([0.9, 0.6])


def test_verdicts_follow_the_numbers() -> None:
    """A method that is better on every case agrees with its claim, one that is worse disagrees, noise neither."""
    generator = np.random.default_rng(0)
    base = generator.uniform(0.5, 0.9, (3, 20, 2))
    seeds = (0, 1, 2)
    for shift, answer in ((0.02, claims.AGREES), (-0.02, claims.DISAGREES), (None, claims.CANNOT_TELL)):
        other = base + (generator.normal(0, 0.02, base.shape) if shift is None else shift)
        scores = {"dice": made_up("dice", base, seeds)}
        scores |= {n: made_up(n, other, seeds) for n in ("hausdorff-two-sided", "heaviside", "boundary")}
        against = {m: analysis.compare(scores, m) for m in analysis.TITLES}
        evidence = claims.Evidence(scores, against, {})
        assert claims.smaller_distances("hausdorff-two-sided")(evidence).answer == answer
        assert claims.smaller_distances("heaviside", ("hd95", "asd"))(evidence).answer == answer
        assert claims.better_dice_or_distance("boundary")(evidence).answer == answer
    verdicts = {claim.needs[-1]: verdict for claim, verdict in claims.judge(evidence)}
    assert verdicts["map-dice-printed"] == (claims.CANNOT_TELL, "no result of map-dice-printed")


def test_demonstrations_show_what_they_are_for() -> None:
    for row in demonstrations.wrong_signs(trials=2, side=24):
        assert row["rectified"] == {"rises": 0.0, "overtakes": 0.0}
        assert (row["raw"]["rises"] > 0) == (row["classes"] > 2)
    printed, repaired = demonstrations.hollow(radius=6, steps=150)
    assert printed["loss reached"] < printed["loss of the ball"]
    assert printed["centre"] < 0.1
    assert repaired["loss of the ball"] == pytest.approx(0, abs=1e-6)
    assert repaired["centre"] > 0.9
    rows = demonstrations.island()
    assert all(row["ma2020"] == pytest.approx(1.0) for row in rows)
    assert rows[-1]["two_sided"] > 76
    (row,) = demonstrations.convergence(trials=1, steps=1)[:1]
    assert (row["raw"], row["rectified"]) == (0, 0)


@pytest.mark.skipif(not COMMITTED.exists(), reason="no result files of the study are committed")
def test_the_page_is_its_result_files() -> None:
    page = ROOT / "dtkernels" / "docs" / "study.md"
    assert page.read_text() == report.Report(COMMITTED).page("figures"), (
        "run python -m bench.study report --results bench/results/study --page dtkernels/docs/study.md"
    )
    scores = analysis.read(COMMITTED)
    assert {e.name for e in EXPERIMENTS if e.subset} <= set(scores)
    assert all(len(s.records) >= 3 for s in scores.values())
