"""What compiled loops ask of the processor that Python has no word for."""

import numba
from llvmlite import ir
from numba.extending import intrinsic


@intrinsic
def load(typing_context, address):
    """The 8 bytes at an address, which need not be aligned, as a little-endian uint64."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return numba.uint64(numba.uintp), generate


@intrinsic
def trailing_zeros(typing_context, x):
    """How many bits of a uint64 are 0 below the lowest that is 1; 64 for 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return numba.uint64(numba.uint64), generate
