"""``dtk metrics``: files in, tables, JSON and CSV out, and every bad file named."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dtkernels import cli, metrics, volumes
from dtkernels.evaluate import Settings, evaluate
from dtkernels.report import chosen_labels

pytest.importorskip("nibabel")
pytest.importorskip("typer")
pytest.importorskip("rich")

import nibabel
from typer.testing import CliRunner

RUNNER = CliRunner()
AFFINE = np.diag([2.0, 0.5, 1.5, 1.0])
AFFINE[:3, 3] = (-10, 4, 7)


def labels(seed: int = 0) -> np.ndarray[Any, Any]:
    """Two boxes, 1 and 2, moved about by the seed."""
    rng = np.random.default_rng(seed)
    result = np.zeros((18, 20, 16), np.uint8)
    for label, corner in ((1, (2, 2, 2)), (2, (9, 10, 8))):
        low = np.array(corner) + rng.integers(0, 3, 3)
        result[tuple(slice(a, a + n) for a, n in zip(low, (5, 6, 4), strict=True))] = label
    return result


def save(path: Path, voxels: np.ndarray[Any, Any], affine: np.ndarray[Any, Any] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, voxels)
    else:
        nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Four cases; in c the prediction misses label 2, in d neither file has it."""
    for name in "abcd":
        pred, target = labels(ord(name)), labels(ord(name) + 50)
        if name in "cd":
            pred[pred == 2] = 0
        if name == "d":
            target[target == 2] = 0
        save(tmp_path / "pred" / f"{name}.nii.gz", pred)
        save(tmp_path / "target" / f"{name}.nii.gz", target)
    return tmp_path / "pred", tmp_path / "target"


def run(*arguments: object, code: int = 0) -> Any:
    result = RUNNER.invoke(cli.application(), ["metrics", *map(str, arguments)], env={"COLUMNS": "160"})
    assert result.exit_code == code, result.output
    return result


def expected(
    pred: Path, target: Path, label: int, spacing: Any = (2.0, 0.5, 1.5), **options: Any
) -> dict[str, float]:
    p, t = (torch.from_numpy(np.asarray(nibabel.load(x).dataobj) == label) for x in (pred, target))
    surface = metrics.surface_metrics(p, t, spacing, **options)
    overlap = metrics.overlap_metrics(p, t)
    return {k: v.item() for k, v in {**surface, **overlap}.items()}


# ---- numbers ----------------------------------------------------------------------------------------


def test_values_are_those_of_the_functions(folders):
    pred, target = folders
    settings = Settings(definition="deepmind", percentiles=(95, 50), tolerances=(0.5, 2.0))
    report = evaluate(pred, target, settings)
    assert [case.name for case in report.cases] == list("abcd")
    assert not report.failures
    for case in report.cases:
        for label, row in case.values.items():
            there = expected(
                pred / f"{case.name}.nii.gz", target / f"{case.name}.nii.gz", int(label), definition="deepmind",
                percentiles=(95, 50), tolerances=(0.5, 2.0),
            )  # fmt: skip
            assert row == pytest.approx({name: there[name] for name in settings.names}, rel=1e-6)
    assert report.cases[2].values["2"]["hd95"] == math.inf
    assert "2" not in report.cases[3].values
    mean = report.mean("2", "hd95")
    assert [int(x) for x in mean[1:]] == [2, 1, 1]
    both = [report.cases[k].values["2"]["hd95"] for k in (0, 1)]
    assert float(mean.mean) == pytest.approx(sum(both) / 2)


def test_diagonal_is_that_of_the_whole_image(folders):
    report = evaluate(*folders, Settings(on_empty="diagonal"))
    assert report.cases[2].values["2"]["hd"] == pytest.approx(math.hypot(18 * 2.0, 20 * 0.5, 16 * 1.5))


