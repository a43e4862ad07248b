"""``dtk map``: what it writes, what it keeps of the files, and what it says of bad ones."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dtkernels as dtk
from bench import masks
from dtkernels import cli

AFFINE = np.array([[0, -0.5, 0, 10], [2.0, 0, 0, -3], [0, 0, 1.25, 7], [0, 0, 0, 1]])
SPACING = (2.0, 0.5, 1.25)


def dtk_map(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.application(), ["map", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def labels() -> np.ndarray:
    return masks.make("spheres", (9, 12, 7)) + masks.make("organ", (9, 12, 7))


@pytest.fixture
def nifti(tmp_path: Path, labels: np.ndarray) -> Path:
    path = tmp_path / "case.nii.gz"
    image = nibabel.Nifti1Image(labels.astype(np.int16), AFFINE)
    image.header["descrip"] = b"kept"
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", list(dtk.conventions()))
def test_nifti_takes_the_spacing_and_keeps_the_affine(
    tmp_path: Path, nifti: Path, labels: np.ndarray, name: str
) -> None:
    out = tmp_path / "new" / "map.nii.gz"
    code, _, error = dtk_map(nifti, out, "--convention", name)
    assert code == 0, error
    image = nibabel.load(out)
    np.testing.assert_array_equal(image.affine, AFFINE)
    assert image.get_data_dtype() == np.float32
    assert image.header["descrip"].item() == b"kept"
    want = dtk.distance_map(torch.from_numpy(labels), name, SPACING)
    np.testing.assert_array_equal(np.asarray(image.dataobj), want.numpy())


def test_classes_are_the_last_axis_of_nifti_and_the_first_of_npy(
    tmp_path: Path, nifti: Path, labels: np.ndarray
) -> None:
    want = dtk.distance_map(torch.from_numpy(labels), "kervadec", SPACING, num_classes=3).numpy()
    assert dtk_map(nifti, tmp_path / "a.nii", "-c", "kervadec", "--classes", 3)[0] == 0
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "a.nii").dataobj), np.moveaxis(want, 0, -1))
    assert dtk_map(nifti, tmp_path / "a.npy", "-c", "kervadec", "--classes", 3)[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), want)


def test_npy_with_spacing_label_threshold_and_options(tmp_path: Path, labels: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", labels.astype(np.float64))
    source = torch.from_numpy(labels)
    out = tmp_path / "b.npy"
    spacing = ("--spacing", "2,0.5,1.25")
    for extra, want in (
        (("--label", 2, "-o", "truncate=1.5"), dtk.distance_map(source == 2, "half", SPACING, truncate=1.5)),
        (("--threshold", 1.5, "-c", "rrw"), dtk.distance_map(source, "rrw", SPACING, threshold=1.5)),
        (
            ("-c", "li_nidm", "-o", "connectivity=1", "-o", "on_empty=7", "-o", "outside=opposite"),
            dtk.distance_map(source, "li_nidm", SPACING, connectivity=1, on_empty=7, outside="opposite"),
        ),
    ):
        code, _, error = dtk_map(tmp_path / "a.npy", out, *spacing, *extra)
        assert code == 0, error
        np.testing.assert_array_equal(np.load(out), want.numpy())


def test_many_files_and_json(tmp_path: Path, labels: np.ndarray) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        np.save(tmp_path / "in" / f"{i}.npy", labels > i)
    (tmp_path / "in" / "broken.npy").write_bytes(b"no array")
    code, output, error = dtk_map(tmp_path / "in", tmp_path / "out", "-c", "hd_two", "--json")
    assert code == 1
    record = json.loads(output)
    assert record["failed"] == 1
    assert [Path(row["output"]).name for row in record["maps"]] == ["0.npy", "1.npy", "2.npy"]
    assert record["maps"][0]["shape"] == [9, 12, 7]
    assert record["maps"][2]["high"] == 0.0  # no label above 2: an empty mask
    assert "broken.npy: cannot be read" in error
    code, output, _ = dtk_map(tmp_path / "in" / "0.npy", tmp_path / "in" / "1.npy", tmp_path / "two")
    assert code == 0
    assert "9 x 12 x 7" in output


def test_a_slice_keeps_its_shape(tmp_path: Path) -> None:
    mask = masks.make("organ", (12, 10))[..., None]
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([0.5, 2, 9, 1])), tmp_path / "a.nii")
    assert dtk_map(tmp_path / "a.nii", tmp_path / "b.nii", "-c", "edt_diff")[0] == 0
    want = dtk.sdf(torch.from_numpy(mask[..., 0]), (0.5, 2.0))
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "b.nii").dataobj)[..., 0], want.numpy())


def test_an_affine_that_contradicts_the_spacing_holds(tmp_path: Path, labels: np.ndarray) -> None:
    def write(name: str, code: int, zooms: tuple[float, ...]) -> Path:
        image = nibabel.Nifti1Image(labels.astype(np.uint8), AFFINE)
        image.header.set_sform(AFFINE, code)
        image.header.set_qform(None if code else AFFINE, 0 if code else 1)
        image.header.set_zooms(zooms)
        nibabel.Nifti1Image(image.dataobj, None, image.header).to_filename(tmp_path / name)
        return tmp_path / name

    out = tmp_path / "map.npy"
    source = torch.from_numpy(labels)
    with pytest.warns(UserWarning, match=r"states a spacing of 1 x 1 x 1, but its affine steps 2 x 0\.5 x 1\.25"):
        assert dtk_map(write("a.nii", 2, (1, 1, 1)), out, "-c", "edt_diff")[0] == 0
    np.testing.assert_array_equal(np.load(out), dtk.sdf(source, SPACING).numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, code, zooms in (("b.nii", 2, SPACING), ("c.nii", 0, (1, 3, 1))):  # no affine of its own
            assert dtk_map(write(name, code, zooms), out, "-c", "edt_diff")[0] == 0
            np.testing.assert_array_equal(np.load(out), dtk.sdf(source, zooms).numpy())


def test_what_cannot_be_right_is_refused(tmp_path: Path, nifti: Path) -> None:
    out = tmp_path / "out.nii"
    for arguments, status, text in (
        ((nifti, out, "-c", "kervadek"), 2, "did you mean 'kervadec'"),
        ((nifti, out, "-o", "boundry=half"), 2, "did you mean 'boundary'"),
        ((nifti, out, "-o", "boundary=halv"), 2, "did you mean 'half'"),
        ((nifti, out, "-o", "truncate=far"), 2, "truncate: expected a number"),
        ((nifti, out, "-o", "half"), 2, "expected name=value"),
        ((nifti, out, "-c", "dpce", "-o", "boundary=half"), 2, "profile: expected 'distance'"),
        ((nifti, out, "--label", 1, "--classes", 2), 2, "expected one of them"),
        ((nifti,), 2, "IN... OUT"),
        ((nifti, nifti), 2, "apart from the input"),
        ((nifti, tmp_path / "out.txt"), 2, "out.txt: expected a name that ends in"),
        ((nifti, nifti, out), 2, "expected a folder"),
        ((tmp_path, nifti, tmp_path / "out"), 2, "expected one input of this name"),
        ((tmp_path / "absent.nii", out), 1, "absent.nii: expected a file"),
        ((nifti, out, "-o", "on_full=error", "-o", "connectivity=4"), 1, "case.nii.gz: connectivity"),
    ):
        code, output, error = dtk_map(*arguments)
        said = " ".join((output + error).replace("│", " ").split())
        assert (code, text in said) == (status, True), (arguments, code, said)


def test_list_names_every_convention() -> None:
    code, output, _ = dtk_map("--list")
    assert code == 0
    assert all(name in output for name in dtk.conventions())
    record = json.loads(dtk_map("--list", "--json")[1])
    assert record["kervadec"]["options"] == {"boundary": "shift", "on_empty": "zeros", "on_full": "zeros"}


def test_what_the_file_system_or_torch_refuses_is_named(tmp_path: Path) -> None:
    mask = tmp_path / "mask.npy"
    np.save(mask, np.eye(4, dtype=np.uint8))
    (tmp_path / "file").write_text("")
    code, _, error = dtk_map(mask, tmp_path / "file" / "map.npy")
    assert code == 1
    assert "cannot be written" in error
    for device in ("nonsense", "cuda:99"):
        code, _, error = dtk_map(mask, tmp_path / "map.npy", "--device", device)
        assert (code, "device" in error) == (2, True)


def test_long_doubles_and_names_in_capitals(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.eye(4, dtype=np.longdouble))
    out = tmp_path / "MAP.NPY"
    assert dtk_map(tmp_path / "mask.npy", out)[0] == 0
    np.testing.assert_array_equal(np.load(out), dtk.distance_map(torch.eye(4), "half").numpy())


def test_spacing_of_arrays_goes_into_nifti(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.eye(4, dtype=np.uint8))
    assert dtk_map(tmp_path / "mask.npy", tmp_path / "map.nii", "--spacing", "2,0.5")[0] == 0
    image = nibabel.load(tmp_path / "map.nii")
    np.testing.assert_array_equal(image.affine, np.diag([2, 0.5, 1, 1]))
