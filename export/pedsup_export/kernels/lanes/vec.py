"""Sixteen float32 side by side, as a value in numba code.

numba has no vector type, and LLVM's loop vectorizer keeps running sums in memory where it
cannot prove that arrays do not overlap. `F32x16` is LLVM's own `<16 x float>`: a kernel reads
like the scalar C code it must reproduce, and every sum stays in a register (one of AVX-512's,
two of AVX2's, four of NEON's or SSE2's).

Each operation is one IEEE float32 operation per lane, in the order written: no flags that let
LLVM reorder, contract `a * b + c` or approximate a division. Nothing here can be called from
plain Python.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.base import BaseContext
from numba.core.datamodel import DataModelManager
from numba.core.typing import Context, Signature
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES: Final = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_I32 = ir.IntType(32)
_INTS = ir.VectorType(_I32, LANES)
Builder: TypeAlias = ir.IRBuilder
Values: TypeAlias = Sequence[ir.Value]
Typed: TypeAlias = "tuple[Signature, Callable[..., ir.Value]] | None"
"""What an intrinsic gives numba: its signature and what emits it; None for other arguments."""


class F32x16Type(types.Type):
    """The numba type of sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="f32x16")


class Mask16Type(types.Type):
    """The numba type of sixteen booleans, the result of a comparison."""

    def __init__(self) -> None:
        super().__init__(name="mask16")


f32x16, mask16 = F32x16Type(), Mask16Type()


@register_model(F32x16Type)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, manager: DataModelManager, kind: types.Type) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(Mask16Type)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: DataModelManager, kind: types.Type) -> None:
        super().__init__(manager, kind, _BITS)


def _operator(
    function: Callable[..., object],
    arguments: tuple[types.Type, ...],
    result: types.Type,
    emit: Callable[..., ir.Value],
) -> None:
    """Teach numba one operator on vectors: its typing and the instruction it becomes."""

    class Template(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], kws: object) -> Signature | None:
            return signature(result, *args) if args == arguments else None

    infer_global(function)(Template)

    @lower_builtin(function, *arguments)
    def _lower(context: BaseContext, builder: Builder, sig: Signature, args: Values) -> ir.Value:
        return emit(builder, *args)


for _function, _emit in {
    operator.add: lambda b, x, y: b.fadd(x, y),
    operator.iadd: lambda b, x, y: b.fadd(x, y),
    operator.sub: lambda b, x, y: b.fsub(x, y),
    operator.mul: lambda b, x, y: b.fmul(x, y),
    operator.truediv: lambda b, x, y: b.fdiv(x, y),
}.items():
    _operator(_function, (f32x16, f32x16), f32x16, _emit)
_operator(operator.neg, (f32x16,), f32x16, lambda b, x: b.fneg(x))
# Ordered comparisons: false when a side is NaN, as in C. `!=` is true then, as in C.
for _function, _sign in {
    operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">=", operator.eq: "==",
}.items():  # fmt: skip
    _operator(_function, (f32x16, f32x16), mask16, lambda b, x, y, s=_sign: b.fcmp_ordered(s, x, y))
_operator(operator.ne, (f32x16, f32x16), mask16, lambda b, x, y: b.fcmp_unordered("!=", x, y))
_operator(operator.and_, (mask16, mask16), mask16, lambda b, x, y: b.and_(x, y))
_operator(operator.or_, (mask16, mask16), mask16, lambda b, x, y: b.or_(x, y))
_operator(operator.ior, (mask16, mask16), mask16, lambda b, x, y: b.or_(x, y))
_operator(operator.invert, (mask16,), mask16, lambda b, x: b.not_(x))


def _pointer(
    context: BaseContext,
    builder: Builder,
    kind: types.Type,
    array: ir.Value,
    at: ir.Value,
    vector: ir.Type,
) -> ir.Value:
    """The address of `array[at]` as a pointer to a vector."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _splat(builder: Builder, value: ir.Value, vector: ir.Type) -> ir.Value:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))


@intrinsic
def splat(_typing: Context, value: types.Type) -> Typed:
    """One float32 in all lanes."""

    def emit(_context: BaseContext, builder: Builder, _sig: Signature, args: Values) -> ir.Value:
        return _splat(builder, args[0], _FLOATS)

    return (f32x16(types.float32), emit) if value == types.float32 else None


@intrinsic
def load(_typing: Context, array: types.Type, at: types.Type) -> Typed:
    """`array[at : at + 16]` of a contiguous float32 array; no bounds check."""

    def emit(context: BaseContext, builder: Builder, sig: Signature, args: Values) -> ir.Value:
        result = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1], _FLOATS))
        result.align = 4
        return result

    return f32x16(array, types.intp), emit


@intrinsic
def store(_typing: Context, array: types.Type, at: types.Type, value: types.Type) -> Typed:
    """`array[at : at + 16] = value` of a contiguous float32 array; no bounds check."""

    def emit(context: BaseContext, builder: Builder, sig: Signature, args: Values) -> ir.Value:
        target = _pointer(context, builder, sig.args[0], args[0], args[1], _FLOATS)
        builder.store(args[2], target, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), emit


@intrinsic
def store_bytes(_typing: Context, array: types.Type, at: types.Type, value: types.Type) -> Typed:
    """The low byte of each lane's integer part to `array[at : at + 16]` (uint8)."""

    def emit(context: BaseContext, builder: Builder, sig: Signature, args: Values) -> ir.Value:
        octets = ir.VectorType(ir.IntType(8), LANES)
        target = _pointer(context, builder, sig.args[0], args[0], args[1], octets)
        whole = builder.fptosi(args[2], _INTS)
        builder.store(builder.trunc(whole, octets), target, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), emit