def test_several_processes_give_the_same(folders):
    one = evaluate(*folders, Settings())
    steps: list[tuple[int, int]] = []
    two = evaluate(*folders, Settings(), workers=2, progress=lambda *step: steps.append(step))
    assert two.cases == one.cases
    assert steps == [(k, 4) for k in range(1, 5)]


def test_real_labels():
    home = os.environ.get("DTK_DATA", "")
    folder = Path(home) / "hippocampus/labelsTr"
    if not home or not folder.is_dir():
        pytest.skip("DTK_DATA names no folder with hippocampus")
    path = folder / "hippocampus_001.nii.gz"
    report = evaluate(path, path, Settings())
    assert report.labels == ["1", "2"]
    for label in report.labels:
        assert report.values(label, "dice") == [1.0]
        assert report.values(label, "hd") == [0.0]


def test_axes_of_one_voxel_are_dropped(tmp_path):
    """A slice saved as a volume has contours, not only surface voxels."""
    image = np.zeros((20, 24), np.uint8)
    image[4:12, 5:15] = 1
    pred = save(tmp_path / "pred.nii.gz", np.roll(image, 2, 0)[..., None])
    target = save(tmp_path / "target.nii.gz", image[..., None])
    report = evaluate(pred, target, Settings())
    p, t = torch.from_numpy(np.roll(image, 2, 0)), torch.from_numpy(image)
    assert report.cases[0].values["1"]["assd"] == pytest.approx(
        metrics.average_symmetric_surface_distance(p, t, (2.0, 0.5)).item()
    )


def test_arrays_without_a_header(tmp_path):
    pred, target = (save(tmp_path / f"{name}.npy", labels(k)) for k, name in enumerate(("pred", "target")))
    there = metrics.hausdorff_distance(*(torch.from_numpy(labels(k) == 1) for k in range(2)), (3.0, 1.0, 2.0))
    out = json.loads(run(pred, target, "--json", "--spacing", "3,1,2").stdout)
    assert out["cases"][0]["labels"]["1"]["hd"] == pytest.approx(there.item())
    with_header = save(tmp_path / "target.nii.gz", labels(1))  # takes the header's spacing
    there = metrics.hausdorff_distance(*(torch.from_numpy(labels(k) == 1) for k in range(2)), (2.0, 0.5, 1.5))
    out = json.loads(run(pred, with_header, "--json").stdout)
    assert out["cases"][0]["labels"]["1"]["hd"] == pytest.approx(there.item())


def test_floats_that_are_whole_numbers_are_labels(tmp_path):
    for dtype in (np.float32, np.int16, np.float64):
        pred = save(tmp_path / "pred.nii.gz", labels(0).astype(dtype))
        target = save(tmp_path / "target.nii.gz", labels(1))
        assert evaluate(pred, target, Settings()).labels == ["1", "2"]


# ---- labels -----------------------------------------------------------------------------------------


def test_labels_by_number_name_and_union(folders):
    pred, target = folders
    out = json.loads(
        run(pred, target, "--json", "--label", "2=tumour", "--label", "1+2=all", "--label", "1").stdout
    )
    assert list(out["labels"]) == ["tumour", "all", "1"]
    p, t = (np.asarray(nibabel.load(x / "a.nii.gz").dataobj) > 0 for x in (pred, target))
    dice = metrics.dice(torch.from_numpy(p), torch.from_numpy(t)).item()
    assert out["cases"][0]["labels"]["all"]["dice"] == pytest.approx(dice)
    # asked for by name, a label that neither file has is undefined, not absent
    assert out["cases"][3]["labels"]["tumour"]["hd95"] is None
    assert out["labels"]["tumour"]["hd95"]["undefined"] == 1


