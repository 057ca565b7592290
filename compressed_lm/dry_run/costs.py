"""Costs of a step: FLOPs of matrix products from the jaxpr, memory traffic from the compiled program."""

import math
import re
from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval

from compressed_lm.dry_run import hlo

# Operations that move no data, and operations whose parts are counted separately.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "conditional", "call", "async-start", "async-update", "async-done", "optimization-barrier", "domain"),
}
_NOTHING = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast|AssumeGatherIndicesInBound)"')
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "custom-call")


def matrix_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> int:
    """Returns the FLOPs of all matrix products in a program.

    Rematerialisation is included; unused results, which compilers remove, are not. Products inside opaque kernels, such
    as cuDNN's attention, are not counted.
    """
    if isinstance(jaxpr, core.ClosedJaxpr):
        jaxpr, _ = partial_eval.dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            lhs, out = _shape(equation.invars[0].aval), _shape(equation.outvars[0].aval)
            total += 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)
            continue
        inner = [matrix_flops(sub) for sub in _jaxprs(equation.params)]
        if equation.primitive.name == "cond":
            total += max(inner, default=0)
        else:
            total += sum(inner) * equation.params.get("length", 1)  # `length` is that of a scan
    return total


def memory_traffic(text: str) -> int:
    """Returns the bytes that one execution of `compiled.as_text()` reads from and writes to the large memory (HBM).

    An estimate: every operation reads its operands and writes its results once, as in XLA's cost analysis. Unlike
    there, operations in loops count each time, slicing counts only the slice, and data in on-chip memory (the TPU's
    VMEM) does not count.
    """
    module = hlo.parse(text)
    total = 0
    for name, instruction, runs in module.executed():
        if name not in module.fused:
            total += runs * _moved(module, module.computations[name], instruction)
    return total


def _shape(value: Any) -> tuple[int, ...]:
    return value.shape


def _jaxprs(params):
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr | core.Jaxpr):
                yield item


def _moved(module, computation, instruction):
    """Returns the bytes moved by one execution of an instruction outside of fusions."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done") or _NOTHING.search(instruction.attributes):
        return 0
    operands = [_in_memory(computation[name].shapes) for name in instruction.operands if name in computation]
    result = _in_memory(instruction.shapes)
    if opcode == "fusion":
        body = module.computations[instruction.computation("calls")]
        return sum(_read(module, body, i, size) for i, size in enumerate(operands)) + _written(
            module, body, instruction
        )
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * result
    if opcode == "dynamic-update-slice":
        return 2 * operands[1]
    if opcode in ("copy-start", "slice-start"):  # (result, operand, ...): from one memory to the other
        return sum(shape.bytes for shape in instruction.shapes[:1]) if operands[0] or result else 0
    if opcode.endswith("-start"):
        return 2 * sum(operands)
    if opcode == "custom-call":  # the other results are scratch space
        result = _in_memory(instruction.shapes[:1])
    return sum(operands) + result


def _in_memory(shapes):
    return sum(shape.bytes for shape in shapes if not shape.memory)


def _read(module, body, index, size):
    """Returns the bytes that a fusion reads of its operand `index`, which has `size` bytes."""
    parameter = next((i for i in body.values() if i.opcode == "parameter" and i.literal == str(index)), None)
    if not size or parameter is None:
        return 0
    return min(_used(module, body, parameter), size)


def _used(module, body, value):
    total = 0
    for user in body.values():
        if value.name not in user.operands:
            continue
        if user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == value.name:
            total += sum(shape.bytes for shape in user.shapes)
        elif user.opcode == "bitcast":
            total += _used(module, body, user)
        elif user.opcode == "fusion":
            inner = module.computations[user.computation("calls")]
            whole = sum(shape.bytes for shape in value.shapes)
            total += _read(module, inner, user.operands.index(value.name), whole)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            continue  # updated in place
        elif user.opcode != "tuple" and not user.opcode.startswith(_COLLECTIVES):  # the others only pass it on
            total += sum(shape.bytes for shape in value.shapes)
    return total


def _written(module, body, fusion):
    """Returns the bytes that a fusion writes."""
    root = next(i for i in body.values() if i.root)
    parts = [body[name] for name in root.operands] if root.opcode == "tuple" else [root]
    shapes, total = list(fusion.shapes), 0
    for part in parts:
        mine, shapes = shapes[: len(part.shapes)], shapes[len(part.shapes) :]
        total += min(_produced(module, body, part), _in_memory(mine))
    return total


def _produced(module, body, value):
    while value.opcode == "bitcast":
        value = body[value.operands[0]]
    if value.opcode == "dynamic-update-slice":
        return sum(shape.bytes for shape in body[value.operands[1]].shapes)
    if value.opcode == "fusion":
        return _written(module, module.computations[value.computation("calls")], value)
    if value.opcode == "parameter" or value.opcode.startswith(_COLLECTIVES):
        return 0
    return sum(shape.bytes for shape in value.shapes)
