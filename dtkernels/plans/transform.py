"""The distance transforms: which kernel runs on which axis.

Axes of length 1 are dropped first. The slowest axis left is scanned in closed form to codes of one or two bytes
(``scan.cuh``). The two axes left of a volume are solved slice by slice in shared memory where they fit
(``packed.cuh`` where their squares fit 16 bits, else ``slice.cuh``; the predicates are in ``_refusal``); otherwise
each axis is a pass over whole lines (``lines.cuh``), the last of them along contiguous rows with the square root;
an image with one axis needs that pass alone. So two launches for most volumes and at most three.
"""

from __future__ import annotations

import functools
import struct
from math import prod
from typing import NamedTuple

from ..problem import DType, Image, Mapping, Problem, Rule, Spacing
from .formula import MAPPING, mapping_fields
from .launch import (
    MAX_GRID,
    NOWHERE,
    OUT,
    SCRATCH,
    SECOND,
    STATIC_SHARED,
    Address,
    DeviceProperties,
    Plan,
    Step,
    align,
    best_lanes,
    check_options,
    float32,
    image_bytes,
    kept_axes,
)

SOLVERS = ("divide", "strips", "envelope", "window")

NONE_32 = 0x7FFFFFFF  # "no site" among int32 squares: real ones must stay below
NONE_16 = 0x7FFF
MAX_SCAN_SIDE = 2048  # above, a column's class bits take too much shared memory for enough threads

# enum Format of csrc/dtk/lines.cuh
FROM_IMAGE, RUNS_8, RUNS_16, SQUARES_16, SQUARES_32 = range(5)

# What a solver needs: arrays of sites, bytes of shared memory per thread (csrc/dtk/tile.cuh).
_SITE_ARRAYS = {"divide": 1, "strips": 1, "envelope": 2, "window": 1}
_BYTES_PER_THREAD = {"divide": 6, "strips": 6, "envelope": 0, "window": 0}
# How slices can be solved, the better way first: in 16 bits by strips of sixteen voxels or of eight, by the solver
# "strips" in 32 bits, and by the same in 24.
IN_PLACE = ("packed_long", "packed", "strips", "split")
NONE_24 = 2**23 - 1  # "no site" of csrc/dtk/split.cuh
PACKED_STRIPS = {"packed_long": 16, "packed": 8}  # kRows of csrc/dtk/packed.cuh
FORCED = (*PACKED_STRIPS, "split")  # mean slices in any case
STRIP = 8  # voxels per thread and site of the solver "strips" (csrc/dtk/strips.cuh)

_SCAN = struct.Struct("<2i")
_LINES = struct.Struct(f"<9q17i4f{MAPPING}4x")
_SLICES = struct.Struct(f"<2I18i4fi{MAPPING}4x")
_PACKED = struct.Struct(f"<I15i4fi{MAPPING}4x")


class Tile(NamedTuple):
    """How a pass cuts an axis into tiles of ``1 << lanes_log2`` whole lines."""

    solver: str
    lanes_log2: int
    pitch: int
    site_bytes: int
    site_pitch: int
    sites_offset: int
    bytes: int
    threads: int
    in_global: bool  # too long for shared memory: tiles lie in scratch


def plan(
    problem: Problem,
    device: DeviceProperties,
    max_blocks: int | None = None,
    solver: str | None = None,
    fused: bool | None = None,
    weighed: bool = False,
) -> Plan:
    """Plan of ``problem`` on a device of these properties.

    ``max_blocks`` limits every grid, so that small images too send the kernels round their loops; ``solver``
    is one of ``SOLVERS``, by default strips, and divide and conquer for lines that are too long for them, or one
    of ``IN_PLACE`` for slices. ``fused`` forces the two last axes into one kernel, or keeps them apart; by default
    ``_refusal`` decides. ``weighed``: the last step ends as in ``weigh.cuh`` and takes a ``Weighing`` behind its
    parameters; rows of spacing, if any, are one for every image then.
    """
    mapping = problem.mapping
    if mapping is not None and (problem.squared or problem.extrema or problem.out_dtype != DType.FLOAT32):
        raise ValueError("mapping: expected float32 distances without extrema")
    return _plan(
        problem.image._replace(data=0),
        problem.spatial_dims,
        problem.spacing._replace(data=0),
        problem.signed,
        problem.squared,
        problem.closed,
        problem.out_dtype,
        problem.extrema != 0,
        mapping,
        device,
        max_blocks,
        solver,
        fused,
        weighed,
    )