@pytest.mark.parametrize(
    "entries",
    [
        {"0": "background", "1": "liver", "2": "tumour"},
        {"background": 0, "liver": 1, "tumour": [2], "ignore": 3},
    ],
    ids=["Decathlon", "nnU-Net"],
)
def test_labels_by_a_dataset_file(folders, tmp_path, entries):
    names = tmp_path / "dataset.json"
    names.write_text(json.dumps({"labels": entries}))
    out = json.loads(run(*folders, "--json", "--names", names).stdout)
    assert list(out["labels"]) == ["liver", "tumour"]
    out = json.loads(run(*folders, "--json", "--names", names, "--label", "tumour").stdout)
    assert list(out["labels"]) == ["tumour"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["liver"], "label: expected 1, 1=liver or 1\\+2=kidney .*got 'liver'"),
        (["1", "1"], "label: expected each name once, got '1' again"),
        (["1+=x"], "got '1\\+=x'"),
    ],
)
def test_words_that_are_no_labels(words, message):
    with pytest.raises(ValueError, match=message):
        chosen_labels(words, {})


# ---- output -----------------------------------------------------------------------------------------


def test_table_of_one_case_and_of_many(folders):
    pred, target = folders
    out = run(pred / "a.nii.gz", target / "a.nii.gz").stdout
    assert "a (monai)" in out
    for word in ("label", "dice", "hd95", "assd", "nsd@1"):
        assert word in out
    out = run(pred, target, "--label", "2=tumour").stdout
    assert "label tumour (monai)" in out
    assert "infinite" in out
    assert "undefined" in out


def test_json_is_valid_json_and_csv_has_every_value(folders):
    out = run(*folders, "--json").stdout
    record = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert record["cases"][2]["labels"]["2"]["hd95"] == "inf"
    assert record["labels"]["2"]["hd95"]["infinite"] == 1
    assert record["failures"] == []
    rows = list(csv.DictReader(io.StringIO(run(*folders, "--csv").stdout)))
    assert [(row["case"], row["label"]) for row in rows][:3] == [("a", "1"), ("a", "2"), ("b", "1")]
    assert len(rows) == 7
    values = {(row["case"], row["label"]): float(row["hd95"]) for row in rows}
    assert values["c", "2"] == math.inf
    assert values["a", "1"] == record["cases"][0]["labels"]["1"]["hd95"]


# ---- lesion by lesion -------------------------------------------------------------------------------


@pytest.mark.parametrize("matching", ["voronoi", "iou"])
def test_lesions_in_files_are_those_of_the_function(tmp_path, matching):
    for name in "ab":
        target = labels(ord(name))
        target[15:17, 1:4, 12:15] = 2  # a second lesion of label 2
        pred = np.roll(target, 1, 1)
        pred[15:17] = 0
        pred[0, 0, 0] = 1  # spurious
        save(tmp_path / "target" / f"{name}.nii.gz", target)
        save(tmp_path / "pred" / f"{name}.nii.gz", pred)
    folders = tmp_path / "pred", tmp_path / "target"
    options = ("--lesions", matching, "--threshold", 0.3, "--on-empty", "diagonal", "--connectivity", 1)
    record = json.loads(run(*folders, *options, "--json", "--jobs", 2).stdout)
    assert record["lesions"] == matching
    rows = list(csv.DictReader(io.StringIO(run(*folders, *options, "--csv").stdout)))
    for case, of_case in zip(record["cases"], (rows[:2], rows[2:]), strict=True):
        masks = [np.asarray(nibabel.load(f / f"{case['name']}.nii.gz").dataobj) for f in folders]
        for label, row in zip((1, 2), of_case, strict=True):
            result = metrics.lesion_metrics(
                *(torch.from_numpy(x == label) for x in masks), (2.0, 0.5, 1.5), matching=matching, threshold=0.3,
                on_empty="diagonal", connectivity=1,
            )  # fmt: skip
            values = {name: result[name].item() for name in ("dice", "hd95", "assd", "nsd@1", "rq", "sq", "pq")}
            values |= {name: getattr(result, name).item() for name in ("found", "missed", "spurious")}
            assert (values["missed"], values["spurious"]) == (label - 1, 2 - label)
            for name, value in values.items():
                assert case["labels"][str(label)][name] == pytest.approx(value, rel=1e-6)
                assert float(row[name]) == pytest.approx(value, rel=1e-6)
            each = case["lesions"][str(label)]
            assert [x["voxels"] for x in each] == [x.voxels for x in result.lesions]
            assert [x.get("hd95") for x in each] == [x.values.get("hd95") for x in result.lesions]
    out = run(*folders, *options).stdout
    assert f"label 2 (monai, lesion by lesion: {matching})" in out
    for word in ("found", "missed", "spurious", "dice", "hd95", "pq"):
        assert word in out


