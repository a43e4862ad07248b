"""Real data: the layout, spacing from the header, what a wrong file says, the download without a network."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dtkernels import data
from dtkernels.optional import MissingDependencyError, require

nibabel = pytest.importorskip("nibabel")

SPACING = (0.5, 0.75, 3.0)


def write(path: Path, voxels: np.ndarray, spacing: tuple[float, ...] = SPACING) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(voxels, np.diag([*spacing[:3], 1.0]))
    nibabel.save(image, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tiny cases in the Decathlon's layout, with the hidden files that its archives carry."""
    root = tmp_path / data.TASK
    rng = np.random.default_rng(0)
    for i, shape in enumerate(((5, 6, 4), (4, 6, 5), (6, 5, 4))):
        label = np.zeros(shape, np.uint8)
        label[1:3, 1:4, 1:3] = 1 + i % 2
        name = f"hippocampus_{i:03d}.nii.gz"
        write(root / "imagesTr" / name, rng.normal(size=shape).astype(np.float32))
        write(root / "labelsTr" / name, label)
        (root / "imagesTr" / f"._{name}").write_bytes(b"not a volume")
        (root / "labelsTr" / f"._{name}").write_bytes(b"not a volume")
    write(root / "imagesTr" / "hippocampus_009.nii.gz", np.zeros((3, 3, 3), np.float32))  # has no label
    return root


