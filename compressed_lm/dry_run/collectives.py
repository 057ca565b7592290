"""What the devices of a compiled program send each other, read from its text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from compressed_lm.dry_run import hlo

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation between devices.

    Attributes:
        kind: one of `KINDS`. A collective-permute of a TPU program is mostly a piece of a gather or a scatter that
            travels around a ring while a matrix product is computed; `part_of` then says of which.
        shapes: dimensions of the arrays as they are when they are together: gathered, or not yet scattered.
        bytes: of these arrays.
        group: positions in the mesh, flattened, of the first group of devices that exchange; () where all of them do.
        size: devices in a group.
        count: how often it runs in one step.
        op_name: path of the JAX operation it was made for, which names the layer and the parameter.
        part_of: "all-gather" or "reduce-scatter" for the steps of a ring, otherwise "".
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int
    group: tuple[int, ...]
    size: int
    count: int
    op_name: str
    part_of: str = ""

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one step, with the algorithms that send least (rings)."""
        others = (self.size - 1) / max(self.size, 1)
        share = {"all-reduce": 2 * others, "collective-permute": 1}.get(self.kind, others)
        return self.count * self.bytes * share


def collectives(text: str, *, n_devices: int) -> list[Collective]:
    """Returns every collective in `compiled.as_text()` that runs.

    Args:
        text: the program of one device.
        n_devices: how many run it.
    """
    module = hlo.parse(text)
    found = {}
    for name, instruction, runs in module.executed():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        # TPU compilers write a collective that runs beside others once into each of these fusions, always with the same
        # channel.
        fused = name in module.fused
        key = (kind, instruction.integer("channel_id")) if fused else (name, instruction.name)
        collective = _collective(kind, instruction, runs, computation=name, n_devices=n_devices)
        if not collective.op_name:
            collective = dataclasses.replace(collective, op_name=module.fused.get(name, ""))
        found.setdefault(key, collective)
    return _with_ends_of_rings(found.values())


def totals(found: Iterable[Collective]) -> Mapping[str, tuple[int, float, float]]:
    """Returns {kind: (operations, bytes, bytes sent by a device) in one step}, pieces of rings under their own kind."""
    table = collections.defaultdict(lambda: (0, 0.0, 0.0))
    for c in found:
        n, whole, sent = table[c.kind]
        table[c.kind] = n + c.count, whole + c.count * c.bytes, sent + c.sent
    return {kind: table[kind] for kind in KINDS if kind in table}


def _collective(kind, instruction, runs, *, computation, n_devices):
    n = len(instruction.operands)
    # The asynchronous forms give their operands back, then the result.
    asynchronous = instruction.opcode.endswith("-start") and len(instruction.shapes) >= 2 * n
    shapes = instruction.shapes[n : 2 * n] if asynchronous else instruction.shapes
    if kind == "collective-permute":
        pair = re.match(r"\{\{(\d+),(\d+)\}", instruction.attributes.partition("source_target_pairs=")[2])
        group, size = (int(pair[1]), int(pair[2])), 2
    else:
        group = _first_group(instruction.attributes)
        size = len(group) or n_devices
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # the TPU's form: the fusion keeps a slice of the sum
    elif kind == "reduce-scatter":
        dimension = instruction.attributes.partition("dimensions={")[2].partition("}")[0]
        shapes = [_times(shape, int(dimension or 0), size) for shape in shapes]
    ring = re.search(r"windowed_dot_general_body_(ag|rs)", computation)
    return Collective(
        kind=kind,
        shapes=tuple(shape.dims for shape in shapes),
        bytes=sum(shape.bytes for shape in shapes),
        group=group,
        size=size,
        count=runs,
        op_name=instruction.op_name,
        part_of={"ag": "all-gather", "rs": "reduce-scatter"}[ring[1]] if ring else "",
    )


def _with_ends_of_rings(found):
    """Returns the collectives, the steps before and after a ring's loop known as parts of it too."""
    rings = {(c.kind, c.op_name): c.part_of for c in found if c.part_of}
    return [dataclasses.replace(c, part_of=c.part_of or rings.get((c.kind, c.op_name), "")) for c in found]


def _times(shape, axis, n):
    dims = tuple(size * n if i == axis else size for i, size in enumerate(shape.dims))
    return dataclasses.replace(shape, dims=dims)


def _first_group(attributes):
    """Returns the first of the groups in `replica_groups`, which is written in three ways; () for all devices."""
    text = attributes.partition("replica_groups=")[2]
    if listed := re.match(r"\{\{([\d,]+)\}", text):  # {{0,1},{2,3}}
        return tuple(int(i) for i in listed[1].split(","))
    if iota := re.match(r"\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):  # [2,4]<=[4,2]T(1,0)
        sizes = [int(i) for i in iota[3].split(",")]
        order = [int(i) for i in iota[4].split(",")] if iota[4] else range(len(sizes))
        devices = np.arange(math.prod(sizes)).reshape(sizes).transpose(order)
        return tuple(devices.reshape(int(iota[1]), int(iota[2]))[0].tolist())
    if mesh := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\(?\[([\d,]*)\](?:T\(([\d,]+)\))?\)?)? \{([^}]*)\}", text):
        return _mesh_group(*mesh.groups())
    return ()


def _mesh_group(axes, ids, order, chosen):
    """Returns the first group along some axes of a mesh: `mesh['a'=4,'b'=2] {'a'}`, an axis in parts as `'a':(2)2`."""
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    devices = np.arange(math.prod(axes.values()))
    if order:  # the numbers 0, 1, ... laid out in these dimensions, then turned
        devices = devices.reshape([int(i) for i in ids.split(",")]).transpose([int(i) for i in order.split(",")])
    elif ids:
        devices = np.array([int(i) for i in ids.split(",")])
    devices = devices.reshape(list(axes.values()))
    index = [0] * len(axes)
    for name, before, part in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen):
        whole = axes[name]
        step = whole // (int(before) * int(part)) if part else 1
        index[list(axes).index(name)] = slice(0, step * int(part or whole), step)
    return tuple(np.atleast_1d(devices[tuple(index)]).reshape(-1).tolist())
