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
def prefetch(typing_context, address):
    """Asks for the memory at an address, which will be read soon; any address will do."""

    def generate(context, builder, signature, arguments):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], fnty=kind)
        # To be read, not written; to be kept in all caches; data, not instructions.
        builder.call(function, [builder.inttoptr(arguments[0], pointer), number(0), number(3), number(1)])
        return context.get_dummy_value()

    return numba.void(numba.uintp), generate


@intrinsic
def trailing_zeros(typing_context, x):
    """How many bits of a uint64 are 0 below the lowest that is 1; 64 for 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return numba.uint64(numba.uint64), generate


@intrinsic
def multiply_high(typing_context, x, y):
    """The upper 64 of the 128 bits of the product of two uint64."""

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
    """The same array without the count of who refers to it, for as long as the caller keeps the array itself.

    Numba counts at every function that it inlines, atomically, which can take longer than what the function does.
    """

    def generate(context, builder, signature, arguments):
        return _without_count(context, builder, signature.return_type, arguments[0])

    return array(array), generate


@intrinsic
def borrowed_all(typing_context, arrays):
    """`borrowed` for each of a tuple of arrays."""

    def generate(context, builder, signature, arguments):
        kinds = signature.return_type.types
        found = [
            _without_count(context, builder, kind, builder.extract_value(arguments[0], i))
            for i, kind in enumerate(kinds)
        ]
        return context.make_tuple(builder, signature.return_type, found)

    return arrays(arrays), generate