def test_a_folder_of_cases(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    dataset = data.load_decathlon(folder, progress=lambda done, total: calls.append((done, total)))
    assert dataset.name == "hippocampus"
    assert dataset.classes == ("background", "anterior", "posterior")
    assert [case.name for case in dataset.cases] == [f"hippocampus_{i:03d}" for i in range(3)]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    case = dataset.cases[0]
    assert case.image.shape == case.label.shape == (5, 6, 4)
    assert (case.image.dtype, case.label.dtype) == (torch.float32, torch.uint8)
    assert case.spacing == SPACING
    assert case.label.unique().tolist() == [0, 1]
    assert len(data.load_decathlon(folder, limit=2).cases) == 2


def test_unknown_tasks_get_numbered_classes(tmp_path: Path) -> None:
    label = np.zeros((3, 3, 3), np.uint8)
    label[1, 1, 1] = 2
    write(tmp_path / "imagesTr" / "spleen_1.nii", np.zeros((3, 3, 3), np.int16))
    write(tmp_path / "labelsTr" / "spleen_1.nii", label)
    dataset = data.load_decathlon(tmp_path)
    assert dataset.classes == ("background", "class 1", "class 2")


@pytest.mark.parametrize("name", ["hippocampus", data.TASK, "."])
def test_where_the_hippocampus_is_found(folder: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert data.find_hippocampus(home) is None
    if name == ".":
        home = folder
    else:
        folder.rename(home / name)
    assert data.find_hippocampus(home) == home / name


def test_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DTK_DATA", str(tmp_path))
    assert data.data_home() == tmp_path
    monkeypatch.delenv("DTK_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.data_home() == tmp_path / "cache" / "dtkernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.data_home() == Path.home() / ".cache" / "dtkernels"


def test_labels_may_be_stored_as_floats(tmp_path: Path) -> None:
    label = np.zeros((3, 4, 5), np.float32)
    label[1, 2, 3] = 2.0
    case = data.read_case(write(tmp_path / "i.nii.gz", label), write(tmp_path / "l.nii.gz", label))
    assert case.label.dtype == torch.uint8
    assert case.label[1, 2, 3] == 2


def test_a_trailing_axis_of_one_is_dropped(tmp_path: Path) -> None:
    voxels, spacing = data.read_volume(write(tmp_path / "x.nii", np.zeros((3, 4, 5, 1), np.float32)))
    assert voxels.shape == (3, 4, 5)
    assert spacing == SPACING


@pytest.mark.parametrize(
    ("label", "spacing", "message"),
    [
        (
            np.zeros((3, 4, 6), np.uint8),
            SPACING,
            r"l\.nii.*expected the image's shape \(3, 4, 5\), got \(3, 4, 6\)",
        ),
        (np.zeros((3, 4, 5), np.uint8), (1.0, 1.0, 1.0), r"l\.nii.*expected the image's spacing"),
        (
            np.full((3, 4, 5), 0.5, np.float32),
            SPACING,
            r"l\.nii.*whole numbers from 0 to 255, got values from 0\.5",
        ),
        (np.full((3, 4, 5), -1, np.int16), SPACING, r"l\.nii.*whole numbers from 0 to 255, got values from -1"),
        (np.zeros((3, 4), np.uint8), SPACING, r"l\.nii.*expected a 3-D volume, got shape \(3, 4\)"),
    ],
)
def test_a_label_that_does_not_fit(
    tmp_path: Path, label: np.ndarray, spacing: tuple[float, ...], message: str
) -> None:
    image = write(tmp_path / "i.nii", np.zeros((3, 4, 5), np.float32))
    with pytest.raises(ValueError, match=message):
        data.read_case(image, write(tmp_path / "l.nii", label, spacing))


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"imagesTr/NAME\.nii\.gz beside labelsTr"):
        data.load_decathlon(tmp_path)


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(
        MissingDependencyError, match=r"opening needs no_such_package.*pip install 'dtkernels\[demo\]'"
    ):
        require("no_such_package.module", "opening", extra="demo")


@pytest.mark.skipif(
    data.find_hippocampus() is None, reason="no hippocampus volumes: set DTK_DATA or run `dtk data hippocampus`"
)
def test_the_real_hippocampus() -> None:
    folder = data.find_hippocampus()
    assert folder is not None
    dataset = data.load_decathlon(folder, limit=20)
    assert dataset.classes == ("background", "anterior", "posterior")
    assert len(dataset.cases) == 20
    for case in dataset.cases:
        assert case.image.shape == case.label.shape
        assert case.label.unique().tolist() == [0, 1, 2], case.name
        assert case.spacing == (1.0, 1.0, 1.0)
        assert case.image.isfinite().all()
        assert case.image.std() > 0


def test_the_template_in_patches() -> None:
    pytest.importorskip("nilearn")
    dataset = data.load_mni152(patch=(32, 40, 24))
    assert dataset.classes == ("background", "grey matter", "white matter")
    assert len(dataset.cases) >= 10
    assert len({case.name for case in dataset.cases}) == len(dataset.cases)
    for case in dataset.cases:
        assert case.image.shape == case.label.shape == (32, 40, 24)
        assert case.spacing == (2.0, 2.0, 2.0)
        assert {1, 2} <= set(case.label.unique().tolist()) <= {0, 1, 2}
    # White matter is brighter than grey in T1: image and label lie on one grid.
    grey = torch.cat([case.image[case.label == 1] for case in dataset.cases])
    white = torch.cat([case.image[case.label == 2] for case in dataset.cases])
    assert white.median() > grey.median() + 0.1


# ---- download: from a file:// address, so that no test needs a network ---------------------------------


@pytest.fixture
def served(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], Path]:
    """MONAI's table pointed to an archive of ``folder`` on this disk."""
    apps = pytest.importorskip("monai.apps")
    archive = tmp_path / "served" / f"{data.TASK}.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=data.TASK)

    def serve(digest: str | None = None) -> Path:
        digest = digest or hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setitem(apps.DecathlonDataset.resource, data.TASK, archive.as_uri())
        monkeypatch.setitem(apps.DecathlonDataset.md5, data.TASK, digest)
        return archive

    return serve


def test_download_unpacks_and_tidies_up(served: Callable[..., Path], tmp_path: Path) -> None:
    archive = served()
    calls: list[tuple[int, int]] = []
    home = tmp_path / "new" / "home"
    found = data.download_hippocampus(home, progress=lambda done, total: calls.append((done, total)))
    assert found == home / data.TASK
    assert [p.name for p in home.iterdir()] == [data.TASK]
    assert len(data.load_decathlon(found).cases) == 3
    size = archive.stat().st_size
    assert calls[-1] == (size, size)
    archive.unlink()
    assert data.download_hippocampus(home) == found  # there already: nothing is fetched


def test_an_archive_fetched_by_hand_is_used_and_kept(served: Callable[..., Path], tmp_path: Path) -> None:
    archive = served()
    home = tmp_path / "home"
    home.mkdir()
    archive.rename(home / archive.name)
    assert data.download_hippocampus(home) == home / data.TASK
    assert (home / archive.name).exists()


def test_a_damaged_archive_is_refused_and_removed(served: Callable[..., Path], tmp_path: Path) -> None:
    served("0" * 32)
    home = tmp_path / "home"
    with pytest.raises(data.DownloadError, match=r"is damaged and has been removed.*put it into"):
        data.download_hippocampus(home)
    assert list(home.iterdir()) == []


def test_no_network_says_what_to_do(served: Callable[..., Path], tmp_path: Path) -> None:
    archive = served()
    archive.unlink()
    home = tmp_path / "home"
    with pytest.raises(data.DownloadError, match=r"could not download .*check the network, or fetch .* by hand"):
        data.download_hippocampus(home)
    assert list(home.iterdir()) == []
