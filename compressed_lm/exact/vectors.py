"""LLVM code for loops of the exact model: 32-bit arithmetic, lines of 64 bytes, calls by address.

Numba computes in 64 bits. With these functions of int32 a loop stays in 32 bits, and LLVM vectorises it.
"""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from compressed_lm.exact.products import BLOCK, I8, I32, splat, vector


def _binary(operation: str) -> Callable:
    def function(typing_context, x, y):
        def generate(context, builder, signature, arguments):
            return getattr(builder, operation)(*arguments)

        return numba.int32(numba.int32, numba.int32), generate

    return intrinsic(function)


add, subtract, multiply, shift_right, shift_left, both = (
    _binary(operation) for operation in ("add", "sub", "mul", "ashr", "shl", "and_")
)


def _extreme(comparison: str) -> Callable:
    def function(typing_context, x, y):
        def generate(context, builder, signature, arguments):
            return builder.select(builder.icmp_signed(comparison, *arguments), *arguments)

        return numba.int32(numba.int32, numba.int32), generate

    return intrinsic(function)


smaller, larger = _extreme("<"), _extreme(">")


@intrinsic
def to_float(typing_context, x):
    """Returns an int32 as float32, rounded to the nearest."""

    def generate(context, builder, signature, arguments):
        return builder.sitofp(arguments[0], ir.FloatType())

    return numba.float32(numba.int32), generate


# The functions below are written in LLVM only because Numba takes long to compile many small calls.


def _signed(b: ir.IRBuilder, comparison: str, x: Any, y: Any) -> Any:
    """Returns x if the comparison with y holds, otherwise y."""
    return b.select(b.icmp_signed(comparison, x, y), x, y)


@intrinsic
def rescale(typing_context, x, multiplier, shift):
    """Returns `integer_ops.rescale` of int32 numbers."""

    def generate(context, b, signature, arguments):
        x, multiplier, shift = arguments
        low = b.ashr(b.mul(b.and_(x, I32(0xFFF)), multiplier), I32(12))
        partial = b.add(b.mul(b.ashr(x, I32(12)), multiplier), low)
        return b.ashr(b.add(partial, b.shl(I32(1), b.sub(shift, I32(13)))), b.sub(shift, I32(12)))

    return numba.int32(numba.int32, numba.int32, numba.int32), generate


@intrinsic
def clip(typing_context, x, low, high):
    """Returns an int32 clipped to the range low to high."""

    def generate(context, b, signature, arguments):
        x, low, high = arguments
        return _signed(b, "<", _signed(b, ">", x, low), high)

    return numba.int32(numba.int32, numba.int32, numba.int32), generate


@intrinsic
def floor_quotient(typing_context, x, divisor, inverse):
    """Returns floor(x / divisor) of int32, if it is less than 2**20 in magnitude; a larger one is cut near 2**20.

    The float32 estimate x * inverse has an error below one; the integer remainder corrects it. This gives the floor of
    an integer division, which processors have not as a vector instruction.
    """

    def generate(context, b, signature, arguments):
        x, divisor, inverse = arguments
        estimate, bound = b.fmul(b.sitofp(x, inverse.type), inverse), float(1 << 20)
        for comparison, limit in (("<", bound), (">", -bound)):
            limit = ir.Constant(inverse.type, limit)
            estimate = b.select(b.fcmp_ordered(comparison, estimate, limit), estimate, limit)
        q = b.fptosi(estimate, I32)
        rest = b.sub(x, b.mul(q, divisor))
        q = b.add(q, b.zext(b.icmp_signed(">=", rest, divisor), I32))
        return b.sub(q, b.zext(b.icmp_signed("<", rest, I32(0)), I32))

    return numba.int32(numba.int32, numba.int32, numba.float32), generate


@intrinsic
def exp2_negative(typing_context, x):
    """Returns `integer_ops.exp2_negative` of an int32."""

    def generate(context, b, signature, arguments):
        (x,) = arguments
        t, whole = b.and_(x, I32(255)), _signed(b, "<", b.ashr(x, I32(8)), I32(17))
        value = I32(1296)
        for constant in (7575, 22662, 1 << 15):
            value = b.sub(I32(constant), b.ashr(b.mul(value, t), I32(8)))
        return b.ashr(b.add(value, b.ashr(b.shl(I32(1), whole), I32(1))), whole)

    return numba.int32(numba.int32), generate


@intrinsic
def put_lane(typing_context, address, lane, value):
    """Writes one of 16 int32 at an address. It stores the whole line: a load would wait for a store of a part."""

    def generate(context, b, signature, arguments):
        address, lane, value = arguments
        place = b.inttoptr(address, vector(I32, BLOCK).as_pointer())
        here = b.icmp_signed("==", splat(b, lane, BLOCK), ir.Constant(vector(I32, BLOCK), list(range(BLOCK))))
        b.store(b.select(here, splat(b, value, BLOCK), b.load(place, align=64)), place, align=64)
        return context.get_dummy_value()

    return numba.void(numba.int64, numba.int32, numba.int32), generate


@intrinsic
def put_bytes(typing_context, address, source, shift):
    """Writes 16 bytes to bits shift .. shift + 7 of 16 int32."""

    def generate(context, b, signature, arguments):
        address, source, shift = arguments
        wide = vector(I32, BLOCK)
        place = b.inttoptr(address, wide.as_pointer())
        new = b.zext(b.load(b.inttoptr(source, vector(I8, BLOCK).as_pointer()), align=1), wide)
        keep = b.not_(splat(b, b.shl(I32(255), shift), BLOCK))
        line = b.or_(b.and_(b.load(place, align=64), keep), b.shl(new, splat(b, shift, BLOCK)))
        b.store(line, place, align=64)
        return context.get_dummy_value()

    return numba.void(numba.int64, numba.int64, numba.int32), generate


@intrinsic
def call(typing_context, address, state, n):
    """Calls the compiled function (state, n) -> None at an address from `address_of`.

    A direct call makes Numba compile the callee again within each caller, which takes seconds for `kernels.forward`.
    """
    arguments_of = numba.types.none, (state, numba.int64)

    def generate(context, b, signature, arguments):
        kind = context.call_conv.get_function_type(*arguments_of)
        function = b.inttoptr(arguments[0], kind.as_pointer())
        status, _ = context.call_conv.call_function(b, function, *arguments_of, arguments[1:])
        with cgutils.if_unlikely(b, status.is_error):
            context.call_conv.return_status_propagate(b, status)
        return context.get_dummy_value()

    return numba.void(numba.int64, state, numba.int64), generate


def address_of(function: Any, state: Any) -> int:
    """Returns the address of a compiled function (state, int) for `call`; compiles it for the type of `state`."""
    kinds = (numba.typeof(state), numba.int64)
    function.compile(kinds)
    compiled = function.overloads[kinds]
    return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