@functools.lru_cache(maxsize=1024)
def _plan(
    image: Image,
    spatial_dims: int,
    spacings: Spacing,
    signed: bool,
    squared: bool,
    closed: bool,
    out_dtype: DType,
    extrema: bool,
    mapping: Mapping | None,
    device: DeviceProperties,
    max_blocks: int | None,
    solver: str | None,
    fused: bool | None,
    weighed: bool,
) -> Plan:
    shape, spacing = image.shape, spacings.values
    if solver is not None and solver not in (*SOLVERS, *IN_PLACE):
        raise ValueError(f"solver: expected one of {sorted({*SOLVERS, *IN_PLACE})}, got {solver!r}")
    check_options(image, spacings, max_blocks)
    if min(shape) == 0:
        return Plan(0, False, ())

    axes = kept_axes(shape, spatial_dims)
    singletons = [k for k in range(3 - spatial_dims, 3) if k not in axes]
    sides = [shape[2 + k] for k in axes]
    images = shape[0] * shape[1]
    voxels = images * prod(sides)

    measured = axes + singletons if closed else axes
    isotropic = spacing is not None and len({spacing[k] for k in measured}) == 1
    if isotropic and sum((n - 1) ** 2 for n in sides) >= NONE_32:
        raise ValueError(f"image: expected squared diagonals below 2^31 - 1 voxels, got sides {tuple(sides)}")
    value = "int32_t" if isotropic else "float"
    scale = 1.0
    if isotropic and spacing is not None:
        s = spacing[axes[0]]
        scale = s * s if squared else s
    weights = (0.0, 0.0, 0.0) if spacing is None else tuple(s * s for s in spacing)
    if isotropic and spacing is not None:  # of use for extrema alone
        weights = (spacing[axes[0]] ** 2,) * 3

    mapped = mapping_fields(mapping, shape, spatial_dims, spacings)

    steps: list[Step] = []
    scratch = 0
    source, source_format = (NOWHERE, 0), FROM_IMAGE
    if len(axes) > 1:
        run_bytes = 1 if sides[0] <= 128 else 2
        source, source_format = (SCRATCH, scratch), RUNS_8 if run_bytes == 1 else RUNS_16
        scratch += align(voxels * run_bytes)
        steps.append(_scan_step(image, axes, run_bytes, source, device, max_blocks))

    # Groups of images with weights of their own; a weighed tile has lines of one image.
    samples = spacing is None and (spacings.rows > 1 or weighed)
    groups = images if weighed else shape[0] if samples else 1
    slices = voxels // prod(sides[-2:])
    chosen, why = None, ""
    for name in IN_PLACE if solver is None else (solver,):
        refusal = _refusal(name, sides, slices, isotropic, weighed, bool(fused) or solver in FORCED, device)
        if refusal is None:
            chosen = name
            break
        why = refusal
    if solver in FORCED and fused is False:
        chosen, why = None, f"expected fused slices for {solver!r}, got fused=False"
    if chosen is None and (fused or solver in FORCED):
        raise ValueError(f"{'fused' if fused else 'solver'}: {why}")
    if chosen is not None and fused is not False:
        plain = out_dtype == DType.FLOAT32 and not closed
        ending = (out_dtype, squared, closed)
        scaling = (*map(float32, weights), float32(scale), plain, *mapped)
        sign = str(signed).lower()
        if chosen in PACKED_STRIPS:
            strip = PACKED_STRIPS[chosen]
            packed = _packed(sides, slices, strip, device)
            fields = (*packed.offsets, *sides, packed.pitch, packed.none, *packed.threading, *ending, *scaling)
            parameters = _PACKED.pack(slices, *fields)
            kernel = (
                f"dtk::packed_slices<uint{8 * run_bytes}_t, {sign}, {strip}{_ending('PackedSlices', weighed)}>"
            )
            threads, shared = packed.threads, packed.bytes
        else:
            slice_ = _slice(sides, slices, device, chosen == "split")
            parameters = _SLICES.pack(
                slices,
                slices // groups,
                slice_.high_offset,
                slice_.flags_offset,
                slice_.team_offset,
                slice_.team_bytes,
                slice_.sites_offset,
                source_format,
                slice_.words,
                *sides,
                slice_.pitch,
                slice_.lanes_log2,
                slice_.teams,
                slice_.team_threads,
                *ending,
                3 if samples else 0,
                *scaling,
            )
            split = ", true" if chosen == "split" else ", false" if weighed else ""
            kernel = f"dtk::slices<{value}, {sign}, dtk::Strips{split}{_ending('Slices', weighed)}>"
            threads, shared = slice_.threads, slice_.bytes
        grid = (min(slices, max_blocks or slices), 1, 1)
        constant = image_bytes(image, axes) + parameters
        nowhere, extrema_at = (NOWHERE, 0), (SECOND, 0)
        steps.append(Step(kernel, grid, threads, shared, source, (OUT, 0), nowhere, constant, extrema_at))
        return Plan(scratch, spacing is None, tuple(steps), sides[0])

    tile_scratch = pieces = 0
    for position in range(max(len(axes) - 1, 0) or 1):
        axis = axes[position + 1] if len(axes) > 1 else axes[0]
        last = axis == axes[-1]
        n = shape[2 + axis]
        lines = voxels // n // groups
        inner = 1 if last else prod(sides[position + 2 :])
        at_end = weighed and last  # where lines have two solvers alone: in shared memory and beyond
        tile = _tile(n, lines, groups, last, "strips" if at_end else solver or "strips", device)
        if tile is None and not at_end:
            if solver not in (None, "divide"):
                raise ValueError(
                    f"solver: expected 'divide' for lines of {n} voxels on this device, got {solver!r}"
                )
            tile = _tile(n, lines, groups, last, "divide", device)
        tile = tile or _global_tile(n, lines, last)
        pieces = -(-lines // (1 << tile.lanes_log2))
        tiles = groups * pieces
        blocks = min(tiles, 2 * device.multiprocessors if tile.in_global else MAX_GRID, max_blocks or MAX_GRID)
        if last:
            target, target_format = (OUT, 0), SQUARES_32
        elif isotropic and sum((m - 1) ** 2 for m in sides[: position + 2]) < NONE_16:
            target, target_format = (SCRATCH, scratch), SQUARES_16
            scratch += align(2 * voxels)
        elif out_dtype == DType.FLOAT32:
            target, target_format = (OUT, 0), SQUARES_32
        else:  # the result is too narrow to hold them
            target, target_format = (SCRATCH, scratch), SQUARES_32
            scratch += align(4 * voxels)
        if tile.in_global:
            tile_scratch = max(tile_scratch, blocks * tile.bytes)
        extent = [1] * (3 - len(sides)) + sides
        columns = [-1] * (3 - len(axes)) + axes
        constant = image_bytes(image, axes) + _LINES.pack(
            groups,
            lines,
            inner,
            *extent,
            tile.bytes if tile.in_global else 0,
            tile.sites_offset,
            0 if tile.in_global else tile.bytes,
            n,
            tile.lanes_log2,
            tile.pitch,
            tile.site_pitch,
            source_format,
            target_format,
            last,
            out_dtype,
            squared,
            closed,
            *columns,
            axis,
            axes[0],
            sum(1 << k for k in singletons),
            3 if samples else 0,
            *map(float32, weights),
            float32(scale),
            *mapped,
        )
        site = "uint8_t" if tile.site_bytes == 1 else "uint16_t"
        kernel = (
            f"dtk::lines<{value}, {str(signed).lower()}, {site}, dtk::{tile.solver.capitalize()}, "
            f"{str(tile.in_global).lower()}{_ending('Lines', at_end)}>"
        )
        shared = (0 if tile.in_global else tile.bytes) + _BYTES_PER_THREAD[tile.solver] * tile.threads
        also = (SECOND, 0)  # extrema, of the last pass
        steps.append(
            Step(kernel, (blocks, 1, 1), tile.threads, shared, source, target, (SCRATCH, 0), constant, also)
        )
        source, source_format = target, target_format

    # Tiles in global memory come after everything else; their offset is known only now.
    steps = [step._replace(scratch=(SCRATCH, scratch)) for step in steps]
    return Plan(scratch + tile_scratch, spacing is None, tuple(steps), pieces)


def _scan_step(
    image: Image,
    axes: list[int],
    run_bytes: int,
    target: Address,
    device: DeviceProperties,
    max_blocks: int | None,
) -> Step:
    """The closed-form pass along the slowest axis, from the image to run codes."""
    shape, stride, dtype, rule = image.shape, image.stride, image.dtype, image.rule
    n = shape[2 + axes[0]]
    columns = prod([shape[2 + k] for k in axes[1:]])
    outer = shape[0] * shape[1]
    count = 4 // run_bytes  # columns of a thread
    if n <= MAX_SCAN_SIDE:
        # Segments until every multiprocessor has about 1,024 threads, with shared memory for as many; of one
        # group of rows at least.
        kernel = "dtk::scan<uint8_t>" if run_bytes == 1 else "dtk::scan<uint16_t>"
        items = outer * -(-columns // count)
        groups = -(-n // (8 * run_bytes))
        wanted = max(1024 * device.multiprocessors / items, 8192 * groups / device.shared_per_block_optin)
        segments = 1
        while segments < min(8, wanted) and 2 * segments <= groups:
            segments *= 2
        chunks_log2 = 5 if segments > 2 else 7 - segments.bit_length() // 2
        # A small image fills the device with small blocks, of a sector (8 chunks) in a row at least.
        while (
            chunks_log2 > 3
            and segments << chunks_log2 >= 128
            and 4 * -(-items // (1 << chunks_log2)) < 3 * device.multiprocessors
        ):
            chunks_log2 -= 1
        chunks = 1 << chunks_log2
        threads, shared = chunks * segments, 8 * (groups + segments) * chunks
        blocks = -(-items // chunks)
    else:
        kernel = "dtk::scan_long<uint16_t>"
        items, chunks_log2, threads, shared = outer * columns, 0, 128, 0
        blocks = -(-items // threads)
    blocks = min(blocks, MAX_GRID, max_blocks or MAX_GRID)

    fast, mid = axes[-1], axes[1] if len(axes) == 3 else None
    aligned = [stride[a] for a in (0, 1, 2 + axes[0]) if shape[a] > 1]
    vectorised = (
        dtype in ((DType.UINT8, DType.INT8) if rule == Rule.NONZERO else (DType.UINT8,))
        and rule in (Rule.NONZERO, Rule.EQUALS_CLASS)
        and stride[2 + fast] == 1
        and (mid is None or stride[2 + mid] == shape[2 + fast])
        and columns % count == 0
        and all(s % count == 0 for s in aligned)
    )
    constant = image_bytes(image, axes) + _SCAN.pack(vectorised, chunks_log2)
    return Step(kernel, (blocks, 1, 1), threads, shared, (NOWHERE, 0), target, (NOWHERE, 0), constant)


def _refusal(
    solver: str,
    sides: list[int],
    slices: int,
    isotropic: bool,
    weighed: bool,
    forced: bool,
    device: DeviceProperties,
) -> str | None:
    """Why ``solver`` does not solve the two last axes of a volume in one kernel, or None.

    The first predicate that holds is the answer; those of the second table say what is slower, not what is
    impossible, and do not hold where the choice is forced.
    """
    if len(sides) < 3:
        return "expected a volume, with three axes longer than 1"
    if solver not in IN_PLACE:
        return f"expected a solver that works in place, got {solver!r}"
    strip, split = PACKED_STRIPS.get(solver), solver == "split"
    layout: Packed | Slice = (
        _packed(sides, slices, strip, device) if strip else _slice(sides, slices, device, split)
    )
    fits_24 = isotropic and sum((n - 1) ** 2 for n in sides) < NONE_24
    impossible = (
        (
            strip is not None and not (isotropic and packs(sides, strip)),
            "expected equal spacing and squares that fit 16 bits",
        ),
        (strip == 16 and sides[0] > 128, "expected at most 128 voxels along the first axis"),
        (strip == 16 and weighed, "expected no sums, which end in strips of eight voxels"),
        (split and not fits_24, "expected equal spacing and squares that fit 24 bits"),
        (slices >= 2**31, f"expected fewer than 2^31 slices, got {slices}"),
        (layout.threads > 1024, "expected shorter sides"),
        (layout.bytes > device.shared_per_block_optin - STATIC_SHARED, "expected slices that fit shared memory"),
    )
    unpacked_fits = _slice(sides, slices, device).bytes <= device.shared_per_block_optin - STATIC_SHARED
    slower = (
        (_idle(sides, slices, strip is not None, device), "fewer slices than multiprocessors"),
        (strip is not None and device.major < 9 and unpacked_fits, "no minima of packed halves"),
        (strip == 16 and slices <= device.multiprocessors, "no second slice for a multiprocessor"),
        (strip == 16 and 20 * _padded(sides, 8) < 17 * _padded(sides, 16), "too much to fill up"),
    )
    return next((why for holds, why in (*impossible, *(() if forced else slower)) if holds), None)


def _ending(parameters: str, weighed: bool) -> str:
    """What a kernel's name says of its end."""
    return f", dtk::Weighed<dtk::{parameters}>" if weighed else ""


def _idle(sides: list[int], slices: int, packed: bool, device: DeviceProperties) -> bool:
    """Whether slices, a block each, leave so many multiprocessors idle that a kernel for each axis is faster.

    Two kernels take as long as one slice does; a voxel of a packed slice takes about half the instructions that
    it takes in kernels of their own, of another slice as many. Three kernels divide their work among all, but
    there is a launch more, in whose time a multiprocessor does some 2,000 voxels.
    """
    if 4 * slices >= 3 * device.multiprocessors:
        return False
    apart = (2 if packed else 1) * slices / device.multiprocessors
    return prod(sides[1:]) * (1 - apart) > 2048


def packs(sides: list[int], strip: int) -> bool:
    """Whether every square of a volume fits the 16 bits of ``packed.cuh``, with strips of so many voxels."""
    if len(sides) < 3:
        return False
    none, far = _none_16(sides, strip), 256 - strip  # kFar of csrc/dtk/packed.cuh
    return none <= far**2 and none + (align(max(sides[1:]), strip) - 1) ** 2 + strip**2 < 2**16


def _padded(sides: list[int], strip: int) -> int:
    """Voxels of a slice of whole strips. One of strips of sixteen takes some 0.85 of the time of one of eight."""
    return prod(align(n, strip) for n in sides[1:])


def _none_16(sides: list[int], strip: int) -> int:
    """Above every square of slices of whole strips; and the square of 128, a byte's "none", and whole 128s."""
    return max(align((sides[0] - 1) ** 2 + sum((align(n, strip) - 1) ** 2 for n in sides[1:]) + 1, 128), 128**2)


def packed_team_offset(step: Step) -> int:
    """Bytes of a slice in the shared memory of a packed step."""
    return int(_PACKED.unpack(step.constant[-_PACKED.size :])[3])


class Packed(NamedTuple):
    """How a block holds a slice of 16-bit squares in shared memory, and its threads."""

    offsets: tuple[int, int, int, int]  # of the classes, their pitch; of the teams' memory, from one to the next
    pitch: int
    none: int
    threading: tuple[int, int, int]  # lanes_log2, teams, team_threads
    threads: int
    bytes: int


def _packed(sides: list[int], slices: int, strip: int, device: DeviceProperties) -> Packed:
    """Layout and threads of a block of ``packed.cuh``: a thread for every strip and pair of lines of a team.

    Long strips: blocks of 256 threads, of which their registers leave room for three on a multiprocessor. Others:
    blocks of 512, so that several share a multiprocessor; of 1,024 where a slice has one for itself.
    """
    height, width = (align(n, strip) for n in sides[1:])
    longest = max(height, width)
    pairs, strips = longest // 2, longest // strip
    largest = 256 if strip == 16 else 1024
    lanes = min(32, 1 << (pairs - 1).bit_length())
    while lanes > 8 and lanes * strips > largest:
        lanes //= 2
    most = min(512 if slices > device.multiprocessors else 1024, largest)
    teams = max(1, min(most // (lanes * strips), -(-pairs // lanes)))
    team_threads = lanes * strips
    pitch = width // 2 | 1
    classes_offset = align(4 * height * pitch, 16)
    classes_pitch = width + 8  # neighbouring rows of classes on other banks
    team_offset = classes_offset + align(height // 8 * classes_pitch, 16)
    team_bytes = 16 * (strips + 1) * lanes + 8 * lanes
    return Packed(
        (classes_offset, classes_pitch, team_offset, team_bytes),
        pitch,
        _none_16(sides, strip),
        (lanes.bit_length() - 1, teams, team_threads),
        align(teams * team_threads, 32),
        team_offset + teams * team_bytes,
    )


class Slice(NamedTuple):
    """How a block holds a slice in shared memory, and its threads."""

    pitch: int
    words: int
    lanes_log2: int
    teams: int
    team_threads: int
    threads: int
    high_offset: int
    flags_offset: int
    team_offset: int
    team_bytes: int
    sites_offset: int
    bytes: int


def _slice(sides: list[int], slices: int, device: DeviceProperties, split: bool = False) -> Slice:
    """Layout and threads of a block of ``slice.cuh``, with values of four bytes, or of two and one.

    A team has a thread for every strip and lane. With 64 registers a multiprocessor holds 1,024 threads: two
    blocks of 512 where two slices fit, so that one loads or stores while the other computes; one block of 1,024
    where only one fits or where there is no second slice for a multiprocessor.
    """
    _, height, width = sides
    longest = max(height, width)
    strips = -(-longest // STRIP)
    codes = 4 if sides[0] <= 128 else 2
    words = width // codes if width % codes == 0 else width
    # An odd number of words from row to row.
    pitch = 4 * (width // 4) + (2 if width % 4 < 3 else 6) if split else width | 1
    high_offset = align(2 * height * pitch, 16)
    values = high_offset + align(height * pitch, 16) if split else align(4 * height * pitch, 16)
    widest = min(32, 1 << (longest - 1).bit_length())

    def best(most: int) -> tuple[int, int]:
        """Lanes and teams with most threads up to ``most``; 32 lanes before 16, whose rows share banks."""
        options = [widest]
        while options[-1] > 8 and (options[-1] > 16 or options[-1] * strips > most):
            options.append(options[-1] // 2)
        choices = [(n, min(most // (n * strips), -(-longest // n))) for n in options if n * strips <= most]
        return max(choices, key=lambda choice: choice[0] * choice[1], default=(options[-1], 1))

    lanes, teams = best(512)
    together = 2 * (values + 8192) <= device.shared_per_block_optin and slices > device.multiprocessors
    alone = best(1024)
    if not together or alone[0] * alone[1] > 1.25 * 2 * lanes * teams:
        lanes, teams = alone
    team_threads = lanes * strips
    sites_offset = align(_BYTES_PER_THREAD["strips"] * team_threads, 4)
    team_bytes = align(sites_offset + 2 * (strips + 1) * lanes, 4)
    team_offset = values + 8 * words
    return Slice(
        pitch,
        words,
        lanes.bit_length() - 1,
        teams,
        team_threads,
        align(teams * team_threads, 32),
        high_offset,
        values,
        team_offset,
        team_bytes,
        sites_offset,
        team_offset + teams * team_bytes,
    )


def _tile(n: int, lines: int, groups: int, last: bool, solver: str, device: DeviceProperties) -> Tile | None:
    """Lanes, threads and layout of the tiles of a pass along lines of length ``n``; None where none fits."""
    most = min(32, 1 << (lines - 1).bit_length())
    strips = -(-n // STRIP)
    if solver == "strips":  # a thread for every strip: blocks of 512, of 1,024 only for the sake of 8 lanes
        if strips > 1024:
            return None
        most = min(most, max(_power_of_two(512 // strips), min(8, _power_of_two(1024 // strips))))
    layouts = {}
    for log2 in range(most.bit_length() - 1, -1, -1):
        layouts[1 << log2] = _layout(n, 1 << log2, last, solver, 1 if solver == "divide" and n <= 256 else 2)

    per_multiprocessor = device.shared_per_block_optin  # short by the kilobyte that each block costs
    limit = device.shared_per_block_optin - STATIC_SHARED - 1024 * _BYTES_PER_THREAD[solver]
    sizes = {lanes: layout.bytes for lanes, layout in layouts.items()}
    lanes = best_lanes(sizes, lines, groups, limit, device)
    if lanes is None:
        return None
    layout = layouts[lanes]
    if solver == "strips":
        return layout._replace(threads=align(strips * lanes, 32))
    blocks = min(per_multiprocessor // (layout.bytes + STATIC_SHARED), 32)
    threads = 256
    while threads < 1024 and threads * blocks < 1024:
        threads *= 2
    while threads > 32 and 2 * threads > n * lanes:
        threads //= 2
    return layout._replace(threads=threads)


def _global_tile(n: int, lines: int, last: bool) -> Tile:
    """A tile in scratch memory: contiguous rows need no transposition, other lines want a sector of lanes."""
    layout = _layout(n, 1 if last else min(8, 1 << (lines - 1).bit_length()), last, "divide", 2)
    return layout._replace(bytes=align(layout.bytes), threads=512, in_global=True)


def _layout(n: int, lanes: int, last: bool, solver: str, site_bytes: int) -> Tile:
    """Pitches and sizes; the threads are decided elsewhere."""
    transposed = last and lanes > 1
    pitch = lanes + 1 if transposed else lanes  # odd: columns of the tile lie on different banks
    site_pitch = lanes + 4 // site_bytes if transposed and solver != "strips" else lanes
    sites_offset = align(4 * n * pitch, 16)
    rows = -(-n // STRIP) + 1 if solver == "strips" else n
    size = align(sites_offset + _SITE_ARRAYS[solver] * site_bytes * rows * site_pitch, 16)
    return Tile(solver, lanes.bit_length() - 1, pitch, site_bytes, site_pitch, sites_offset, size, 0, False)


def _power_of_two(n: int) -> int:
    """The largest one up to ``n``, 0 for 0."""
    return 1 << n.bit_length() >> 1
