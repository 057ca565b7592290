"""Dry run: memory, traffic and time of a run from its compiled program, without executing it."""

import dataclasses
import math
import re
import time
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from compressed_lm import weights
from compressed_lm.dry_run import costs
from compressed_lm.dry_run.collectives import Collective, collectives
from compressed_lm.models import ParamCounts, TransformerConfig, count_params, flops_per_token, training_flops_per_token
from compressed_lm.training import durations
from compressed_lm.training.config import TrainConfig
from compressed_lm.training.hardware import Chip, chip_of, send_bandwidth
from compressed_lm.training.step import Program, Start

QUICK = {"exec_time_optimization_effort": -1.0}
"""Compiler options for several times faster TPU compilation; the program is somewhat slower and uses more memory."""


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
        params, optimizer: the state, from shapes and shardings.
        batch: the tokens of an update.
        temporaries: activations, gradients and buffers as allocated by the compiler, padding and gaps included; None if
            it rejected the program. On TPUs this may exceed `peak`, by which libtpu decides what fits.
        peak: maximum in use at one time, all of the above included.
        limit: memory that a program may use; None for an unknown device.
        frozen: parameters of a larger model that are not trained.
    """

    params: int
    optimizer: int
    batch: int
    temporaries: int | None
    peak: int
    limit: float | None
    frozen: int = 0

    @property
    def fits(self) -> bool | None:
        """Whether the program fits, or None if the limit is not known."""
        return None if self.limit is None else self.peak <= self.limit


@dataclasses.dataclass(frozen=True)
class DryRun:
    """Result of a dry run. Times are estimates, see `step_seconds`.

    Attributes:
        config, model_config: the run; durations are whole steps.
        mesh: sizes of the mesh axes.
        device_kind, n_devices: the devices as JAX counts them.
        chip: peak performance of a device, or None if not known.
        params: parameter counts of the model.
        trainable: number of trained parameters, the factors if the run trains projections.
        frozen: number of frozen parameters of a larger model that is projected or the teacher.
        projections: cost of merging the projections in a step, or None.
        bytes_per_token: of the training data, or None.
        memory: bytes on each device.
        collectives: the collectives of one step; () if the compiler rejected the program.
        executed_flops: FLOPs of all matrix products in one step, over all devices.
        traffic: estimated bytes that a device reads from and writes to its memory in one step; None if the compiler
            rejected the program.
        network_seconds: time of each of the `collectives` in one step; () if the chip is not known.
        compile_seconds: compilation time on this machine.
        quick: whether it was compiled with `QUICK`.
    """

    config: TrainConfig
    model_config: TransformerConfig
    mesh: Mapping[str, int]
    device_kind: str
    n_devices: int
    chip: Chip | None
    params: ParamCounts
    trainable: int
    frozen: int
    projections: weights.MergeCost | None
    bytes_per_token: float | None
    memory: Memory
    collectives: tuple[Collective, ...]
    executed_flops: int
    traffic: int | None
    network_seconds: tuple[float, ...]
    compile_seconds: float
    quick: bool

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an update, B L."""
        return self.config.batch_size * self.config.seq_len

    @property
    def training_flops(self) -> int:
        """Model FLOPs per token of an update (`models.training_flops_per_token`)."""
        return training_flops_per_token(self.model_config, seq_len=self.config.seq_len)

    @property
    def projection_flops(self) -> int:
        """FLOPs of the projections in a step, independent of its tokens (papers/004 section 4)."""
        return self.projections.forward + self.projections.pull_back if self.projections else 0

    def forward_flops(self, *, softmax: bool) -> int:
        """Returns the forward FLOPs per token as the paper counts them (`models.flops_per_token`)."""
        return flops_per_token(self.model_config, softmax=softmax)

    @property
    def parts(self) -> Mapping[str, float] | None:
        """Seconds of a step at peak performance, for compute, memory and network; None if not known."""
        if self.chip is None or self.traffic is None:
            return None
        return {
            "compute": self.executed_flops / self.n_devices / self.chip.bf16_flops,
            "memory": self.traffic / self.chip.memory_bandwidth,
            "network": sum(self.network_seconds),
        }

    @property
    def step_seconds(self) -> tuple[float, float] | None:
        """Seconds of a step (with full overlap, without overlap) at peak performance; None if not known.

        A real step takes longer than the first, and rarely much longer than the second.
        """
        if self.parts is None:
            return None
        return max(self.parts.values()), sum(self.parts.values())

    @property
    def mfu(self) -> tuple[float, float] | None:
        """Model FLOPs utilisation for the two times of `step_seconds`; None if not known."""
        if self.step_seconds is None or self.chip is None:
            return None
        ideal = self.training_flops * self.tokens_per_step / (self.n_devices * self.chip.bf16_flops)
        return ideal / self.step_seconds[0], ideal / self.step_seconds[1]