@intrinsic
def store_mask(_typing: Context, array: types.Type, at: types.Type, value: types.Type) -> Typed:
    """0 or 1 per lane to `array[at : at + 16]` (uint8)."""

    def emit(context: BaseContext, builder: Builder, sig: Signature, args: Values) -> ir.Value:
        octets = ir.VectorType(ir.IntType(8), LANES)
        target = _pointer(context, builder, sig.args[0], args[0], args[1], octets)
        builder.store(builder.zext(args[2], octets), target, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, mask16), emit


@intrinsic
def where(_typing: Context, mask: types.Type, yes: types.Type, no: types.Type) -> Typed:
    """Per lane `yes` where the mask is set, else `no`."""

    def emit(_context: BaseContext, builder: Builder, _sig: Signature, args: Values) -> ir.Value:
        return builder.select(*args)

    return f32x16(mask16, f32x16, f32x16), emit


@intrinsic
def any_lane(_typing: Context, mask: types.Type) -> Typed:
    """Whether the mask is set in some lane."""

    def emit(_context: BaseContext, builder: Builder, _sig: Signature, args: Values) -> ir.Value:
        word = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", word, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask16), emit


def _unary(name: str, documentation: str) -> Any:
    """A function of one vector that LLVM has as `llvm.<name>`; exact, as IEEE 754 demands."""

    def typed(_typing: Context, _value: types.Type) -> Typed:
        def emit(
            _context: BaseContext, builder: Builder, _sig: Signature, args: Values
        ) -> ir.Value:
            kind = ir.FunctionType(_FLOATS, [_FLOATS])
            full = f"llvm.{name}.v{LANES}f32"
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), args)

        return f32x16(f32x16), emit

    typed.__name__, typed.__doc__ = name, documentation
    return intrinsic(typed)


sqrt = _unary("sqrt", "The square root of each lane.")
absolute = _unary("fabs", "The magnitude of each lane.")


@intrinsic
def truncate(_typing: Context, value: types.Type) -> Typed:
    """The integer part of each lane; magnitudes below 2**31."""

    def emit(_context: BaseContext, builder: Builder, _sig: Signature, args: Values) -> ir.Value:
        return builder.sitofp(builder.fptosi(args[0], _INTS), _FLOATS)

    return f32x16(f32x16), emit


def _turned(builder: Builder, square: list[ir.Value]) -> list[ir.Value]:
    """The columns of sixteen rows: in four rounds, rows at distance 8, 4, 2, 1 exchange halves."""
    distance = LANES // 2
    while distance:
        low = [c if not c & distance else c - distance + LANES for c in range(LANES)]
        high = [c + distance if not c & distance else c + LANES for c in range(LANES)]
        turned = list(square)
        for row in range(LANES):
            if not row & distance:
                pair = square[row], square[row + distance]
                turned[row] = builder.shuffle_vector(*pair, ir.Constant(_INTS, low))
                turned[row + distance] = builder.shuffle_vector(*pair, ir.Constant(_INTS, high))
        square = turned
        distance //= 2
    return square


@intrinsic
def load_transposed(
    _typing: Context,
    source: types.Type,
    rows: types.Type,
    column: types.Type,
    target: types.Type,
    at: types.Type,
) -> Typed:
    """Turn a 16 x 16 square around: row r is `source[rows[r] + column :][:16]`.

    `target[at + 16 * c + r]` becomes column c of row r.
    """

    def emit(context: BaseContext, builder: Builder, sig: Signature, args: Values) -> ir.Value:
        offsets = context.make_array(sig.args[1])(context, builder, args[1]).data
        square = []
        for row in range(LANES):
            start = builder.load(builder.gep(offsets, [ir.Constant(ir.IntType(64), row)]))
            where_ = builder.add(start, args[2])
            line = builder.load(_pointer(context, builder, sig.args[0], args[0], where_, _FLOATS))
            line.align = 4
            square.append(line)
        for column, line in enumerate(_turned(builder, square)):
            place = builder.add(args[4], ir.Constant(ir.IntType(64), column * LANES))
            builder.store(
                line, _pointer(context, builder, sig.args[3], args[3], place, _FLOATS), align=4
            )
        return context.get_dummy_value()

    return types.void(source, rows, types.intp, target, types.intp), emit


def _bitcast(source: types.Type, target: types.Type, documentation: str) -> Any:
    def typed(_typing: Context, _value: types.Type) -> Typed:
        def emit(context: BaseContext, builder: Builder, _sig: Signature, args: Values) -> ir.Value:
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), emit

    typed.__doc__ = documentation
    return intrinsic(typed)


float_bits = _bitcast(types.float32, types.uint32, "The bits of one float32.")
bits_float = _bitcast(types.uint32, types.float32, "The float32 of these bits.")
