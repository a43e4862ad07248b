"""What is measured, as data: one :class:`Entry` is one row of a result file, with its peers and requirements.

``bench.operators`` says what an operator's entry runs, ``python -m bench`` runs entries, ``bench.tables`` shows
them. To measure something else, add an entry here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from dtkernels.maps import CONVENTIONS

from . import masks

ANISOTROPIC = (3.0, 0.8, 0.8)
HEADER = "header"  # the spacing that the file of a real mask states

UNSIGNED = ("edt.edt", "edt.edt(bool)")
SIGNED = ("edt.sdf", "edt.edtsq(m+1)")
EVERY_SHAPE_OF_EDT = {"edt.*": 8.0}


class Entry(NamedTuple):
    """One row: ``operator`` on masks of one kind and shape, beside ``peers`` in the same process."""

    group: str  # names the result file
    operator: str  # a key of bench.operators.OPERATORS
    shape: tuple[int, ...]  # of one image; () for a real mask as it is on disk
    mask: str = "organ"  # of bench.masks, or of real data (bench.inputs)
    variant: str = ""  # which map, loss, definition, connectivity
    batch: tuple[int, ...] = ()  # samples, or samples and classes
    dtype: str = "uint8"
    spacing: tuple[float, ...] | str | None = None
    threads: int = 1
    device: str = "cpu"
    peers: tuple[str, ...] = ()
    required: Mapping[str, float] = MappingProxyType({})  # peers that match take at least so many times as long
    quick: bool = True  # part of the quick run

    def on(self, device: str) -> Entry:
        """The same on a GPU, beside the libraries that compute there, too."""
        peers = {"edt": ("CuPy", "cuCIM"), "sdf": ("CuPy", "cuCIM")}.get(self.operator, ())
        return self._replace(device=device, peers=self.peers + peers, required={}) if device != "cpu" else self

    @property
    def name(self) -> str:
        """What ``--only`` matches and result files are joined by."""
        size = "x".join(map(str, self.shape))
        parts = [
            f"{self.group}/{self.operator}",
            self.variant,
            self.mask,
            "x".join(map(str, (*self.batch, f"({size})"))) if self.batch else size,
            self.dtype if self.dtype != "uint8" else "",
            f"spacing {','.join(map(str, self.spacing)) if isinstance(self.spacing, tuple) else self.spacing}"
            if self.spacing
            else "",
            f"{self.threads} threads" if self.threads != 1 else "",
            self.device if self.device != "cpu" else "",
        ]
        return " ".join(part for part in parts if part)


def transform() -> Iterator[Entry]:
    """Distances and signed distances: the headline, threads, then every mask at every size."""
    side = (128, 128, 128)
    slow = ("SciPy", "SimpleITK")
    edt, sdf = (
        lambda *a, **k: Entry("transform", "edt", *a, peers=UNSIGNED + k.pop("more", ()), **k),
        lambda *a, **k: Entry("transform", "sdf", *a, peers=SIGNED + k.pop("more", ()), **k),
    )
    yield edt(side, more=slow, required={"edt.edt": 12, "SciPy": 120})
    yield sdf(side, more=slow, required={"edt.sdf": 15, "edt.edtsq(m+1)": 8, "SciPy": 80})
    yield edt(side, variant="allocated", required={"edt.edt": 6})
    yield sdf(side, variant="allocated", required={"edt.sdf": 12})
    yield edt((35, 51, 35), batch=(64,), required={"edt.edt": 4})
    yield sdf((35, 51, 35), batch=(64,), required={"edt.sdf": 10})
    large = (256, 256, 256)
    one = {"threads": 2, "peers": ("one thread",)}
    yield Entry("transform", "sdf", large, **one, required={"one thread": 1.6})
    yield Entry("transform", "edt", large, **one)
    yield Entry("transform", "edt", large, "spheres", **one)
    yield Entry("transform", "copy", large, **one)  # what memory allows: uint8 to float32
    # The masks that the requirement on every mask names; the others are reported, however they turn out.
    held = ("organ", "ellipsoids", "noise", "one_foreground", "one_hole", "spheres")
    for shape in ((64,) * 3, (128,) * 3, (1024,) * 2, (256,) * 3, (4096,) * 2):
        for kind in masks.KINDS:
            required = EVERY_SHAPE_OF_EDT if kind in held else {}
            for spacing in (None, ANISOTROPIC[: len(shape)]):
                options = {"spacing": spacing, "quick": shape in ((64,) * 3, (128,) * 3, (1024,) * 2)}
                if (kind, shape, spacing) == ("organ", side, None):
                    continue  # the headline
                yield edt(shape, kind, required=required, **options)
                yield sdf(shape, kind, required=required, **options)


def libraries() -> Iterator[Entry]:
    """Every operator beside every library that has it, with the error of each."""
    flat, deep = (1024, 1024), (128, 128, 128)
    yield Entry("libraries", "edt", flat, peers=(*UNSIGNED, "OpenCV", "OpenCV 5x5", "SciPy", "SimpleITK", "MONAI"))
    yield Entry("libraries", "edt", deep, peers=(*UNSIGNED, "SciPy", "SimpleITK", "MONAI"))
    yield Entry("libraries", "edt", deep, spacing=ANISOTROPIC, peers=(*UNSIGNED, "SciPy", "SimpleITK", "MONAI"))
    yield Entry("libraries", "sdf", deep, spacing=ANISOTROPIC, peers=(*SIGNED, "SciPy", "SimpleITK"))
    for dtype in ("bool", "int64", "float16", "float32", "float64"):
        yield Entry("libraries", "edt", deep, dtype=dtype, peers=("converted to uint8",))
    for shape in (flat, deep):
        yield Entry("libraries", "nearest", shape, peers=("SciPy",))
    for kind in ("organ", "ellipsoids", "noise"):
        for variant in ("faces", "full"):
            libraries = ("cc3d", "SciPy", "scikit-image", "SimpleITK")
            yield Entry("libraries", "label", deep, kind, variant, peers=libraries)
    yield Entry("libraries", "label", flat, variant="full", peers=(*libraries, "OpenCV"))
    for classes in (2, 4, 8):
        yield Entry(
            "libraries",
            "labels_sdf",
            (96,) * 3,
            batch=(2, classes),
            dtype="int64",
            peers=("one-hot, sdf", "SciPy"),
        )


def growth() -> Iterator[Entry]:
    """How cost grows with the side, the batch and the classes."""
    for side in (32, 64, 128, 256, 512):
        scipy = ("SciPy",) if side <= 256 else ()
        for operator, peers in (("edt", UNSIGNED[:1]), ("sdf", SIGNED[:1])):
            yield Entry("growth", operator, (side,) * 3, peers=peers + scipy, quick=side <= 128)
    for batch in ((1,), (4,), (16,), (4, 2), (4, 4), (4, 8)):
        yield Entry("growth", "sdf", (48, 64, 48), batch=batch, peers=SIGNED[:1])


def real() -> Iterator[Entry]:
    """Segmentations of patients: 16 hippocampi in one batch, kidneys with tumours as large as a CT."""
    hippocampus = {"mask": "hippocampus", "batch": (16,), "spacing": HEADER}
    yield Entry("real", "edt", (48, 64, 48), **hippocampus, peers=(*UNSIGNED, "SciPy"))
    yield Entry("real", "sdf", (48, 64, 48), **hippocampus, peers=(*SIGNED, "SciPy"))
    for case in ("case_00002", "case_00004", "case_00006"):
        kidneys = {"mask": f"kits19/{case}", "spacing": HEADER, "quick": case == "case_00004"}
        yield Entry("real", "edt", (), **kidneys, peers=UNSIGNED)
        yield Entry("real", "sdf", (), **kidneys, peers=SIGNED)
        yield Entry("real", "label", (), kidneys["mask"], "full", quick=kidneys["quick"], peers=("cc3d", "SciPy"))


def backends() -> Iterator[Entry]:
    """Our own backends that run on CPUs; compilation is not counted."""
    peers = ("numba", "reference")
    for operator in ("edt", "sdf"):
        yield Entry("backends", operator, (96,) * 3, peers=peers)
    yield Entry("backends", "sdf", (96,) * 3, spacing=ANISOTROPIC, peers=peers)
    yield Entry("backends", "nearest", (96,) * 3, peers=peers)
    yield Entry("backends", "label", (96,) * 3, variant="faces", peers=peers)


def maps() -> Iterator[Entry]:
    """Every named map beside the plain transform, and beside SciPy's recipe as its paper's code has it."""
    for name, convention in CONVENTIONS.items():
        per_component = convention.options.normalize.startswith("component")
        required = {"plain sdf": 1 / (3.0 if per_component else 1.5), "SciPy": 30.0}
        if convention.options.profile == "indicator":
            del required["SciPy"]  # a map without distances has no recipe to be faster than
        yield Entry(
            "maps", "distance_map", (128,) * 3, variant=name, peers=("plain sdf", "SciPy"), required=required
        )
    # The one map that needs the nearest voxels themselves, on both sides, where the spacing is unequal.
    required = {"plain sdf": 1 / 1.5, "SciPy": 30.0}
    peers = ("plain sdf", "SciPy")
    yield Entry(
        "maps", "distance_map", (128,) * 3, variant="half", spacing=ANISOTROPIC, peers=peers, required=required
    )


def losses() -> Iterator[Entry]:
    """Forward and backward beside MONAI's Dice, and beside MONAI's loss of the same name where there is one."""
    # The requirement is on both classes. With MONAI's default of leaving the background out, half of its work and
    # of our maps goes, but not of the softmax.
    same = {"HausdorffDTLoss", "LogHausdorffDTLoss", "BoundaryLoss", "HausdorffDTLoss, background too"}
    for name in (
        "BoundaryLoss",
        "RegionWiseLoss",
        "HausdorffDTLoss",
        "HausdorffDTLoss, background too",
        "HausdorffDTLoss, one-sided",
        "LogHausdorffDTLoss",
        "GeneralizedSurfaceLoss",
        "DistancePenalizedCELoss",
        "BorderWeightedCELoss",
        "MapDiceLoss",
        "SDFProductLoss",
        "ShapeAwareLoss",
        "SignedDistanceRegressionLoss",
    ):
        peers = ("MONAI DiceLoss", *(("MONAI",) if name in same else ()))
        required = {"MONAI": 40.0} if name == "HausdorffDTLoss, background too" else {}
        yield Entry("losses", "loss", (96,) * 3, variant=name, batch=(2, 2), peers=peers, required=required)


def metrics() -> Iterator[Entry]:
    """HD95, ASSD and NSD of the same masks by the library that defines them."""
    peer = {"monai": "MONAI", "deepmind": "surface-distance", "medpy": "MedPy"}
    least = {"monai": 20.0, "deepmind": 10.0}
    for dtype in ("uint8", "bool", "float32"):
        for definition in ("monai", "deepmind"):
            yield Entry(
                "metrics", "surface_metrics", (128,) * 3, variant=definition, batch=(1, 1), dtype=dtype,
                peers=(peer[definition],), required={peer[definition]: least[definition]},
            )  # fmt: skip
    for definition in ("medpy", "monai", "deepmind"):
        options = {"variant": definition, "peers": (peer[definition],)}
        if definition == "medpy":
            yield Entry("metrics", "surface_metrics", (128,) * 3, batch=(1, 1), **options)
            continue
        yield Entry("metrics", "surface_metrics", (128,) * 3, batch=(1, 1), spacing=ANISOTROPIC, **options)
        yield Entry("metrics", "surface_metrics", (128,) * 3, batch=(4, 3), dtype="float32", **options)
        yield Entry(
            "metrics", "nsd", (128,) * 3, batch=(1, 1), **{**options, "peers": ("transform", *options["peers"])}
        )
    for matching, peer_of_lesions in (("voronoi", "MONAI (Dice alone)"), ("iou", "panoptica")):
        yield Entry("metrics", "lesions", (64,) * 3, variant=matching, batch=(1, 1), peers=(peer_of_lesions,))
    yield Entry("metrics", "hd", (128,) * 3, batch=(1, 1), peers=("scikit-image", "SimpleITK", "MedPy"))


def envelope() -> Iterator[Entry]:
    """Min-plus convolution, from the easiest windows to the longest; its gradient; the layer built on it."""
    for side in (64, 128):
        for function in ("noise", "soft ball", "smooth", "steep noise", "ball", "seeds"):
            peers = ["with index", "float64"]
            if side == 64 or function == "noise":
                peers.append("torch min-plus")
            if side == 64 and function not in ("ball", "seeds"):  # grey erosion has no infinity
                peers.append("SciPy grey erosion")
            yield Entry(
                "envelope",
                "envelope",
                (side,) * 3,
                function,
                dtype="float32",
                peers=tuple(peers),
                quick=side == 64,
            )
            yield Entry(
                "envelope", "envelope_backward", (side,) * 3, function, dtype="float32", peers=("index_add",),
                quick=side == 64,
            )  # fmt: skip
    yield Entry("envelope", "exact_signed_distance", (96,) * 3, "soft ball", dtype="float32", peers=("sdf",))


GROUPS = (transform, libraries, growth, real, backends, maps, losses, metrics, envelope)
ENTRIES: tuple[Entry, ...] = tuple(entry for group in GROUPS for entry in group())
