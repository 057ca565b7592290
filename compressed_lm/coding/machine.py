"""LLVM intrinsics for Numba kernels."""

import numba
from llvmlite import ir
from numba.extending import intrinsic


@intrinsic
def load(typing_context, address):
    """Returns the 8 bytes at an address as a little-endian uint64. The address need not be aligned."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return numba.uint64(numba.uintp), generate


@intrinsic
def prefetch(typing_context, address):
    """Prefetches the cache line at an address; invalid addresses are allowed."""

    def generate(context, builder, signature, arguments):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], fnty=kind)
        # Arguments: read, all cache levels, data.
        builder.call(function, [builder.inttoptr(arguments[0], pointer), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return numba.void(numba.uintp), generate


@intrinsic
def trailing_zeros(typing_context, x):
    """Returns the number of zero bits of a uint64 below the lowest one bit; 64 for 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return numba.uint64(numba.uint64), generate


@intrinsic
def multiply_high(typing_context, x, y):
    """Returns the upper 64 bits of the 128-bit product of two uint64."""

    def generate(context, builder, signature, arguments):
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return numba.uint64(numba.uint64, numba.uint64), generate


def _without_count(context, builder, kind, array):
    found = context.make_array(kind)(context, builder, array)
    found.meminfo = found.meminfo.type(None)
    return found._getvalue()


@intrinsic
def borrowed(typing_context, array):
    """Returns the same array without reference counting; valid while the caller keeps the array itself.

    Numba updates reference counts atomically in every inlined function, which can take longer than the function itself.
    """

    def generate(context, builder, signature, arguments):
        return _without_count(context, builder, signature.return_type, arguments[0])

    return array(array), generate


@intrinsic
def borrowed_all(typing_context, arrays):
    """Returns `borrowed` of each array in a tuple."""

    def generate(context, builder, signature, arguments):
        kinds = signature.return_type.types
        found = [
            _without_count(context, builder, kind, builder.extract_value(arguments[0], i))
            for i, kind in enumerate(kinds)
        ]
        return context.make_tuple(builder, signature.return_type, found)

    return arrays(arrays), generate
