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


@intrinsic
def bytes_between(typing_context, address, low, high):
    """Returns which of 64 bytes are in a range, as a uint64: bit j is set if low <= byte j <= high.

    LLVM compiles this to the vector comparisons of the processor. 64 bytes from the address must be readable; it need
    not be aligned.
    """

    def generate(context, builder, signature, arguments):
        address, low, high = arguments
        vector = ir.VectorType(ir.IntType(8), 64)
        found = builder.load(builder.inttoptr(address, vector.as_pointer()), align=1)
        above = builder.sub(found, _splat(builder, low, vector))
        inside = builder.icmp_unsigned("<=", above, _splat(builder, builder.sub(high, low), vector))
        return builder.bitcast(inside, ir.IntType(64))

    return numba.uint64(numba.uintp, numba.uint8, numba.uint8), generate


@intrinsic
def bytes_repeated(typing_context, address):
    """Returns which of 64 bytes equal the byte after them, as a uint64. 65 bytes must be readable."""

    def generate(context, builder, signature, arguments):
        vector = ir.VectorType(ir.IntType(8), 64)
        after = builder.add(arguments[0], ir.Constant(arguments[0].type, 1))
        pair = [builder.load(builder.inttoptr(at, vector.as_pointer()), align=1) for at in (arguments[0], after)]
        return builder.bitcast(builder.icmp_unsigned("==", *pair), ir.IntType(64))

    return numba.uint64(numba.uintp), generate


def _splat(builder, byte, vector):
    """Returns a vector of equal bytes."""
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), byte, ir.IntType(32)(0))
    return builder.shuffle_vector(
        single, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), 64), None)
    )


@intrinsic
def count_ones(typing_context, x):
    """Returns the number of one bits of a uint64."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return numba.uint64(numba.uint64), generate


@intrinsic
def select(typing_context, condition, yes, no):
    """Returns `yes if condition else no` of uint64, compiled to a conditional move on every processor."""

    def generate(context, builder, signature, arguments):
        chosen = builder.select(builder.trunc(arguments[0], ir.IntType(1)), arguments[1], arguments[2])
        chosen.set_metadata("unpredictable", builder.module.add_metadata([]))
        return chosen

    return numba.uint64(numba.boolean, numba.uint64, numba.uint64), generate


def _loads(bits, about):
    """Returns an intrinsic that reads a number of bits at an address."""

    def load(typing_context, address):
        def generate(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            return builder.zext(builder.load(pointer, align=1), ir.IntType(64))

        return numba.uint64(numba.uintp), generate

    load.__doc__ = about
    return intrinsic(load)


def _stores(bits, about):
    """Returns an intrinsic that writes a number of bits at an address."""

    def store(typing_context, address, value):
        def generate(context, builder, signature, arguments):
            pointer = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            builder.store(builder.trunc(arguments[1], ir.IntType(bits)), pointer, align=1)
            return context.get_dummy_value()

        return numba.void(numba.uintp, numba.uint64), generate

    store.__doc__ = about
    return intrinsic(store)


load_half = _loads(32, "Returns the 4 bytes at an address as a little-endian uint64. The address need not be aligned.")
load_byte = _loads(8, "Returns the byte at an address as a uint64.")
store = _stores(64, "Writes a uint64 to 8 bytes at an address, little-endian. The address need not be aligned.")
store_half = _stores(32, "Writes the lower half of a uint64 to 4 bytes at an address, little-endian, unaligned too.")
store_byte = _stores(8, "Writes the lowest byte of a uint64 to an address.")


@intrinsic
def low_bytes_differ(typing_context, words, address):
    """Returns which of 64 uint32 have another lowest byte than 64 bytes, as a uint64. Both must be readable."""

    def generate(context, builder, signature, arguments):
        kinds = ir.VectorType(ir.IntType(32), 64), ir.VectorType(ir.IntType(8), 64)
        wide, narrow = (
            builder.load(builder.inttoptr(at, kind.as_pointer()), align=1)
            for at, kind in zip(arguments, kinds, strict=True)
        )
        return builder.bitcast(builder.icmp_unsigned("!=", builder.trunc(wide, kinds[1]), narrow), ir.IntType(64))

    return numba.uint64(numba.uintp, numba.uintp), generate
