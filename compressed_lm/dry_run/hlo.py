"""HLO parser: the instructions of a compiled program and how often each runs."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

# Bits of a number, for types without the bits in their name (unlike bf16, s32, f8e4m3fn).
_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_CALLED_LIST = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_COPIES = ("copy", "bitcast", "convert", "optimization-barrier", "copy-start", "copy-done")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Type and dimensions of an array, and its memory: 0 is the large one (HBM), 1 is on the chip."""

    dtype: str
    dims: tuple[int, ...]
    memory: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of the array, without padding."""
        name = re.match(r"[a-z]+(\d+)", self.dtype)
        return -(-math.prod(self.dims) * _BITS.get(self.dtype, int(name[1]) if name else 0) // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One operation.

    Attributes:
        name, opcode: such as "all-gather.3" and "all-gather".
        shapes: of the result; several for a tuple, nested tuples flattened.
        operands: names of the instructions it reads.
        literal: the text in the parentheses, for a constant its value.
        attributes: the text after the parentheses.
        root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    root: bool

    @property
    def op_name(self) -> str:
        """Path of the JAX operation, or ""."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def computation(self, role: str) -> str:
        """Returns the computation in the attribute `role`, such as `calls`, `body` or `condition`, or ""."""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    def integer(self, attribute: str, default: int | None = None) -> int | None:
        """Returns an integer attribute, such as channel_id."""
        found = re.search(rf"\b{attribute}=(\d+)", self.attributes)
        return int(found[1]) if found else default


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
        computations: instructions of each computation by name; callees come before callers.
        runs: executions of each computation in one execution of the program. A loop with an unknown trip count counts
            once.
        fused: `op_name` of the fusion, for the computations that are part of one.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    runs: Mapping[str, int]
    fused: Mapping[str, str]

    def executed(self) -> Iterator[tuple[str, Instruction, int]]:
        """Yields (computation, instruction, number of executions) of all executed instructions."""
        for name, instructions in self.computations.items():
            if runs := self.runs.get(name, 0):
                yield from ((name, instruction, runs) for instruction in instructions.values())


def parse(text: str) -> Module:
    """Returns the program in `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3], root=bool(found[1]))
            current[instruction.name] = instruction
    runs = collections.Counter({entry: 1})
    fused: dict[str, str] = {}
    for name in reversed(computations):
        for instruction in computations[name].values():
            called, times = _called(instruction), 1
            if instruction.opcode == "while":
                times = trip_count(computations, instruction, inside=name) or 1
            for callee in called:
                runs[callee] += runs[name] * times
            if instruction.opcode == "fusion" or name in fused:
                fused |= {callee: instruction.op_name or fused.get(name, "") for callee in called}
    return Module(computations, dict(runs), fused)


def trip_count(computations: Mapping[str, Mapping[str, Instruction]], loop: Instruction, *, inside: str) -> int | None:
    """Returns the trip count of a while instruction, or None if its condition is not a bound of a counter.

    CPU and GPU compilers write it into the program. In a TPU program it is computed from the first value, the step and
    the bound of the counter.

    Args:
        computations: of the program.
        loop: the while instruction.
        inside: the computation that contains it.
    """
    if known := re.search(r'"?known_trip_count"?[:=]\{"n":"(\d+)"', loop.attributes):
        return int(known[1])
    condition, body = (computations.get(loop.computation(role), {}) for role in ("condition", "body"))
    test = next((i for i in condition.values() if i.root), None)
    if test is None or test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = (condition.get(name) for name in test.operands)
    index, bound = counter.integer("index") if counter else None, _constant(condition, limit)
    start = computations[inside].get(loop.operands[0])
    end = next((i for i in body.values() if i.root), None)
    if index is None or bound is None or start is None or end is None or end.opcode != "tuple":
        return None
    first = _constant(computations[inside], computations[inside].get(start.operands[index])) or 0
    new = _source(body, body.get(end.operands[index]))
    steps = [] if new is None or new.opcode != "add" else [_constant(body, body.get(name)) for name in new.operands]
    step = next((value for value in steps if value), 1)
    return max(-(-(bound - first) // step), 0)


def _called(instruction):
    """Returns the computations that an instruction runs."""
    if instruction.opcode == "while":
        return [instruction.computation("body")]
    if instruction.opcode.endswith("-start") and instruction.opcode != "async-start":
        return []  # the instruction stands for the operation itself
    branches = ",".join(_CALLED_LIST.findall(instruction.attributes))
    return _CALLED.findall(instruction.attributes) + re.findall(r"[\w.\-]+", branches)


def _source(computation, instruction):
    """Returns the instruction that an instruction copies, through several copies."""
    while instruction is not None and instruction.opcode in _COPIES:
        instruction = computation.get(instruction.operands[0])
    return instruction


def _constant(computation, instruction):
    source = _source(computation, instruction)
    if source is None or source.opcode != "constant" or not re.fullmatch(r"-?\d+", source.literal):
        return None
    return int(source.literal)


def _instruction(name, text, *, root):
    """Parses `SHAPE opcode(operands), attributes`."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    literal = text[opening + 1 : closing]
    shapes = tuple(_shape(*found) for found in _SHAPE.findall(text[:end]))
    operands = tuple(re.findall(r"%([\w.\-]+)", literal))
    return Instruction(name, text[end:opening].strip(), shapes, operands, literal, text[closing + 1 :], root)


def _shape(dtype, dims, layout):
    memory = re.search(r"S\((\d+)\)", layout)
    return Shape(dtype, tuple(int(size) for size in re.findall(r"\d+", dims)), int(memory[1]) if memory else 0)


def _closing(text, start):
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return start + match.start()
    return len(text)
