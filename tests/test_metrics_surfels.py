"""Surface elements: against the tables of surface-distance, and against geometry worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from dtkernels.metrics import surface_metrics, surfels

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.7, 1.1), (0.3, 4.0, 0.9), (1.0, 1.0, 5.0), (1e-3, 2e3, 1.0)]


def measures(*spacing: float) -> np.ndarray:
    return surfels.measures(torch.tensor(spacing, dtype=torch.float64)).numpy()


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_are_the_library_s(spacing):
    tables = pytest.importorskip("surface_distance").lookup_tables
    expected = tables.create_table_neighbour_code_to_surface_area(spacing)
    np.testing.assert_allclose(measures(*spacing), expected, rtol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_lengths_are_the_library_s(spacing):
    tables = pytest.importorskip("surface_distance").lookup_tables
    expected = tables.create_table_neighbour_code_to_contour_length(spacing[:2])
    np.testing.assert_allclose(measures(*spacing[:2]), expected, rtol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_inside_and_outside_share_their_surface(dims):
    table = measures(*SPACINGS[1][:dims])
    np.testing.assert_allclose(table, table[::-1], rtol=1e-12)
    assert table[0] == table[-1] == 0
    assert (table[1:-1] > 0).all()


def test_symmetries_of_the_cube_carry_over():
    """Permuting axes with their spacings and mirroring axes changes no area."""
    corners = list(itertools.product((0, 1), repeat=3))
    position = {c: sum((1 - x) << (2 - k) for k, x in enumerate(c)) for c in corners}
    spacing = SPACINGS[1]
    table = measures(*spacing)
    for order in itertools.permutations(range(3)):
        other = measures(*(spacing[k] for k in order))
        for flip in corners:
            moved = {c: tuple(c[k] ^ flip[k] for k in order) for c in corners}
            codes = [
                sum(1 << position[moved[c]] for c in corners if code >> position[c] & 1) for code in range(256)
            ]
            np.testing.assert_allclose(other[codes], table, rtol=1e-12)


def test_triangulations_of_greatest_area_agree_at_any_spacing():
    """So that "the one of greatest area in the unit cube" names one table."""
    corners = list(itertools.product((0.0, 1.0), repeat=3))
    seen = 0
    for size in (3, 4):
        for chosen in map(set, itertools.combinations(corners, size)):
            pieces = list(surfels._pieces(chosen))
            if len(pieces) > 1:
                continue
            points = [
                tuple((x + y) / 2 for x, y in zip(corner, other, strict=True))
                for corner in sorted(chosen)
                for other in surfels._neighbours(corner)
                if other not in chosen
            ]
            options = [
                np.array([surfels._half_cross(*t) for t in option])
                for option in surfels._triangulations(surfels._ring(points))
            ]
            unit = np.array([np.linalg.norm(o, axis=1).sum() for o in options])
            best = [o for o, area in zip(options, unit, strict=True) if area > unit.max() - 1e-9]
            seen += len(best) > 1
            for spacing in SPACINGS[:4]:
                scale = math.prod(spacing) / np.array(spacing)
                areas = [np.linalg.norm(o * scale, axis=1).sum() for o in best]
                np.testing.assert_allclose(areas, areas[0], rtol=1e-12)
    assert seen > 20


def area_of(mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    """Area of the surface, by way of the metrics: twice the distances' weights."""
    from dtkernels.metrics import distances, masks, packed
    from dtkernels.metrics.definitions import DEFINITIONS

    x = torch.from_numpy(mask)
    images = masks.pair(x, x, mask.ndim, None, True)
    sums = packed.measure(
        images, list(spacing), DEFINITIONS["deepmind"], False, (), (), distances.by_name("euclidean", None)
    )
    return float(sums.total[0, 0, 0])


@pytest.mark.parametrize("at_edge", [False, True])
def test_area_of_a_box(at_edge):
    """Six rectangles between the outer voxel centres, half a voxel out, twelve chamfers, eight corners."""
    sides, s = (4, 3, 6), (2.0, 0.5, 1.25)
    mask = np.ones(sides, bool) if at_edge else np.pad(np.ones(sides, bool), 2)
    length = [(n - 1) * x for n, x in zip(sides, s, strict=True)]
    faces = 2 * (length[0] * length[1] + length[1] * length[2] + length[0] * length[2])
    chamfers = 4 * sum(length[k] * math.hypot(*(s[j] / 2 for j in range(3) if j != k)) for k in range(3))
    corner = 8 * math.hypot(s[1] * s[2], s[0] * s[2], s[0] * s[1]) / 8
    assert area_of(mask, s) == pytest.approx(faces + chamfers + corner, rel=1e-12)


def test_length_of_a_rectangle():
    sides, s = (4, 3), (2.0, 0.5)
    expected = 2 * (3 * 2.0 + 2 * 0.5) + 4 * math.hypot(1.0, 0.25)
    assert area_of(np.ones(sides, bool), s) == pytest.approx(expected, rel=1e-12)


def test_a_ball_has_about_its_area():
    """Marching cubes on a binary ball overestimates by a few per cent, and not by half as counting faces does."""
    z, y, x = np.ogrid[-24:25, -24:25, -24:25]
    ball = z * z + y * y + x * x <= 20.5**2
    assert area_of(ball, (1.0, 1.0, 1.0)) == pytest.approx(4 * math.pi * 20.5**2, rel=0.1)


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match=r"spatial_dims: expected 2 or 3 with definition='deepmind', got 1"):
        surface_metrics(torch.ones(4), torch.ones(4), definition="deepmind")