# ---- bad input --------------------------------------------------------------------------------------


def broken(folder: Path, what: str) -> str:
    """Spoil prediction b; what the message must say of it."""
    path = folder / "b.nii.gz"
    good = labels(ord("b"))
    turned = AFFINE.copy()
    if what == "shape":
        save(path, good[1:])
        return "expected the shape of"
    if what == "spacing":
        save(path, good, np.diag([2.0, 0.5, 1.0, 1.0]))
        return "expected the spacing of"
    if what == "orientation":
        turned[0] *= -1
        save(path, good, turned)
        return "expected the orientation in space of .* axes RAS, got LAS"
    if what == "place":
        turned[0, 3] += 3
        save(path, good, turned)
        return "expected the place in space of .* up to 3 mm apart"
    if what == "probabilities":
        save(path, good * np.float32(0.3))
        return "expected labels .* float.* values from 0 to 0.6; threshold probabilities"
    if what == "no common label":
        save(path, good * 7)
        return "expected labels of .*, 1, 2, got 7, 14: none in common"
    if what == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
        return "cannot be read, EOFError"
    if what == "truncated inside":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:900]))
        return "cannot be read"
    if what == "no NIfTI":
        path.write_text("not a volume")
        return "cannot be read"
    if what == "5-D":
        save(path, np.stack([good, good], -1))
        return "expected 1 to 3 dimensions"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    ["shape", "spacing", "orientation", "place", "probabilities", "no common label", "truncated",
     "truncated inside", "no NIfTI", "5-D"],
)  # fmt: skip
def test_a_bad_case_is_named_and_the_others_go_on(folders, what):
    pred, target = folders
    message = broken(pred, what)
    result = run(pred, target, "--json", code=1)
    record = json.loads(result.stdout)
    assert [case["name"] for case in record["cases"]] == ["a", "c", "d"]
    (failure,) = record["failures"]
    assert failure["name"] == "b"
    assert failure["reason"].startswith(str(pred / "b.nii.gz"))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failure["reason"])
    assert "1 of 4 cases failed" in result.stderr
    assert str(pred / "b.nii.gz") in result.stderr
    single = run(pred / "b.nii.gz", target / "b.nii.gz", code=1)
    assert "1 of 1 cases failed" in single.stderr


def test_bad_cases_are_named_by_several_processes_too(folders):
    pred, target = folders
    broken(pred, "truncated")
    (target / "c.nii.gz").write_text("not a volume")
    result = run(pred, target, "--jobs", 2, "--json", code=1)
    record = json.loads(result.stdout)
    assert [case["name"] for case in record["cases"]] == ["a", "d"]
    assert [failure["name"] for failure in record["failures"]] == ["b", "c"]
    assert record["failures"][0]["reason"].startswith(f"{pred / 'b.nii.gz'}: cannot be read")
    assert record["failures"][1]["reason"].startswith(f"{target / 'c.nii.gz'}: cannot be read")
    assert "2 of 4 cases failed" in result.stderr


def test_files_without_a_partner_are_failures(folders):
    pred, target = folders
    (pred / "b.nii.gz").unlink()
    save(pred / "extra.nii.gz", labels())
    result = run(pred, target, code=1)
    assert f"{target / 'b.nii.gz'}: no prediction of that name in {pred}" in result.stderr
    assert f"{pred / 'extra.nii.gz'}: no target of that name in {target}" in result.stderr
    assert "2 of 5 cases failed" in result.stderr


