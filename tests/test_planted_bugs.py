"""Defects planted in the scan, in the kernels of slices and in maps at their end: the cases that tests are made of
must notice each.

The headers are copied, and at each place of ``BUGS`` the copy has the right text and the wrong one, of which a
number in the library chooses one at run time: so all defects take one build. ``race`` says that ThreadSanitizer
finds it as well, which it must do for a missing barrier whatever order the threads come in; this file is then the
program that runs under it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from emulated import ROOT, Library, Options, Rule, as_image, masks, problems, transform
from emulator import build
from numpy.typing import NDArray

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")


class Bug(NamedTuple):
    """In ``file``, the first ``right`` behind the text ``behind`` (found once) becomes ``wrong``."""

    file: str
    behind: str
    right: str
    wrong: str
    race: bool = False
    silent: bool = False  # no result can be wrong


def barrier(file: str, behind: str) -> Bug:
    return Bug(file, behind, "__syncthreads();", ";", race=True)


BUGS = {
    # The scan along the first axis: fields of a word, groups of rows, segments.
    "scan: bits read before they are there": barrier("scan", "g * F::kBits, class_index);\n    }"),
    "scan: ends of segments read before they are there": barrier("scan", "(run & met_change) |"),
    "scan: bits overwritten by the next chunks": barrier("scan", "to[c] = Run(code[i]"),
    "scan: a segment left out from below": Bug("scan", "s = segments - 1; ", "s > segment", "s > segment + 1"),
    "scan: a segment left out from above": Bug("scan", "for (int s = 0; ", "s < segment", "s < segment - 1"),
    "scan: last row read a row too high": Bug("scan", "if (whole || ", "first + i < last", "first + i < last - 1"),
    "scan: last row read a row too high, any dtype": Bug(
        "scan", "const int64_t row = (", "first + i < last", "first + i < last - 1"
    ),
    "scan: rows of a segment miscounted": Bug(
        "scan", "nonzero(before ^ kNone) & kOnes) * ", "uint32_t(rows)", "uint32_t(rows - 1)"
    ),
    "scan: a difference borrows from the next field": Bug("scan", "take_b = spread(", "(a | kTop) - b", "a - b"),
    "scan: the larger of two counters": Bug(
        "scan", "take_b = spread((a | kTop) - b);", "(b & take_b) | (a & ~take_b)", "(a & take_b) | (b & ~take_b)"
    ),
    "scan: no change found is a change at once": Bug(
        "scan", "(run & met_change) | ", "(F::kNone & ~met_change)", "0u"
    ),
    "scan: run counted from one": Bug("scan", "if (i == 0 && g == first_group) ", "run = 0", "run = F::kOnes"),
    "scan: no change between groups": Bug(
        "scan", "class_bits[(g - 1) * chunks_per_block]", " >> (F::kBits - 1)", " >> 0"
    ),
    "scan: change below a segment forgotten": Bug("scan", "uint32_t below = ", "change_below", "0u"),
    "scan: codes of a word in the wrong order": Bug(
        "scan", "to[c] = Run(code[i] >> (", "c * F::kBits", "(c ^ 1) * F::kBits"
    ),
    "scan: class of the row beside": Bug("scan", "| (F::raise(bits, ", "i", "i ^ 1"),
    "scan: kept class is another one's": Bug("scan", "uint32_t(label & ", "0xff", "0xfe"),
    "scan: kept classes begin at 0": Bug("scan", "labels ? class_index + ", "int64_t(image.threshold)", "0"),
    # Packed slices: barriers,
    "packed: changes chained before they are there": barrier(
        "packed", "if (kSigned) publish_changes(t, first, changes);"
    ),
    "packed: ends of runs read before they are there": barrier(
        "packed", "if (with_lines) chain_changes(t, length / kRows);"
    ),
    "packed: windows read before they are there": barrier(
        "packed", "uint32_t(this->reach(best[kRows - 1] & alive, length));"
    ),
    "packed: parts of a search read before they are there": barrier(
        "packed", "t.keys()[2 * t.thread + 1] = key[1];"
    ),
    "packed: sites read before they are there": barrier(
        "packed", "t.site(s) = halves(key[0], key[1] & 0xffffu);\n        }\n        "
    ),
    "packed: lines overwritten while they are read": barrier(
        "packed", "if (reach > 0) offer_sites(line, first, low, high, best);"
    ),
    "packed: flags of a tile cleared late": barrier("packed", "t.seen()[1] = 0;\n      }"),
    "packed: rows begun before the columns are done": barrier("packed", "atomicOr(&found[image], own);"),
    "packed: a slice overwritten while it is stored": barrier("packed", "item, params.plain != 0 && alive);"),
    # bounds of strips and searches,
    "packed: strip searched a site short above": Bug(
        "packed",
        "int low = first - reach, ",
        "high = first + kRows - 1 + reach",
        "high = first + kRows - 2 + reach",
    ),
    "packed: strip searched a site short below": Bug(
        "packed", "= 0 && length > 2 * kRows;\n    int ", "low = first - reach", "low = first - reach + 1"
    ),
    "packed: strip searched a site short behind neighbours": Bug(
        "packed",
        "if (reach == 1) reach = 0;\n      ",
        "low = larger(low, first - reach);",
        "low = larger(low, first - reach + 1);",
    ),
    "packed: window a site short": Bug(
        "packed",
        "low = larger(p - window, 0), ",
        "high = smaller(p + window, last)",
        "high = smaller(p + window - 1, last)",
    ),
    "packed: a part of a search a site short": Bug(
        "packed", "low + part * share, smaller(low + (part + 1) * share - ", "1", "2"
    ),
    "packed: bound of the other half, below": Bug(
        "packed",
        "right = t.site(t.strip + 1);\n        low = larger(low, ",
        "smaller(low_half(left), high_half(left))",
        "larger(low_half(left), high_half(left))",
    ),
    "packed: bound of the other half, above": Bug(
        "packed",
        "high_half(left)));\n        high = smaller(high, ",
        "larger(low_half(right), high_half(right))",
        "smaller(low_half(right), high_half(right))",
    ),
    "packed: root of a square that is one too small": Bug("packed", "root_of_integer(float(largest - ", "1", "2"),
    "packed: neighbours taken for all there is": Bug("packed", "length);\n      if (", "reach == 1", "reach <= 2"),
    "packed: changes chained with their own strip's": Bug(
        "packed", "uint32_t* at = &t.before(0);", "*at = latest;", "*at = __vmaxu2(latest, own);"
    ),
    # squares in 16 bits,
    "packed: infinitely many steps squared": Bug(
        "packed",
        "const int up[2] = {",
        "smaller(base + 1 - low_half(before), kFar)",
        "base + 1 - low_half(before)",
    ),
    "packed: infinitely many steps down squared": Bug(
        "packed", "const int down[2] = {", "smaller(low_half(behind) - base, kFarBelow)", "low_half(behind) - base"
    ),
    "packed: no site squared": Bug("packed", "no_site = d & both(1u << kTop);", "d -= no_site;", ";"),
    "packed: no site of bytes is a distance": Bug(
        "packed", "no_site * (", "(uint32_t(params.none) - (1u << 2 * kTop)) >> kTop", "0u"
    ),
    "packed: what minima leave out is not put back": Bug(
        "packed", "i < kRows; ++i) best[i] -= ", "left_out(i)", "left_out(0)"
    ),
    # and halves of words.
    "packed: classes of a strip's second eight voxels": Bug("packed", "byte == 0 ? 0x4420 : ", "0x4431", "0x4420"),
    "packed: changes of class behind the eighth voxel": Bug("packed", "bits << 1 & both((1u << ", "kRows", "8"),
    "packed: key of the wrong half": Bug(
        "packed", "key[1] = smaller(key[1], (", "word & 0xffff0000u", "word << 16"
    ),
    "packed: end of the run in the other half": Bug(
        "packed", "uint32_t above = uint32_t(up[0] * up[0]) + (uint32_t(", "up[1] * up[1]", "up[0] * up[0]"
    ),
    "packed: changes of the other half": Bug(
        "packed", "const int low = low_half(changes), ", "high = high_half(changes)", "high = low_half(changes)"
    ),
    "packed: second row of pairs lost": Bug(
        "packed", "to[half * params.pitch] = __byte_perm(best[i], best[i + 1], ", "0x7632", "0x5410"
    ),
    "packed: columns of a code pair swapped": Bug("packed", "return __byte_perm(pair, 0, ", "0x4140", "0x4041"),
    "packed: stored pair of the wrong half": Bug(
        "packed", "*reinterpret_cast<float2*>(to + width) = float2{distance(", "left >> 16", "left & 0xffffu"
    ),
    "packed: stored sign of the column beside": Bug(
        "packed", "distance(left & 0xffffu, 0), distance(right & 0xffffu, ", "8", "0"
    ),
    "packed: stored half of the wrong row": Bug("packed", "const S::Cost cost = ", "i == 0", "i != 0"),
    "packed: pairs stored where they do not lie": Bug(
        "packed", "bool has_pairs() const {", "(params.extent[2] & 1) == 0", "params.extent[2] > 1"
    ),
    # Values in three bytes, and the slices that use them.
    "split: not saturated": Bug("split", "v = larger(", "smaller(v, kNone)", "v"),
    "split: negative end not saturated": Bug("split", "v = larger(smaller(v, kNone), ", "-kNone", "v"),
    "split: sign of the upper part lost": Bug(
        "split", "operator int32_t() const { return ", "int32_t(*high)", "int32_t(uint8_t(*high))"
    ),
    "split: upper part of the wrong voxel": Bug("split", "SplitValues{low + i, ", "high + i", "high"),
    "split: upper part left behind": Bug("split", "low += i;\n    ", "high += i;", ";"),
    "split: no site is a distance": Bug(
        "slice", "cost == typename S::Cost(", "SplitValues::kNone", "SplitValues::kNone + 1"
    ),
    "slice: columns begun before they are loaded": barrier(
        "slice", "if (threadIdx.x % 32 == 0) atomicOr(&found[0], own);"
    ),
    "slice: rows begun before the columns are done": barrier("slice", "slice.pass(item, turn != 0);"),
    "slice: flags cleared late": barrier("slice", "slice.flags[2 * x + 1] = 0;\n    }"),
    # Of a slice without work alone, whose threads may see its flags cleared: it has none in either case.
    "slice: flags cleared while they are read": barrier("slice", "item, params.plain != 0);")._replace(
        silent=True
    ),
    "strips: lines overwritten while they are read": barrier("strips", "offer_all<kSigned, true>(tile, "),
    "strips: a site short": Bug(
        "strips",
        "int low = first - reach, ",
        "high = first + count - 1 + reach",
        "high = first + count - 2 + reach",
    ),
    "strips: classes of a strip mixed up": Bug(
        "strips",
        "const auto offer_negative = kMixed ? ",
        "S::template offer<kSigned>(g, Value(-1))",
        "S::template offer<kSigned>(g, Value(1))",
    ),
    # Maps at the end of a transform.
    "map: sides of the image not added up": Bug(
        "evaluate",
        "known.sides[axis] * row[axis];\n    ",
        "squares += extent * extent;",
        "squares = extent * extent;",
    ),
    "map: spacing of the wrong axis": Bug("evaluate", "return {float(", "row[2]", "row[1]"),
    "map: exponential far below the range of floats": Bug("evaluate", "x = x < ", "-87.0f", "-200.0f"),
    "map: divided by 1 alone": Bug(
        "evaluate", "line.offset;\n    if (", "line.divisor != 1.0f", "line.divisor == 1.0f"
    ),
    "map: not bounded above": Bug("evaluate", "return fminf(fmaxf(value, f.low), ", "f.high", "1e30f"),
    "map: not bounded below": Bug("evaluate", "return fminf(fmaxf(value, ", "f.low", "-1e30f"),
    "map: side of the wrong sign": Bug("epilogue", "bool inside = kSigned ? ", "int32_t(bits) < 0", "bits == 0"),
    "map: side of no distance": Bug("epilogue", "kSigned ? int32_t(bits) < 0 : ", "d > 0", "d >= 0"),
    "map: empty for full": Bug("epilogue", "if (cost == Cost(S::none())) return ", "inside", "!inside"),
    "map: edges in the background": Bug(
        "epilogue", "own_.empty;\n    return ", "inside && d <= edges_", "d <= edges_"
    ),
    "map: edges nobody asked for": Bug("epilogue", "edges_ = ", "params.map.inner_zero", "1"),
    "map: diagonal for spacing": Bug("epilogue", "ImageScale{0.0f, 0.0f, ", "size.spacing", "size.diagonal"),
    "map: of another sample's spacing": Bug("slice", "nullptr : rows + slice / ", "params.group", "params.slices"),
    "map: missing sides stored by pairs": Bug(
        "packed", "if constexpr (End::kPairs) {\n      if (", "end.plain()", "true"
    ),
}


def chosen(bug: Bug, number: int) -> str:
    """Both texts: a statement by if, an expression (the right side of an assignment or shift) by selection."""
    if bug.right.endswith(";"):
        return f"if (dtk_planted == {number}) {{ {bug.wrong} }} else {{ {bug.right} }}"
    for sign in (" >> ", " = "):
        left, found, right = bug.right.partition(sign)
        if found and (not left if sign == " >> " else left.isidentifier()):
            return f"{left}{sign}(dtk_planted == {number} ? ({bug.wrong.partition(sign)[2]}) : ({right}))"
    return f"(dtk_planted == {number} ? ({bug.wrong}) : ({bug.right}))"


def planted(mode: str) -> Any:
    """The kernels of slices, with all defects in them."""
    folder = build.BUILD / "planted" / "csrc"
    texts = {path: path.read_text() for path in sorted((ROOT / "csrc" / "dtk").iterdir())}
    edits = []
    for number, (name, bug) in enumerate(BUGS.items(), 1):
        path = ROOT / "csrc" / "dtk" / f"{bug.file}.cuh"
        assert texts[path].count(bug.behind) == 1, f"{name}: the place must be there once"
        behind = texts[path].index(bug.behind) + len(bug.behind)
        start = texts[path].find(bug.right, behind, behind + 200)
        assert start >= 0, f"{name}: what is right must follow the place"
        edits.append((start, path, bug.right, chosen(bug, number)))
    for start, path, right, text in sorted(edits, reverse=True):
        texts[path] = texts[path][:start] + text + texts[path][start + len(right) :]
    launcher = ROOT / "csrc" / "cuda" / "launch.cu"
    slices = r"[^\n]*slices<\w+, \w+, dtk::Strips(, true)?>\)"
    kept = re.compile(rf"    DTK_KERNEL\((?!Scan, dtk::scan<|PackedSlices|{slices}).*?\),\n", re.DOTALL)
    texts[launcher] = kept.sub("", launcher.read_text())
    texts[launcher.with_name("launch.h")] = launcher.with_name("launch.h").read_text()
    for path, text in texts.items():
        copy = folder / path.relative_to(ROOT / "csrc")
        if path.suffix == ".cuh":
            text = text.replace("#pragma once\n", "#pragma once\nextern int dtk_planted;\n", 1)
        if not copy.exists() or copy.read_text() != text:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(text)
    chooser = folder / "planted.cpp"
    chooser.write_text(
        'int dtk_planted = 0;\nextern "C" __attribute__((visibility("default"))) void plant(int number) '
        "{ dtk_planted = number; }\n"
    )
    sources = [folder / "cuda" / "launch.cu", "tests/emulated_kernels.cpp", chooser]
    return build.library("kernels_planted", sources, mode)


class Case(NamedTuple):
    """An image and how to transform it, into a map or not."""

    image: NDArray[Any]
    options: Options
    map: str = ""
    edges: bool = False


PACKED, LONG, SPLIT, STRIPS = (
    Options(fused=True, solver=solver) for solver in ("packed", "packed_long", "split", "strips")
)


class Side(NamedTuple):
    """A side of a formula as kernels take it."""

    slope: float
    offset: tuple[float, ...] = (0.0,) * 4
    divisor: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0)
    add: float = 0.0


class Map(NamedTuple):
    """A formula; its numbers come in the order of csrc/dtk/formula.h."""

    inside: Side
    outside: Side
    low: float = -np.inf
    high: float = np.inf
    limit: float = 3.0
    edge: float = -7.0
    empty: tuple[float, float] = (0.5, 0.0)
    full: tuple[float, float] = (0.25, -1.0)
    rate: float = 0.0

    def mapping(self, edges: bool) -> Any:
        """For a problem."""
        sides = [x for s in self[:2] for x in (s.slope, *s.offset, *s.divisor, s.add, 0.0)]
        ends = (self.low, self.high, self.limit, self.edge, *self.empty, *self.full, self.rate, 0.0)
        return problems.Mapping((*sides, *ends), edges)

    def of(self, square: NDArray[np.float64], op: str, spacing: Any, edges: bool) -> NDArray[np.float64]:
        """Of squared distances with their signs, in float64."""
        inside, d = square < 0 if op == "sdf" else square > 0, np.sqrt(np.abs(square))
        lengths = np.array([1.0, 0.0, spacing[2], np.linalg.norm(np.array(square.shape) * spacing)])
        value = np.zeros(square.shape)
        for here, side in ((inside, self.inside), (~inside, self.outside)):
            if self.rate:
                of_side = side.slope * np.exp(self.rate * d**2) + side.add
            else:
                of_side = (side.slope * d + side.offset @ lengths) / (side.divisor @ lengths) + side.add
            value[here] = of_side[here]
        value = value.clip(self.low, self.high)
        for here, (constant, factor) in ((inside, self.full), (~inside, self.empty)):
            missing = constant + factor * lengths[3]
            value[here & np.isinf(d)] = min(max(missing, -self.limit), self.limit)
        return np.where(inside & (d <= 1.0001 * max(spacing)) & edges, self.edge, value)


DIVIDED = Side(-1.0, (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0), 0.25)
MAPS = {
    "line": Map(DIVIDED, Side(2.0, (0.0, 0.0, 0.0, -0.1)), low=0.1, high=4.0),
    "gauss": Map(Side(10.0, add=1.0), Side(8.0, add=0.5), rate=-8.0),
}


def rounds() -> Iterator[Case]:
    """Blocks and threads with several turns; an image of one class among others."""
    rng = np.random.default_rng(0)
    batch = (rng.random((3, 2, 34, 11, 14)) < rng.random((3, 2, 1, 1, 14)) ** 0.1).astype(np.uint8)
    batch[0, 0] = 1
    for options in (PACKED, LONG, SPLIT):
        yield Case(batch, options._replace(max_blocks=2))
        for shape in ((5, 26, 40), (20, 9, 17)):
            yield Case(as_image(masks(shape, seed=shape[0])["organ"]), options._replace(squared=True))
    yield Case(batch.astype(np.float32), PACKED)
    labels = rng.integers(0, 4, (2, 1, 17, 8, 12)).astype(np.uint8)
    yield Case(labels, PACKED._replace(rule=Rule.EQUALS_CLASS, classes=4))
    yield Case(labels, PACKED._replace(rule=Rule.EQUALS_CLASS, classes=3, threshold=1.0))


def cases() -> Iterator[Case]:
    """Small images that take every way through these kernels."""
    yield from rounds()
    rng = np.random.default_rng(1)
    for shape in ((5, 26, 40), (20, 9, 17), (66, 12, 10), (40, 5, 96), (140, 3, 10), (9, 70, 6)):
        kinds = masks(shape, seed=shape[0])
        kinds["floor"] = kinds["dense"].copy()
        kinds["floor"][0] = 0
        for name in ("organ", "sparse", "single", "half", "dense", "floor"):
            for options in (PACKED, LONG, SPLIT) if shape[0] <= 128 else (PACKED, SPLIT):
                for signed in (True, False):
                    yield Case(as_image(kinds[name]), options._replace(signed=signed, squared=True))
        yield Case(as_image(kinds["organ"]), PACKED._replace(closed=True))
    for shape in ((33, 5, 7), (70, 3, 3)):  # columns that are not whole words
        yield Case((rng.random((1, 1, *shape)) < 0.98).astype(np.uint8), PACKED)
    # No change along two axes, and one along the third that lies far away.
    slab = np.zeros((3, 8, 144), np.uint8)
    slab[:, :, 143] = 1
    yield Case(as_image(slab), PACKED)
    yield Case(as_image(np.ascontiguousarray(slab.transpose(0, 2, 1))), PACKED)
    yield Case(as_image(np.pad(slab[..., 90:], ((0, 140), (0, 0), (0, 0)), mode="edge")), PACKED)
    yield from maps()


def maps() -> Iterator[Case]:
    """Both formulas at the end of a transform, of empty and full masks, too."""
    rows = np.array([[3.0, 0.8, 1.5], [0.5, 1.0, 2.0]])
    for shape in ((6, 10, 12), (5, 7, 9)):
        kinds = masks(shape, seed=1)
        image = np.stack([kinds[name] for name in ("organ", "full", "empty", "sparse")]).reshape(2, 2, *shape)
        for name in MAPS:
            for signed in (True, False):
                yield Case(image, PACKED._replace(signed=signed), name, edges=True)
                yield Case(image, SPLIT._replace(signed=signed), name)
                yield Case(image, STRIPS._replace(signed=signed, spacing=rows), name)
            yield Case(image, PACKED._replace(closed=True), name)


def results(library: Library, some: list[Case]) -> Iterator[NDArray[Any]]:
    for image, options, name, edges in some:
        mapping = MAPS[name].mapping(edges) if name else None
        yield transform(library, image, 3, options._replace(mapping=mapping))


def caught(library: Library, some: list[Case], right: list[NDArray[Any]]) -> bool:
    """Whether a result is wrong or a launch fails."""
    try:
        return any(not np.array_equal(a, b) for a, b in zip(results(library, some), right, strict=True))
    except (RuntimeError, AssertionError):
        return True


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(planted("plain").path)


@pytest.fixture(scope="module")
def right(library: Library) -> list[NDArray[Any]]:
    """Results without any defect, which are right."""
    found = list(results(library, list(cases())))
    for (image, options, name, edges), result in zip(cases(), found, strict=True):
        for b, c in np.ndindex(result.shape[:2]):
            mask = image[b, c] if options.classes is None else image[b, 0] == options.threshold + c
            op = "sdf" if options.signed else "edt"
            if name:
                spacing = options.spacing if isinstance(options.spacing, tuple) else options.spacing[b]
                square = oracle.squared(op, mask, spacing, closed=options.closed)
                values = MAPS[name].of(square, op, spacing, edges)
                np.testing.assert_allclose(result[b, c], values, rtol=1e-5, atol=1e-5)
                continue
            expected = oracle.squared(op, mask, closed=True) if options.closed else oracle.scipy_squared(op, mask)
            np.testing.assert_array_equal(result[b, c], oracle.exact(expected, is_squared=options.squared))
    return found


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.silent])
def test_bug_is_caught(library: Library, right: list[NDArray[Any]], name: str) -> None:
    """In order, or where that happens to be right, in some random order."""
    library._c.plant(ctypes.c_int(list(BUGS).index(name) + 1))
    try:
        for seed in range(4 if BUGS[name].race else 1):
            library.set(seed=seed)
            if caught(library, list(cases()), right):
                return
    finally:
        library._c.plant(0)
        library.set(seed=0)
    pytest.fail("every result was right")


def test_missing_barriers_are_races() -> None:
    built = planted("thread")
    first = f"{built.environment['TSAN_OPTIONS']}:halt_on_error=1:symbolize=0"
    done = subprocess.run(
        [sys.executable, __file__, str(built.path)],
        env={**os.environ, **built.environment, "TSAN_OPTIONS": first, "DTK_EMULATED_ALONE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    codes = dict(reversed(line.split(" ", 1)) for line in done.stdout.splitlines())
    assert codes == {"right": "0", **{name: "66" for name, bug in BUGS.items() if bug.race}}, done.stderr[-4000:]


def main(path: str) -> None:
    """Every defect that is a race, and none of them; few threads, but blocks that go round.

    Each in a process of its own, which ends at the first race; the status of each is printed.
    """
    library = Library(path)
    batch = (np.random.default_rng(0).random((4, 1, 17, 9, 12)) < 0.9).astype(np.uint8)
    batch[1] = 1
    organ = as_image(masks((5, 26, 40), seed=5)["organ"])
    for number, (name, bug) in enumerate({"right": Bug("", "", "", "", True), **BUGS}.items()):
        if not bug.race:
            continue
        child = os.fork()
        if child == 0:
            library._c.plant(number)
            way = SPLIT if bug.file in ("slice", "strips") else PACKED
            for image, options in ((batch, way._replace(max_blocks=1)), (organ, way)):
                with contextlib.suppress(RuntimeError, AssertionError):
                    transform(library, image, 3, options)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