def dry_run(
    config: TrainConfig,
    model_config: TransformerConfig,
    *,
    eod_id: int,
    mesh: Mesh,
    bytes_per_token: float | None = None,
    tokens_per_epoch: int | None = None,
    quick: bool = False,
    start: Start | None = None,
) -> DryRun:
    """Returns the memory, traffic and time of a run, after compiling its step for a mesh.

    It reads no data and creates no parameters or batches.

    Args:
        config, model_config: the run.
        eod_id: id of end-of-document.
        mesh: of real devices, or of `topologies.tpu_devices`.
        bytes_per_token, tokens_per_epoch: of the training data, if known (`durations.rates`).
        quick: compile faster (`QUICK`), with the same collectives but more memory and traffic than the real program.
        start: initial parameters, arrays or their shapes, if the run trains projections or has a teacher.

    Raises:
        InputError: run and mesh do not fit each other.
    """
    config = durations.resolve(config, bytes_per_token=bytes_per_token, tokens_per_epoch=tokens_per_epoch)
    program = Program(config, model_config, eod_id, mesh, start or Start())
    state, devices = program.abstract_state, list(mesh.devices.flat)
    chip = chip_of(devices[0])
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        targets = jax.ShapeDtypeStruct((config.batch_size, config.seq_len), "int32", sharding=program.batch_sharding)
        flops = costs.matrix_flops(jax.make_jaxpr(program.step)(state, targets))
    started = time.monotonic()
    compiled, needed, limit = _compile(program.lower(), quick)
    seconds = time.monotonic() - started
    found: tuple[Collective, ...] = ()
    traffic = temporaries = None
    if compiled is not None:
        text, analysis = compiled.as_text(), compiled.memory_analysis()
        found, traffic = tuple(collectives(text, n_devices=len(devices))), costs.memory_traffic(text)
        temporaries = analysis.temp_size_in_bytes
        laid_out = analysis.argument_size_in_bytes + temporaries
        needed = (
            analysis.peak_memory_in_bytes or laid_out + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        )
    return DryRun(
        config=config,
        model_config=model_config,
        mesh=dict(mesh.shape),
        device_kind=devices[0].device_kind,
        n_devices=len(devices),
        chip=chip,
        params=count_params(model_config),
        trainable=_size(state.params),
        frozen=_size(state.frozen),
        projections=weights.merge_cost(state.params, state.frozen or {}) if program.projects else None,
        bytes_per_token=bytes_per_token,
        memory=Memory(
            params=_device_bytes(state.params),
            frozen=_device_bytes(state.frozen),
            optimizer=_device_bytes((state.opt_state, state.step)),
            batch=_device_bytes(targets),
            temporaries=temporaries,
            peak=needed,
            limit=limit or (chip.memory_bytes if chip else None),
        ),
        collectives=found,
        executed_flops=flops,
        traffic=traffic,
        network_seconds=tuple(_seconds(c, chip, devices) for c in found) if chip else (),
        compile_seconds=seconds,
        quick=quick,
    )


def _compile(lowered, quick):
    """Returns (compiled program, None, None), or (None, needed bytes, available bytes) if it does not fit."""
    try:
        return lowered.compile(QUICK if quick else None), None, None
    except jax.errors.JaxRuntimeError as error:
        # "... temporaries (16.67G) exceeds available HBM (15.75G)", or "Used 20.1G of 15.7G hbm"
        sizes = re.findall(r"(\d+(?:\.\d+)?)([KMGT])\b", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or len(sizes) < 2:
            raise
        needed, limit = (float(n) * 2 ** (10 * (" KMGT".index(unit))) for n, unit in sizes[:2])
        return None, int(needed), limit


def _size(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _device_bytes(tree) -> int:
    """Returns the bytes on each device of a tree of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _seconds(collective, chip, devices):
    group = [devices[i] for i in collective.group] or devices
    if len(group) == 1:
        return 0.0
    return collective.sent / send_bandwidth(chip, group, devices)
