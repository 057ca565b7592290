"""Products of bytes in LLVM: rows times a matrix, with the fastest instructions of the processor.

Numba has no vector types, and LLVM does not find these instructions in loops. Therefore the loops are generated as LLVM
vectors. All instructions give the same bits, since every sum fits into int32. Numba chooses the processor; with
NUMBA_CPU_NAME and NUMBA_CPU_FEATURES another one can be chosen, as the tests do.
"""

import abc
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

GROUP = 4
"""Neighbouring inputs of a matrix that are stored together, as instructions for products of bytes read them."""

BLOCK = 16
"""Outputs of a matrix that are stored together."""

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def vector(kind: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(kind, lanes)


def _shuffle(b: ir.IRBuilder, x: Any, y: Any, lanes: list[int]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(vector(I32, len(lanes)), lanes))


def splat(b: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    blank = ir.Constant(vector(scalar.type, lanes), ir.Undefined)
    return _shuffle(b, b.insert_element(blank, scalar, I32(0)), blank, [0] * lanes)


def _part(b: ir.IRBuilder, x: Any, i: int, lanes: int) -> Any:
    return _shuffle(b, x, x, list(range(i * lanes, (i + 1) * lanes)))


def _call(b: ir.IRBuilder, name: str, result: ir.Type, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


class _Instructions(abc.ABC):
    """How a processor adds products of bytes to 16 sums.

    Attributes:
        parts: number of accumulators of 16 sums, each of type `kind`.
        single: blocks of 16 outputs that are computed together for one row.
        columns, rows: blocks and rows that are computed together for several rows, largest number of rows first.
    """

    kind: ir.Type
    parts: int
    single: int
    columns: int
    rows: tuple[int, ...]

    def __init__(self, builder: ir.IRBuilder, unsigned_matrix: bool) -> None:
        self.b, self.unsigned_matrix = builder, unsigned_matrix

    @abc.abstractmethod
    def matrix(self, sixteen: Any) -> list[Any]:
        """Returns operands of `add` from 64 bytes of the matrix."""

    @abc.abstractmethod
    def row(self, four: Any) -> Any:
        """Returns the operand of `add` from 4 bytes of a row, int32."""

    @abc.abstractmethod
    def add(self, total: Any, matrix: Any, row: Any) -> Any:
        """Returns an accumulator with the products of operands of `matrix` and `row` added."""

    @abc.abstractmethod
    def sums(self, totals: list[Any]) -> Any:
        """Returns 16 sums, int32[16], of the accumulators."""


class _Vnni512(_Instructions):
    kind, parts, single, columns = vector(I32, 16), 1, 8, 2
    rows: tuple[int, ...] = (8, 4, 2, 1)
    name = "llvm.x86.avx512.vpdpbusd.512"

    def matrix(self, sixteen: Any) -> list[Any]:
        whole = self.b.bitcast(sixteen, vector(I32, 16))
        return [_part(self.b, whole, i, self.kind.count) for i in range(self.parts)] if self.parts > 1 else [whole]

    def row(self, four: Any) -> Any:
        return splat(self.b, four, self.kind.count)

    def add(self, total: Any, matrix: Any, row: Any) -> Any:
        unsigned, signed = (matrix, row) if self.unsigned_matrix else (row, matrix)
        return _call(self.b, self.name, self.kind, total, unsigned, signed)

    def sums(self, totals: list[Any]) -> Any:
        return totals[0] if self.parts == 1 else _shuffle(self.b, totals[0], totals[1], list(range(16)))


class _Vnni256(_Vnni512):
    kind, parts, single, columns, rows = vector(I32, 8), 2, 4, 1, (4, 2, 1)
    name = "llvm.x86.avx512.vpdpbusd.256"


class _Pairs(_Instructions):
    """Products of neighbouring 16-bit numbers are added in pairs; each sum has two accumulators until the end."""

    kind, parts, single, columns, rows = vector(I32, 8), 4, 2, 1, (2, 1)

    def _wide(self, x: Any, unsigned: bool) -> Any:
        kind = vector(I16, x.type.count)
        return self.b.zext(x, kind) if unsigned else self.b.sext(x, kind)

    def matrix(self, sixteen: Any) -> list[Any]:
        return [self._wide(_part(self.b, sixteen, i, 16), self.unsigned_matrix) for i in range(4)]

    def row(self, four: Any) -> Any:
        wide = self._wide(self.b.bitcast(four, vector(I8, 4)), not self.unsigned_matrix)
        return self.b.bitcast(splat(self.b, self.b.bitcast(wide, I64), 4), vector(I16, 16))

    def add(self, total: Any, matrix: Any, row: Any) -> Any:
        b = self.b
        product = b.mul(*(b.sext(x, vector(I32, 16)) for x in (matrix, row)))
        even, odd = (_shuffle(b, product, product, list(range(i, 16, 2))) for i in (0, 1))
        return b.add(total, b.add(even, odd))

    def sums(self, totals: list[Any]) -> Any:
        b = self.b
        halves = []
        for x, y in (totals[:2], totals[2:]):
            even, odd = (_shuffle(b, x, y, list(range(i, 16, 2))) for i in (0, 1))
            halves.append(b.add(even, odd))
        return _shuffle(b, halves[0], halves[1], list(range(16)))


class _Avx2(_Pairs):
    def add(self, total: Any, matrix: Any, row: Any) -> Any:
        return self.b.add(total, _call(self.b, "llvm.x86.avx2.pmadd.wd", self.kind, matrix, row))


def _instructions(context: Any) -> type[_Instructions]:
    """Returns the fastest instructions of the processor for which Numba compiles."""
    features = set(context.codegen().magic_tuple()[2].split(","))
    if {"+avx512vnni", "+avx512vl"} <= features:
        return _Vnni512
    if "+avxvnni" in features:
        return _Vnni256
    return _Avx2 if "+avx2" in features else _Pairs


class _Product:
    """Generates the loops of a matrix product."""

    def __init__(self, context: Any, builder: ir.IRBuilder, arguments: list[Any], unsigned_matrix: bool) -> None:
        self.b = builder
        self.how = _instructions(context)(builder, unsigned_matrix)
        (
            self.x,
            self.x_stride,
            self.n_rows,
            self.m,
            self.m_stride,
            self.n_blocks,
            self.n_groups,
            self.start,
            self.out,
            self.out_stride,
        ) = arguments

    def generate(self) -> None:
        b, how = self.b, self.how
        if not how.unsigned_matrix:  # its rows come in pairs, see `product_signed`
            self._several(tuple(n for n in how.rows if n > 1))
            return
        with b.if_else(b.icmp_signed("==", self.n_rows, I64(1))) as (one, several):
            with one:
                self._over(self.n_blocks, (how.single, 1), lambda column, n: self._tile(I64(0), 1, column, n))
            with several:
                self._several(how.rows)

    def _several(self, sizes: tuple[int, ...]) -> None:
        self._over(
            self.n_blocks,
            tuple(dict.fromkeys((self.how.columns, 1))),
            lambda column, n: self._over(self.n_rows, sizes, lambda row, n_rows: self._tile(row, n_rows, column, n)),
        )

    def _over(self, count: Any, sizes: tuple[int, ...], body: Callable[[Any, int], None]) -> None:
        """Calls `body` for the first of the sizes as often as it fits into `count`, and so on."""
        b, begin = self.b, I64(0)
        for size in sizes:
            end = b.add(begin, b.and_(b.sub(count, begin), I64(-size)))
            with cgutils.for_range_slice(b, begin, end, I64(size), intp=I64) as (i, _):
                body(i, size)
            begin = end

    def _tile(self, row: Any, n_rows: int, column: Any, n_columns: int) -> None:
        b, how = self.b, self.how
        zero = ir.Constant(how.kind, None)
        totals = [
            [[cgutils.alloca_once_value(b, zero) for _ in range(how.parts)] for _ in range(n_columns)]
            for _ in range(n_rows)
        ]
        for cell in (cell for line in totals for cells in line for cell in cells):
            b.store(zero, cell)
        rows = [b.add(self.x, b.mul(b.add(row, I64(r)), self.x_stride)) for r in range(n_rows)]
        blocks = [b.add(self.m, b.mul(b.add(column, I64(c)), self.m_stride)) for c in range(n_columns)]
        with cgutils.for_range(b, self.n_groups, intp=I64) as loop:
            matrices = []
            for block in blocks:
                address = b.add(block, b.mul(loop.index, I64(BLOCK * GROUP)))
                place = b.inttoptr(address, vector(I8, BLOCK * GROUP).as_pointer())
                matrices.append(how.matrix(b.load(place, align=1)))
            for r in range(n_rows):
                place = b.inttoptr(b.add(rows[r], b.mul(loop.index, I64(GROUP))), I32.as_pointer())
                operand = how.row(b.load(place, align=1))
                for c in range(n_columns):
                    for i, part in enumerate(matrices[c]):
                        cell = totals[r][c][i]
                        b.store(how.add(b.load(cell), part, operand), cell)
        for r in range(n_rows):
            index = b.add(row, I64(r))
            start = b.load(b.inttoptr(b.add(self.start, b.mul(index, I64(4))), I32.as_pointer()), align=4)
            target = b.add(self.out, b.mul(I64(4), b.add(b.mul(index, self.out_stride), b.mul(column, I64(BLOCK)))))
            for c in range(n_columns):
                sums = b.add(how.sums([b.load(cell) for cell in totals[r][c]]), splat(b, start, BLOCK))
                place = b.inttoptr(b.add(target, I64(4 * BLOCK * c)), vector(I32, BLOCK).as_pointer())
                b.store(sums, place, align=4)


def _function(context: Any, module: ir.Module, unsigned_matrix: bool) -> ir.Function:
    """Returns the function of a module; it is generated once, and not inlined, since it is large."""
    name = f"product_of_bytes_{unsigned_matrix}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 10), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    _Product(context, builder, list(function.args), unsigned_matrix).generate()
    builder.ret_void()
    return function


def _product(unsigned_matrix: bool) -> Callable:
    def product(typing_context, x, x_stride, n_rows, matrix, m_stride, n_blocks, n_groups, start, out, out_stride):
        """Writes out[r, n] = start[r] + sum over k of x[r, k] * matrix[k, n], exact in int32.

        Numba arguments, all int64: addresses, strides and sizes.

        Args:
            x: bytes [n_rows, 4 * n_groups], `x_stride` bytes apart.
            matrix: bytes [n_blocks, n_groups, 16, 4]: blocks of 16 outputs, `m_stride` bytes apart; in a block four
                neighbouring inputs of an output lie together.
            start: int32[n_rows].
            out: int32[n_rows, 16 * n_blocks], `out_stride` numbers apart.
        """

        def generate(context, builder, signature, arguments):
            builder.call(_function(context, builder.module, unsigned_matrix), arguments)
            return context.get_dummy_value()

        return numba.void(*(numba.int64,) * 10), generate

    return intrinsic(product)


product_unsigned = _product(True)
"""Product of signed rows and an unsigned matrix."""

product_signed = _product(False)
"""Product of an even number of unsigned rows and a signed matrix."""
