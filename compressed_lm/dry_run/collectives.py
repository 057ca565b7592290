"""Collectives of a compiled program, parsed from its text."""

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
        kind: one of `KINDS`. A collective-permute of a TPU program is usually one step of a gather or scatter in a
            ring that overlaps with a matrix product; see `part_of`.
        shapes: dimensions of the whole arrays: gathered, or not yet scattered.
        bytes: size of these arrays.
        group: positions in the flattened mesh of the first group of devices that exchange data; () for all devices.
        size: devices in a group.
        count: executions in one step.
        op_name: path of the JAX operation, which names the layer and the parameter.
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
        """Bytes that a device sends in one step, with ring algorithms, which send least."""
        others = (self.size - 1) / max(self.size, 1)
        share = {"all-reduce": 2 * others, "collective-permute": 1}.get(self.kind, others)
        return self.count * self.bytes * share


def collectives(text: str, *, n_devices: int) -> list[Collective]:
    """Returns every executed collective in `compiled.as_text()`.

    Args:
        text: the program of one device.
        n_devices: devices that run it.
    """
    module = hlo.parse(text)
    found: dict[tuple, Collective] = {}
    for name, instruction, runs in module.executed():
        kind = instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        # TPU compilers repeat an asynchronous collective in each fusion that it overlaps, with the same channel.
        fused = name in module.fused
        key = (kind, instruction.integer("channel_id")) if fused else (name, instruction.name)
        collective = _collective(kind, instruction, runs, computation=name, n_devices=n_devices)
        if not collective.op_name:
            collective = dataclasses.replace(collective, op_name=module.fused.get(name, ""))
        found.setdefault(key, collective)
    return _with_ends_of_rings(found.values())


def totals(found: Iterable[Collective]) -> Mapping[str, tuple[int, float, float]]:
    """Returns {kind: (operations, bytes, bytes sent by a device) in one step}; ring steps are not regrouped."""
    table: dict[str, tuple[int, float, float]] = collections.defaultdict(lambda: (0, 0.0, 0.0))
    for c in found:
        n, whole, sent = table[c.kind]
        table[c.kind] = n + c.count, whole + c.count * c.bytes, sent + c.sent
    return {kind: table[kind] for kind in KINDS if kind in table}


def _collective(kind, instruction, runs, *, computation, n_devices):
    n = len(instruction.operands)
    # Asynchronous forms return their operands, then the result.
    asynchronous = instruction.opcode.endswith("-start") and len(instruction.shapes) >= 2 * n
    shapes = instruction.shapes[n : 2 * n] if asynchronous else instruction.shapes
    if kind == "collective-permute":
        pair = re.match(r"\{\{(\d+),(\d+)\}", instruction.attributes.partition("source_target_pairs=")[2])
        group, size = (int(pair[1]), int(pair[2])), 2
    else:
        group = _first_group(instruction.attributes)
        size = len(group) or n_devices
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # on TPU: the fusion keeps a slice of the sum
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
    """Returns the collectives with `part_of` also set for the ring steps before and after a ring's loop."""
    rings = {(c.kind, c.op_name): c.part_of for c in found if c.part_of}
    return [dataclasses.replace(c, part_of=c.part_of or rings.get((c.kind, c.op_name), "")) for c in found]


def _times(shape, axis, n):
    dims = tuple(size * n if i == axis else size for i, size in enumerate(shape.dims))
    return dataclasses.replace(shape, dims=dims)


def _first_group(attributes):
    """Returns the first group in `replica_groups`, which has three formats; () for all devices."""
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
    """Returns the first group along axes of a mesh: `mesh['a'=4,'b'=2] {'a'}`; part of an axis is `'a':(2)2`."""
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    devices = np.arange(math.prod(axes.values()))
    if order:  # 0, 1, ... reshaped to these dimensions, then transposed
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