def test_a_prediction_without_any_label_is_a_miss_not_an_error(tmp_path):
    pred = save(tmp_path / "pred.nii.gz", np.zeros((18, 20, 16), np.uint8))
    target = save(tmp_path / "target.nii.gz", labels())
    report = evaluate(pred, target, Settings())
    assert not report.failures
    assert [report.values(label, "hd95") for label in report.labels] == [[math.inf], [math.inf]]
    nothing = evaluate(pred, pred, Settings())
    assert nothing.labels == []
    assert "no label in any file" in run(pred, pred).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pred", "nowhere"], "nowhere: no such file or folder"),
        (["pred", "target/a.nii.gz"], "or two folders"),
        (["pred", "empty"], "without a common name"),
        (["pred", "target", "--definition", "monay"], "did you mean 'monai'"),
        (["pred", "target", "--percentile", "101"], "percentiles: expected numbers from 0 to 100"),
        (["pred", "target", "--tolerance", "-1"], "tolerances: expected numbers"),
        (["pred", "target", "--on-empty", "zero"], "on_empty: expected one of"),
        (["pred", "target", "--label", "liver"], "label: expected 1, 1=liver"),
        (["pred", "target", "--spacing", "1,x"], "spacing: expected numbers such as"),
        (["pred", "target", "--names", "nowhere.json"], "nowhere.json: expected JSON with labels"),
        (["pred", "target", "--json", "--csv"], "--json and --csv"),
        (["pred", "target", "--lesions", "iuo"], "lesions: expected one of 'voronoi', 'iou', got 'iuo'"),
        (["pred", "target", "--lesions", "iou", "--directed"], "directed: expected False with lesions"),
        (["pred", "target", "--lesions", "iou", "--threshold", "2"], "threshold: expected a number from 0 to 1"),
        (["pred", "target", "--lesions", "iou", "--connectivity", "4"], "connectivity: expected 1, 2 or 3"),
        (["pred", "target", "--device", "cuda", "--workers", "2"], "expected"),
    ],
)
def test_options_that_cannot_be_right_exit_with_2(folders, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = run(*arguments, code=2)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_spacing_against_the_header_is_refused(folders):
    pred, target = folders
    result = run(pred / "a.nii.gz", target / "a.nii.gz", "--spacing", "1,1,1", code=1)
    assert "that was asked for" in result.stderr


def test_a_dead_worker_is_a_failure_of_its_cases(folders, monkeypatch):
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    from dtkernels import evaluate as module

    class Pool:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def submit(self, *_: object) -> Future[object]:
            future: Future[object] = Future()
            future.set_exception(BrokenProcessPool("a process was terminated abruptly"))
            return future

    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    report = evaluate(*folders, Settings(), workers=2)
    assert [failure.name for failure in report.failures] == list("abcd")
    assert "BrokenProcessPool: a process was terminated abruptly" in report.failures[0].reason


def test_volumes_by_name(tmp_path):
    assert volumes.stem(Path("a/b.nii.gz")) == "b"
    assert volumes.stem(Path("b.nii")) == "b"
    with pytest.raises(volumes.VolumeError, match=r"expected a name that ends in \.nii\.gz"):
        volumes.read(save(tmp_path / "x.npy", labels()).rename(tmp_path / "x.mha"))
    with pytest.raises(volumes.VolumeError, match="found a folder"):
        volumes.read(tmp_path)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(volumes.VolumeError, match="cannot be read, ValueError"):
        volumes.read(tmp_path / "objects.npy")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(volumes.VolumeError, match="expected real numbers, got dtype <U1"):
        volumes.read(tmp_path / "text.npy")
    for name in ("same.nii", "same.npy"):
        save(tmp_path / "twice" / name, labels())
    with pytest.raises(volumes.VolumeError, match="expected one file of this name"):
        evaluate(tmp_path / "twice", tmp_path / "twice", Settings())
