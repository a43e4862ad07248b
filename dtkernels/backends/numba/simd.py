"""Sixteen 32-bit lanes as one value of compiled code: what lets Numba vectorise across lines.

LLVM's loop vectoriser cannot be relied on here: the hot loops run over voxels of a line, and each step does the
same to 16 neighbouring lines. So a vector is a type of its own, an LLVM <16 x i32>, which LLVM splits into
whatever registers the machine has (one of AVX-512, two of AVX2, four of SSE or NEON).

A vector holds the bits of unsigned integers or of floats. What a sum of squared distances means is decided by the
type of the table of costs that is handed in: uint32 counts voxels exactly, float32 is for unequal spacing.
Comparisons are the same for both, because non-negative floats are ordered like their bits.

Memory is given by typed pointers, which cost Numba's compiler far less than arrays do; nothing checks bounds. Each
instruction does what the solver needs in one step for the same reason: Numba's time goes by statements.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numba.core.types
import numba.extending
from llvmlite import ir
from numba.extending import intrinsic, register_model

# Typed in part only.
types: Any = numba.core.types
models: Any = numba.extending.models

LANES = 16

_BIT, _I16, _I32, _I64, _F32, _F64 = *(ir.IntType(n) for n in (1, 16, 32, 64)), ir.FloatType(), ir.DoubleType()
_BITS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES)
_ZERO, _SIGN = ir.Constant(_BITS, None), _BITS([0x80000000] * LANES)


class VectorType(types.Type):  # type: ignore[misc]
    """Numba's name for sixteen lanes."""

    def __init__(self) -> None:  # noqa: D107
        super().__init__(name="dtkernels.vector")


_VECTOR = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, numba_type: types.Type) -> None:
        super().__init__(manager, numba_type, _BITS)


