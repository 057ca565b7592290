"""A dry run reports the properties of a real run."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from rich.console import Console

from compressed_lm import models, training
from compressed_lm.dry_run import report
from compressed_lm.dry_run.program import Memory, _compile, dry_run
from compressed_lm.errors import InputError
from compressed_lm.training.hardware import CHIPS

CONFIG = training.TrainConfig(steps="2M tokens", batch_size=16, seq_len=32, optimizer="adamw", log_every="10%")
MODEL = models.TransformerConfig(vocab_size=264, d_model=64, n_layers=3, n_heads=2, d_head=32, d_ff=128)


def run(*, mesh=(2, 2, 2), config=CONFIG, model=MODEL, **arguments):
    return dry_run(config, model, eod_id=256, mesh=training.make_mesh(mesh), **arguments)


@pytest.fixture(scope="module")
def split():
    """Dry run of the small run on a mesh that splits all axes."""
    return run(bytes_per_token=2.5)


@pytest.mark.slow("compiles steps for described devices")
def test_memory_of_the_state_is_what_a_device_then_holds(split):
    """Bytes of parameters and optimizer, from shapes and shardings, equal those of a real start."""
    program = training.Program(split.config, MODEL, 256, training.make_mesh((2, 2, 2)))
    state, device = program.init(), jax.devices()[0]

    def held(tree):
        shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
        return sum(shard.data.nbytes for shard in shards if shard.device == device)

    assert split.memory.params == held(state.params)
    assert split.memory.optimizer == held((state.opt_state, state.step))
    assert split.memory.batch == 16 * 32 * 4 // 4  # rows are split by data and fsdp
    assert split.memory.peak >= split.memory.params + split.memory.optimizer


@pytest.mark.slow("compiles steps for described devices")
def test_fsdp_gathers_a_layer_at_a_time_and_allocates_nothing():
    """Each matrix of a layer is gathered inside the loops over the layers, forward and again backward.

    No array with all layers and no optimizer state is gathered, and no array is allocated.
    """
    before = {id(x) for x in jax.live_arrays()}
    found = [c for c in run(mesh=(1, 8, 1)).collectives if c.kind == "all-gather"]
    assert sum(x.size for x in jax.live_arrays() if id(x) not in before) < 10
    looped = [c for c in found if "/while/" in c.op_name]
    sizes = {"q": 64 * 64, "k": 64 * 64, "v": 64 * 64, "out": 64 * 64, "up": 64 * 128, "gate": 64 * 128}
    assert sum(c.count for c in looped) == 2 * 3 * (len(sizes) + 1)  # and down
    assert {int(np.prod(shape)) for c in looped for shape in c.shapes} == set(sizes.values())
    outside = {int(np.prod(shape)) for c in found if c not in looped for shape in c.shapes}
    assert outside == {264 * 64, 16 * 32}  # the embeddings in and out, and the token ids


def test_executed_flops_are_those_of_the_model_and_the_rest_of_attention(split):
    """Executed FLOPs are those of the model plus the masked half of attention, within 1 %.

    The model needs only the half below the diagonal. Norms and tables of relative positions count as parameters but are
    not matrix products.
    """
    other_half = 3 * 2 * 3 * 2 * 32 * 32  # backward and forward, 2 products of L / 2 keys, 3 layers of 2 heads of 32
    assert split.executed_flops == pytest.approx((split.training_flops + other_half) * 16 * 32, rel=0.01)


def test_durations_are_resolved(split):
    """A run length may be given in tokens, or in bytes if the bytes per token are known."""
    assert split.config.steps == -(-2_000_000 // 512)
    assert split.config.log_every == -(-split.config.steps // 10)
    with pytest.raises(InputError, match="the bytes per token are not known"):
        run(mesh=(1, 1, 1), config=dataclasses.replace(CONFIG, steps="5MB"))


def test_a_mesh_that_does_not_fit_the_batch_is_refused():
    """A mesh that does not fit the batch is refused before compiling, with the given and expected sizes."""
    with pytest.raises(InputError, match="batch_size=12 .* expected a multiple of 8"):
        run(mesh=(8, 1, 1), config=dataclasses.replace(CONFIG, batch_size=12))


def printed(result) -> str:
    out = io.StringIO()
    report.show(result, console=Console(file=out, width=160))
    return out.getvalue()


def test_the_report_says_what_is_known(split):
    """The report has parameters, FLOPs per byte and collectives by parameter, but no times for a CPU."""
    text = printed(split)
    assert "Dry run on 8 x cpu, mesh data 2, fsdp 2, tensor 2. No data was read, and nothing was executed." in text
    assert f"{split.params.total:,}" in text
    assert "at 2.500 bytes per token" in text
    assert "all-gather" in text and "mlp/up" in text and "forward, each layer" in text
    assert split.parts is None and split.mfu is None and "MFU" not in text
    assert "memory of cpu is not known" in text


def on_chip(result, name, **memory):
    """Returns a dry run as if its devices were chips of a kind."""
    memory = dataclasses.replace(result.memory, limit=CHIPS[name].memory_bytes, **memory)
    seconds = (1e-3,) * len(result.collectives)
    return dataclasses.replace(result, chip=CHIPS[name], memory=memory, network_seconds=seconds)


def test_estimates_of_a_known_chip(split):
    """Each part runs at its peak; a step takes between the slowest part and the sum; MFU is the share of the peak."""
    result = on_chip(dataclasses.replace(split, executed_flops=8 * 197 * 10**9, traffic=819 * 10**6 * 3), "TPU v5 lite")
    parts = result.parts
    assert parts["compute"] == pytest.approx(1e-3) and parts["memory"] == pytest.approx(3e-3)
    assert parts["network"] == pytest.approx(1e-3 * len(split.collectives))
    assert result.step_seconds == (max(parts.values()), pytest.approx(sum(parts.values())))
    ideal = split.training_flops * 512 / 8 / 197e12
    assert result.mfu == (pytest.approx(ideal / max(parts.values())), pytest.approx(ideal / sum(parts.values())))
    assert "MFU" in printed(result) and "It fits" in printed(result)


def test_a_program_that_does_not_fit_is_reported_with_advice(split):
    """A program that does not fit is reported with need, limit and settings that would help."""
    result = on_chip(split, "TPU v5 lite", peak=int(20e9))
    assert result.memory.fits is False
    verdict = report.verdict(result)
    assert verdict.startswith("It does not fit: it needs 20 GB of 16.9 GB per device. Fix: model.remat=full")
    assert "train.micro_batches=2" in verdict and "--mesh 1,4,2" in verdict
    changed = dict(model_config=dataclasses.replace(MODEL, remat="full"), mesh=dict(result.mesh, data=1))
    full = dataclasses.replace(result, **changed)
    assert "remat" not in report.verdict(full) and "--mesh" not in report.verdict(full)


class Refusing:
    """Lowered program that the compiler refuses."""

    def __init__(self, message):
        self.message = message

    def compile(self, options):
        raise jax.errors.JaxRuntimeError(self.message)


def test_what_the_compiler_says_of_memory_is_read():
    """An out-of-memory error of the compiler becomes need and limit; another error is raised unchanged."""
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (16.67G) exceeds"
    )
    assert _compile(Refusing(said + " available HBM (15.75G)."), False) == (None, int(16.67 * 2**30), 15.75 * 2**30)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        _compile(Refusing("INTERNAL: 1.5G and 2.5G"), False)


def test_a_refused_program_is_reported_without_its_parts(split):
    """A refused program is reported without collectives and times, but with state, need and advice."""
    memory = Memory(params=1000, optimizer=2000, batch=10, temporaries=None, peak=20 * 10**9, limit=16 * 10**9)
    refused = dataclasses.replace(split, memory=memory, collectives=(), traffic=None, chip=CHIPS["TPU v5 lite"])
    text = printed(refused)
    assert "not compiled" in text and "It does not fit" in text and "MFU" not in text
