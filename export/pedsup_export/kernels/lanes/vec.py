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
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES: Final = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BITS = ir.VectorType(ir.IntType(1), LANES)
_I32 = ir.IntType(32)
_INTS = ir.VectorType(_I32, LANES)


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
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


@register_model(Mask16Type)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _BITS)


def _operator(
    function: Any, arguments: tuple[Any, ...], result: Any, emit: Callable[..., Any]
) -> None:
    """Teach numba one operator on vectors: its typing and the instruction it becomes."""

    class Template(AbstractTemplate):
        def generic(self, args: tuple[Any, ...], kws: Any) -> Any:
            return signature(result, *args) if args == arguments else None

    infer_global(function)(Template)

    @lower_builtin(function, *arguments)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
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


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, vector: Any) -> Any:
    """The address of `array[at]` as a pointer to a vector."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTS, [0] * LANES))


@intrinsic
def splat(_typing: Any, value: Any) -> Any:
    """One float32 in all lanes."""

    def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return _splat(builder, args[0], _FLOATS)

    return (f32x16(types.float32), emit) if value == types.float32 else None


@intrinsic
def load(_typing: Any, array: Any, at: Any) -> Any:
    """`array[at : at + 16]` of a contiguous float32 array; no bounds check."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        result = builder.load(_pointer(context, builder, sig.args[0], args[0], args[1], _FLOATS))
        result.align = 4
        return result

    return f32x16(array, types.intp), emit


@intrinsic
def store(_typing: Any, array: Any, at: Any, value: Any) -> Any:
    """`array[at : at + 16] = value` of a contiguous float32 array; no bounds check."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        target = _pointer(context, builder, sig.args[0], args[0], args[1], _FLOATS)
        builder.store(args[2], target, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), emit


@intrinsic
def store_bytes(_typing: Any, array: Any, at: Any, value: Any) -> Any:
    """The low byte of each lane's integer part to `array[at : at + 16]` (uint8)."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        octets = ir.VectorType(ir.IntType(8), LANES)
        target = _pointer(context, builder, sig.args[0], args[0], args[1], octets)
        whole = builder.fptosi(args[2], _INTS)
        builder.store(builder.trunc(whole, octets), target, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), emit


@intrinsic
def store_mask(_typing: Any, array: Any, at: Any, value: Any) -> Any:
    """0 or 1 per lane to `array[at : at + 16]` (uint8)."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        octets = ir.VectorType(ir.IntType(8), LANES)
        target = _pointer(context, builder, sig.args[0], args[0], args[1], octets)
        builder.store(builder.zext(args[2], octets), target, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, mask16), emit


@intrinsic
def where(_typing: Any, mask: Any, yes: Any, no: Any) -> Any:
    """Per lane `yes` where the mask is set, else `no`."""

    def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return f32x16(mask16, f32x16, f32x16), emit


@intrinsic
def any_lane(_typing: Any, mask: Any) -> Any:
    """Whether the mask is set in some lane."""

    def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        word = builder.bitcast(args[0], ir.IntType(LANES))
        return builder.icmp_unsigned("!=", word, ir.Constant(ir.IntType(LANES), 0))

    return types.boolean(mask16), emit


def _unary(name: str, documentation: str) -> Any:
    """A function of one vector that LLVM has as `llvm.<name>`; exact, as IEEE 754 demands."""

    def typed(_typing: Any, _value: Any) -> Any:
        def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
            kind = ir.FunctionType(_FLOATS, [_FLOATS])
            full = f"llvm.{name}.v{LANES}f32"
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), args)

        return f32x16(f32x16), emit

    typed.__name__, typed.__doc__ = name, documentation
    return intrinsic(typed)


sqrt = _unary("sqrt", "The square root of each lane.")
absolute = _unary("fabs", "The magnitude of each lane.")


@intrinsic
def truncate(_typing: Any, value: Any) -> Any:
    """The integer part of each lane; magnitudes below 2**31."""

    def emit(_context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        return builder.sitofp(builder.fptosi(args[0], _INTS), _FLOATS)

    return f32x16(f32x16), emit


@intrinsic
def load_transposed(_typing: Any, source: Any, rows: Any, column: Any, target: Any, at: Any) -> Any:
    """Turn a 16 x 16 square around: row r is `source[rows[r] + column :][:16]`.

    `target[at + 16 * c + r]` becomes column c of row r. Four rounds, each of which exchanges
    halves between rows at distance 8, 4, 2, 1.
    """

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        offsets = context.make_array(sig.args[1])(context, builder, args[1]).data
        square = []
        for row in range(LANES):
            start = builder.load(builder.gep(offsets, [ir.Constant(ir.IntType(64), row)]))
            where_ = builder.add(start, args[2])
            line = builder.load(_pointer(context, builder, sig.args[0], args[0], where_, _FLOATS))
            line.align = 4
            square.append(line)
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
        for column, line in enumerate(square):
            place = builder.add(args[4], ir.Constant(ir.IntType(64), column * LANES))
            builder.store(
                line, _pointer(context, builder, sig.args[3], args[3], place, _FLOATS), align=4
            )
        return context.get_dummy_value()

    return types.void(source, rows, types.intp, target, types.intp), emit


def _bitcast(source: Any, target: Any, documentation: str) -> Any:
    def typed(_typing: Any, _value: Any) -> Any:
        def emit(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), emit

    typed.__doc__ = documentation
    return intrinsic(typed)


float_bits = _bitcast(types.float32, types.uint32, "The bits of one float32.")
bits_float = _bitcast(types.uint32, types.float32, "The float32 of these bits.")