class _Emitter:
    """What the code generators below need: the builder, and the types that Numba found for the arguments."""

    def __init__(self, context: Any, builder: ir.IRBuilder, arguments: tuple[types.Type, ...]) -> None:
        self.context, self.builder, self.arguments = context, builder, arguments

    def load(self, pointer: ir.Value, position: ir.Value, element: ir.Type) -> ir.Value:
        """``element`` from ``pointer[position]`` on, aligned only as the pointer's own elements are."""
        b = self.builder
        align = pointer.type.pointee.width // 8 if isinstance(pointer.type.pointee, ir.IntType) else 4
        return b.load(b.bitcast(b.gep(pointer, [position]), element.as_pointer()), align=align)

    def store(self, pointer: ir.Value, position: ir.Value, value: ir.Value) -> None:
        b = self.builder
        b.store(value, b.bitcast(b.gep(pointer, [position]), value.type.as_pointer()), align=4)

    def is_exact(self, argument: int) -> bool:
        """Whether a table of costs counts voxels."""
        return isinstance(self.arguments[argument].dtype, types.Integer)

    def none(self, argument: int) -> ir.Value:
        """The largest value of a table of costs' arithmetic."""
        return _I32(0x7FFFFFFF if self.is_exact(argument) else 0x7F800000)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """The scalar in all lanes, as bits."""
        b = self.builder
        bits = b.bitcast(scalar, _I32) if isinstance(scalar.type, ir.FloatType) else scalar
        undefined = ir.Constant(_BITS, ir.Undefined)
        return b.shuffle_vector(b.insert_element(undefined, bits, _I32(0)), undefined, _BITS([0] * LANES))

    def floats(self, vector: ir.Value) -> ir.Value:
        return self.builder.bitcast(vector, _FLOATS)

    def bits(self, vector: ir.Value) -> ir.Value:
        return self.builder.bitcast(vector, _BITS)

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Minimum as unsigned numbers."""
        return self.builder.select(self.builder.icmp_unsigned("<", a, b), a, b)

    def clamp(self, a: ir.Value) -> ir.Value:
        """0 in the lanes whose sign bit is set."""
        return self.builder.select(self.builder.icmp_signed(">", a, _ZERO), a, _ZERO)

    def packed(self, mask: ir.Value) -> ir.Value:
        """A comparison's result as a number of LANES bits."""
        return self.builder.bitcast(mask, _I16)

    def call(self, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
        """A function of LLVM."""
        module = self.builder.module
        known = module.globals.get(name)
        function = known or ir.Function(module, ir.FunctionType(result, [v.type for v in values]), name)
        return self.builder.call(function, values)


def _instruction(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Let compiled functions call ``emit(emitter, *values)``.

    An argument is a type to convert to, or a class of types to take as they come; the result a type, or a function
    of the arguments' types.
    """

    def decorate(emit: Callable[..., Any]) -> Any:
        def typer(_: Any, *given: types.Type) -> Any:
            if not all(isinstance(g, a) for g, a in zip(given, arguments, strict=True) if isinstance(a, type)):
                return None
            taken = [g if isinstance(a, type) else a for g, a in zip(given, arguments, strict=True)]

            def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
                value = emit(_Emitter(context, builder, signature.args), *values)
                return context.get_dummy_value() if value is None else value

            return (result if isinstance(result, types.Type) else result(*taken))(*taken), generate

        typer.__name__, typer.__doc__ = emit.__name__, emit.__doc__
        # Numba counts the arguments of what it is given: a context, then those of the compiled function.
        parameters = [p.replace(annotation=p.empty) for p in inspect.signature(emit).parameters.values()]
        typer.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return intrinsic(typer)

    return decorate


_POINTER, _AT, _WORD, _FLOAT = types.CPointer, types.intp, types.uint32, types.float32

# --- Memory ---


@_instruction(lambda array, _: types.CPointer(array.dtype), types.Array, _AT)
def address(e: _Emitter, array: ir.Value, at: ir.Value) -> ir.Value:
    """Pointer to element ``at`` of a contiguous array; the caller keeps the array alive."""
    view = e.context.make_array(e.arguments[0])(e.context, e.builder, array)
    return e.builder.gep(view.data, [at])


@_instruction(lambda pointer, _: pointer, _POINTER, _AT)
def advance(e: _Emitter, pointer: ir.Value, elements: ir.Value) -> ir.Value:
    """``pointer + elements``."""
    return e.builder.gep(pointer, [elements])


@_instruction(_VECTOR, _POINTER, _AT)
def row(e: _Emitter, lines: ir.Value, p: ir.Value) -> ir.Value:
    """Row p of lines that lie row by row, LANES elements each."""
    return e.load(lines, e.builder.mul(p, _I64(LANES)), _BITS)


@_instruction(types.void, _POINTER, _AT, _VECTOR)
def set_row(e: _Emitter, lines: ir.Value, p: ir.Value, v: ir.Value) -> None:
    """Write row p."""
    e.store(lines, e.builder.mul(p, _I64(LANES)), v)


@_instruction(types.void, _POINTER, _AT, _POINTER, _AT)
def transpose(e: _Emitter, source: ir.Value, pitch: ir.Value, target: ir.Value, target_pitch: ir.Value) -> None:
    """A square of LANES rows and columns; ``pitch`` elements lie between rows.

    In round r rows i and i + 2^r exchange bit r of the row number with bit r of the lane number: the first keeps
    its even groups of 2^r lanes and takes the second's even groups for its odd ones, the second the rest.
    """
    b = e.builder
    rows = [e.load(source, b.mul(pitch, _I64(i)), _BITS) for i in range(LANES)]
    for step in (8, 4, 2, 1):
        lower = _BITS([LANES + lane - step if lane & step else lane for lane in range(LANES)])
        upper = _BITS([LANES + lane if lane & step else lane + step for lane in range(LANES)])
        for i in range(LANES):
            if not i & step:
                pair = rows[i], rows[i + step]
                rows[i], rows[i + step] = b.shuffle_vector(*pair, lower), b.shuffle_vector(*pair, upper)
    for i in range(LANES):
        e.store(target, b.mul(target_pitch, _I64(i)), rows[i])


# --- Lanes ---


@_instruction(_VECTOR, _WORD)
def splat(e: _Emitter, bits: ir.Value) -> ir.Value:
    """The same bits in all lanes."""
    return e.splat(bits)


@_instruction(_VECTOR, types.boolean)
def class_sign(e: _Emitter, foreground: ir.Value) -> ir.Value:
    """The sign of one class in all lanes."""
    return e.builder.select(foreground, _SIGN, _ZERO)


@_instruction(_VECTOR, _VECTOR)
def sign_of(e: _Emitter, v: ir.Value) -> ir.Value:
    """The sign bits, in their place."""
    return e.builder.and_(v, _SIGN)


@_instruction(_VECTOR, _VECTOR)
def magnitude(e: _Emitter, v: ir.Value) -> ir.Value:
    """All but the sign bits."""
    return e.builder.and_(v, e.builder.not_(_SIGN))


@_instruction(_VECTOR, _VECTOR)
def spread_sign(e: _Emitter, v: ir.Value) -> ir.Value:
    """The sign bit in all bits."""
    return e.builder.ashr(v, _BITS([31] * LANES))


@_instruction(_VECTOR, _VECTOR, _VECTOR)
def both(e: _Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """Bitwise and."""
    return e.builder.and_(a, b)


@_instruction(_VECTOR, _VECTOR, _VECTOR)
def either(e: _Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """Bitwise or."""
    return e.builder.or_(a, b)


@_instruction(_VECTOR, _VECTOR, _VECTOR)
def differing(e: _Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """Bitwise exclusive or."""
    return e.builder.xor(a, b)


@_instruction(_VECTOR, _VECTOR, _VECTOR)
def smaller(e: _Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """Minimum as unsigned numbers."""
    return e.smaller(a, b)


@_instruction(_VECTOR, _VECTOR, _VECTOR, _VECTOR)
def where_zero(e: _Emitter, v: ir.Value, yes: ir.Value, no: ir.Value) -> ir.Value:
    """Lanes of ``yes`` where v is 0, else of ``no``."""
    return e.builder.select(e.builder.icmp_unsigned("==", v, _ZERO), yes, no)


@_instruction(types.intp, _VECTOR)
def sign_bits(e: _Emitter, v: ir.Value) -> ir.Value:
    """The sign bits as one number."""
    return e.builder.zext(e.packed(e.builder.icmp_signed("<", v, _ZERO)), _I64)


@_instruction(_AT, _VECTOR)
def largest_lane(e: _Emitter, v: ir.Value) -> ir.Value:
    """Maximum over the lanes as unsigned numbers."""
    return e.builder.zext(e.call(f"llvm.vector.reduce.umax.v{LANES}i32", _I32, v), _I64)


# --- Squared distances, in the arithmetic of the table of costs: cost[k] is w k^2 ---


@_instruction(_AT, _POINTER)
def none_of(e: _Emitter, cost: ir.Value) -> ir.Value:
    """Squared distance where there is no site, which loses against every real one: 2^31 - 1 or infinity."""
    return e.builder.zext(e.none(0), _I64)


@_instruction(types.float64, _POINTER, _AT)
def value_of(e: _Emitter, cost: ir.Value, bits: ir.Value) -> ir.Value:
    """A squared distance as a number."""
    b = e.builder
    return b.uitofp(bits, _F64) if e.is_exact(0) else b.fpext(b.bitcast(b.trunc(bits, _I32), _F32), _F64)


@_instruction(_VECTOR, _VECTOR, _VECTOR)
def seen(e: _Emitter, g: ir.Value, sign: ir.Value) -> ir.Value:
    """h of sites as voxels with this sign see them: of their own class the value, else 0."""
    return e.clamp(e.builder.xor(g, sign))


@_instruction(_VECTOR, _VECTOR, _VECTOR, _VECTOR)
def nearer_seen(e: _Emitter, g: ir.Value, other: ir.Value, sign: ir.Value) -> ir.Value:
    """The smaller h of two rows of sites."""
    b = e.builder
    g, other = b.xor(g, sign), b.xor(other, sign)
    return e.clamp(b.select(b.icmp_signed("<", g, other), g, other))


def _sum(e: _Emitter, v: ir.Value, cost: ir.Value, k: ir.Value, exact: bool) -> ir.Value:
    step = e.splat(e.load(cost, k, _I32))
    return e.builder.add(v, step) if exact else e.bits(e.builder.fadd(e.floats(v), e.floats(step)))


@_instruction(_VECTOR, _VECTOR, _VECTOR, _POINTER, _AT)
def improved(e: _Emitter, best: ir.Value, h: ir.Value, cost: ir.Value, k: ir.Value) -> ir.Value:
    """The minimum so far, and a site with value h that lies k voxels away."""
    return e.smaller(best, _sum(e, h, cost, k, e.is_exact(2)))


@_instruction(types.boolean, _VECTOR, _POINTER, _AT)
def any_above(e: _Emitter, best: ir.Value, cost: ir.Value, k: ir.Value) -> ir.Value:
    """Whether a site k voxels away could be nearer in any lane."""
    above = e.builder.icmp_unsigned("<", e.splat(e.load(cost, k, _I32)), best)
    return e.builder.icmp_unsigned("!=", e.packed(above), _I16(0))


@_instruction(types.boolean, _VECTOR, _POINTER, _AT, _VECTOR)
def any_within(e: _Emitter, h: ir.Value, cost: ir.Value, k: ir.Value, limit: ir.Value) -> ir.Value:
    """Whether a site k voxels away is within the limit in any lane."""
    within = e.builder.icmp_unsigned("<=", _sum(e, h, cost, k, e.is_exact(1)), limit)
    return e.builder.icmp_unsigned("!=", e.packed(within), _I16(0))


@_instruction(_VECTOR, _VECTOR, _POINTER)
def widened(e: _Emitter, v: ir.Value, cost: ir.Value) -> ir.Value:
    """A limit for everything that equals v but for rounding: v times 1 + 2^-20, or v."""
    if e.is_exact(1):
        return v
    return e.bits(e.builder.fmul(e.floats(v), e.floats(e.splat(_F32(1.0 + 2.0**-20)))))


# --- Codes of the scan (passes.py): the class in the top bit, below it distance - 1 or all ones for none ---

_CODE = types.uint16
_FOREGROUND, _NO_STEPS = _I16(0x8000), _I16(0x7FFF)


@_instruction(_CODE, types.uint8)
def class_code(e: _Emitter, mask: ir.Value) -> ir.Value:
    """The class bit of an element of a mask."""
    return e.builder.select(e.builder.icmp_unsigned("!=", mask, mask.type(0)), _FOREGROUND, _I16(0))


@_instruction(_CODE, _CODE, types.boolean)
def code_outside(e: _Emitter, kind: ir.Value, closed: ir.Value) -> ir.Value:
    """The voxel before the first: background in a closed image, else of the same class; no change lies beyond."""
    return e.builder.select(closed, _NO_STEPS, e.builder.or_(kind, _NO_STEPS))


@_instruction(_CODE, _CODE, _CODE)
def next_code(e: _Emitter, previous: ir.Value, code: ir.Value) -> ir.Value:
    """The code that a scan gives a voxel of the class of ``code`` after one with code ``previous``."""
    b = e.builder
    kind = b.and_(code, _FOREGROUND)
    steps = b.and_(previous, _NO_STEPS)
    longer = b.select(b.icmp_unsigned("==", steps, _NO_STEPS), steps, b.add(steps, _I16(1)))
    changed = b.icmp_signed("<", b.xor(previous, kind), _I16(0))
    return b.or_(kind, b.select(changed, _I16(0), longer))


@_instruction(_CODE, _CODE, _CODE)
def nearer_code(e: _Emitter, code: ir.Value, other: ir.Value) -> ir.Value:
    """The smaller distance of two codes of one voxel."""
    return e.smaller(code, other)


@_instruction(_VECTOR, _POINTER, _AT, _POINTER, _FLOAT, types.boolean)
def decoded(
    e: _Emitter, codes: ir.Value, at: ir.Value, cost: ir.Value, weight: ir.Value, signed: ir.Value
) -> ir.Value:
    """LANES codes as squared distances; signed: with the class in the sign bit, else 0 in the background."""
    b = e.builder
    code = b.zext(e.load(codes, at, ir.VectorType(_I16, LANES)), _BITS)
    none = _BITS([0x7FFF] * LANES)
    steps = b.and_(code, none)
    k = b.add(steps, _BITS([1] * LANES))
    square = b.mul(k, k)
    if not e.is_exact(2):
        square = e.bits(b.fmul(e.floats(e.splat(weight)), b.uitofp(square, _FLOATS)))
    square = b.select(b.icmp_unsigned("==", steps, none), e.splat(e.none(2)), square)
    kind = b.shl(code, _BITS([16] * LANES))
    return b.select(signed, b.or_(square, b.and_(kind, _SIGN)), b.and_(square, b.ashr(kind, _BITS([31] * LANES))))


@_instruction(_VECTOR, _VECTOR, _POINTER, _AT, types.boolean)
def bounded(e: _Emitter, v: ir.Value, cost: ir.Value, k: ir.Value, signed: ir.Value) -> ir.Value:
    """Closed images: for foreground there is a site k voxels away, beyond the border."""
    b = e.builder
    sign = b.and_(v, _SIGN)
    closer = b.or_(e.smaller(b.xor(v, sign), e.splat(e.load(cost, k, _I32))), sign)
    return b.select(signed, b.select(b.icmp_signed("<", v, _ZERO), closer, v), closer)


@_instruction(_VECTOR, _VECTOR, _POINTER, types.boolean, _FLOAT)
def distance(e: _Emitter, v: ir.Value, cost: ir.Value, squared: ir.Value, scale: ir.Value) -> ir.Value:
    """The result, for squared distances with the class in the sign bit."""
    b = e.builder
    sign = b.and_(v, _SIGN)
    square = b.xor(v, sign)
    value = e.floats(square)
    if e.is_exact(1):
        none = b.icmp_unsigned("==", square, e.splat(e.none(1)))
        value = b.select(none, e.floats(_BITS([0x7F800000] * LANES)), b.uitofp(square, _FLOATS))
    value = b.select(squared, value, e.call(f"llvm.sqrt.v{LANES}f32", _FLOATS, value))
    return b.or_(e.bits(b.fmul(value, e.floats(e.splat(scale)))), sign)
