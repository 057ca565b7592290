"""Programs compile for described TPUs, fit their memory, and send only what their meshes require.

No TPU hardware is needed: libtpu is a compiler that runs on any Linux machine.
"""

import functools
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from compressed_lm import configuration, models, training
from compressed_lm.codecs import device_coder, device_dictionary, device_windows
from compressed_lm.codecs.local_devices import SLOTS
from compressed_lm.codecs.m1 import M1
from compressed_lm.codecs.registry import PRETRAINED
from compressed_lm.codecs.window_rules import WindowRules
from compressed_lm.dry_run.collectives import collectives
from compressed_lm.dry_run.program import QUICK, dry_run
from compressed_lm.dry_run.topologies import library, tpu_devices
from compressed_lm.errors import InputError

needs_libtpu = pytest.mark.skipif(
    library() is None, reason='needs the TPU compiler: `make test`, or pip install "compressed_lm[tpu]"'
)


@pytest.mark.parametrize("name", ["v5e", "v5e:3", "v5e:4x4x4", "v5p:4x4", "v9:2x2", "v5e:2x", "v5e:32x16", "4x4", ""])
def test_an_unknown_topology_is_refused_with_examples(name):
    """An unknown topology is refused with example names, even if libtpu would accept it."""
    with pytest.raises(InputError, match=r"was given; expected a generation .* such as .*v5e:2x2.*v5p:4x4x4"):
        tpu_devices(name)


def test_a_missing_compiler_is_reported_with_its_command(monkeypatch):
    """Without libtpu the message gives the command that installs it."""
    monkeypatch.setattr("compressed_lm.dry_run.topologies.library", lambda: None)
    with pytest.raises(InputError, match=r'needs libtpu.* pip install "compressed_lm\[tpu\]"'):
        tpu_devices("v5e:2x2")


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("v5e:1x1", "TPU v5 lite", 1),
        ("v5p:4x4x4", "TPU v5", 64),
        ("v4:2x2x1", "TPU v4", 4),
        ("tpu7x:2x2x1", "TPU7x", 8),
    ],
)
def test_devices_are_counted_as_on_the_real_thing(name, kind, number):
    """A topology has one device per chip, two for TPU7x; a single chip is a topology too."""
    devices = tpu_devices(name)
    assert (len(devices), {device.device_kind for device in devices}) == (number, {kind})


@needs_libtpu
def test_a_mesh_that_does_not_fit_the_torus_is_refused():
    """Axes that are not products of the torus's sizes are refused with a valid example."""
    with pytest.raises(InputError, match=r"mesh \(2, 32, 1\) .* does not fit the shape of the TPU .* 4,16,1 on 4x4x4"):
        training.make_mesh((2, 32, 1), devices=tpu_devices("v5p:4x4x4"))


def silent(program, **environment):
    """Returns the output of a new process without TPU variables, after a check that it prints no warnings."""
    cleared = ("TPU_", "JAX_", "ALLOW_MULTIPLE_LIBTPU")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(cleared)} | environment
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    return ran.stdout


@needs_libtpu
def test_a_new_process_needs_no_environment_and_stays_silent():
    """In a plain environment TPU devices are made without output on stderr, and JAX stays on the CPU."""
    program = (
        "from compressed_lm.dry_run.topologies import tpu_devices\n"
        "import jax\n"
        "print(len(tpu_devices('v5e:4x4')), jax.default_backend())"
    )
    assert silent(program) == "16 cpu\n"


@needs_libtpu
@pytest.mark.parametrize("program", ["import compressed_lm, jax", "import jax, compressed_lm.codecs"])
def test_programs_that_import_the_package_start_jax_in_silence(program):
    """With libtpu but no TPU, a program that imports the package prints no warnings of libtpu."""
    path = os.pathsep.join([str(library().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert "CpuDevice" in silent(f"{program}; import libtpu; print(jax.devices())", PYTHONPATH=path)


@pytest.mark.skipif(not pathlib.Path(sys.prefix, "tpu", ".ready").exists(), reason="needs what `make test` sets up")
def test_plain_jax_is_silent_in_the_environment_of_make_test():
    """`make test` installs libtpu for dry runs, and a program that only imports JAX does not load it."""
    assert "CpuDevice" in silent("import jax; print(jax.devices())")


def test_nothing_is_said_about_the_tpu_where_there_is_one():
    """If a TPU device file exists, importing the package does not change the variables that select a TPU."""
    program = (
        "import glob, os; there = glob.glob; glob.glob = lambda p: ['/dev/accel0'] if 'accel' in p else there(p)\n"
        "import compressed_lm; print([k for k in os.environ if k.startswith('TPU_')])"
    )
    assert silent(program) == "[]\n"


def paper(codec, size, topology, shape, *bindings):
    """Returns the dry run of a model of the paper with its recipe and these bindings, compiled with least effort."""
    configuration.load([f"runs/paper_{codec}.gin"], [f"model.size={size}", *bindings])
    vocab_size = configuration.data().vocab_size
    model = configuration.model(models.model_vocab_size(vocab_size))
    mesh = training.make_mesh(shape, devices=tpu_devices(topology))
    return dry_run(configuration.train(), model, eod_id=vocab_size, mesh=mesh, quick=True)


def layer_bytes(model):
    """Returns the bytes of the matrices of all layers in bfloat16."""
    c = model
    return 2 * c.n_layers * (4 * c.d_model * c.n_heads * c.d_head + 3 * c.d_model * c.d_ff)


def phase(collective):
    """Returns the position of a collective in a step: (forward, again, backward or update, within the layers)."""
    name = collective.op_name
    part = "backward" if "transpose(" in name else "forward" if "jvp(" in name else "update"
    return "again" if "rematted" in name else part, "/while/" in name


def sent(run, kinds, *where):
    """Returns the bytes that a device sends per step in collectives of some kinds at a position."""
    return sum(c.sent for c in run.collectives if c.kind in kinds and phase(c) == where)


@pytest.mark.slow("compiles steps for described devices")
@needs_libtpu
@pytest.mark.parametrize(
    ("codec", "size", "topology", "shape", "bindings"),
    [
        ("bytes", "25m", "v5e:2x2", (1, 4, 1), ("model.remat=dots",)),
        ("eiw16_v65536", "2b", "v5p:4x4x4", (4, 16, 1), ()),
    ],
)
def test_models_of_the_paper_fit_and_travel_layer_by_layer(codec, size, topology, shape, bindings):
    """With fsdp, matrices are gathered one layer at a time, once forward and once backward, in bfloat16.

    Their gradients are summed to the parts. Nothing larger than one matrix of one layer or of the embeddings is
    gathered, and of the optimizer state only what Adafactor keeps per row and column.
    """
    run = paper(codec, size, topology, shape, *bindings)
    assert run.memory.fits, run.memory
    others = (shape[1] - 1) / shape[1]
    whole = layer_bytes(run.model_config) * others
    assert sent(run, ["all-gather"], "forward", True) == pytest.approx(whole, rel=0.01)
    assert sent(run, ["all-gather"], "again", True) == pytest.approx(whole, rel=0.01)
    summed = [c for c in run.collectives if phase(c) == ("backward", True) and c.kind != "all-gather"]
    summed = sum(c.sent for c in summed if not any(shape[-2:] == (512, 512) for shape in c.shapes))  # not of attention
    # A ring sends slightly more than the minimum, and an all-reduce twice as much.
    assert whole * 0.99 <= summed <= whole * 2
    model = run.model_config
    for c in run.collectives:
        if c.kind == "all-gather":
            part, in_layers = phase(c)
            one_layer, rows_and_columns = model.d_model * model.d_ff, model.n_layers * model.d_ff
            most = one_layer if in_layers else rows_and_columns if part == "update" else run.params.embedding // 2
            assert max(map(math.prod, c.shapes)) <= most, c


@pytest.mark.slow("compiles steps for described devices")
@needs_libtpu
def test_adamw_gathers_no_state():
    """The moments of AdamW are sharded like their parameters: an update on an fsdp mesh gathers nothing."""
    run = paper("bytes", "25m", "v5e:2x2", (1, 4, 1), "model.n_layers=2", "train.optimizer=adamw")
    assert run.memory.optimizer == pytest.approx(2 * run.memory.params, rel=0.01)
    assert [c for c in run.collectives if c.kind == "all-gather" and phase(c)[0] == "update"] == []


@pytest.mark.slow("compiles steps for described devices")
@needs_libtpu
def test_a_tensor_axis_sends_activations_alone():
    """With tensor alone no matrix is sent between devices.

    Attention and MLP of each layer sum their outputs forward and the gradients of their inputs backward.
    """
    run = paper("bytes", "25m", "v5e:2x2", (1, 1, 4), "model.n_layers=2", "train.batch_size=32")
    in_layers = [c for c in run.collectives if phase(c)[1]]
    activations = 32 * 512 * 512
    assert max(math.prod(shape) for c in in_layers for shape in c.shapes) == activations
    sums = 2 * 4 * 2 * activations * 2 * 3 / 4  # layers, sums, bytes of bfloat16, a ring all-reduce
    assert sum(c.sent for c in in_layers) == pytest.approx(sums, rel=0.05)


@functools.cache
def pod():
    """Mesh of one host of chips, with the batch slots of the codecs split over it."""
    return Mesh(np.array(tpu_devices("v5e:2x2")), ("devices",))


def compiled_slots(function, constants, rows):
    """Returns the compiled text and peak memory of a function of (constants, rows) for all slots of `pod`.

    Like `codecs.slots.map_over_local_devices`, with described devices.
    """
    place = lambda spec: lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=NamedSharding(pod(), spec))  # noqa: E731
    constants, rows = jax.tree.map(place(P()), constants), jax.tree.map(place(P("devices")), rows)
    mapped = jax.shard_map(function, mesh=pod(), in_specs=(P(), P("devices")), out_specs=P("devices"), check_vma=False)
    compiled = jax.jit(mapped).lower(constants, rows).compile(QUICK)
    assert compiled.memory_analysis().peak_memory_in_bytes < 1e9
    return compiled.as_text()


@pytest.fixture(scope="module")
def m1():
    """The pretrained M1."""
    return M1.from_bytes((PRETRAINED / "m1-en" / "m1.npz").read_bytes())


@pytest.mark.slow("compiles steps for described devices")
@needs_libtpu
def test_the_coder_compiles_without_inexact_products(m1):
    """Decoding with M1 in the loop is one TPU program without traffic between chips.

    Every matrix product in it has the precision that represents integers below 2**24 exactly.
    """
    slots, context = SLOTS[-1] * 4, m1.config.context
    rows = jnp.zeros((slots, 3), "uint32"), jnp.zeros((slots, 2 * context + 4), "uint8")
    text = compiled_slots(functools.partial(device_coder.decode_context, m1.config), m1.params, rows)
    assert collectives(text, n_devices=4) == []
    products = [line for line in text.splitlines() if " convolution(" in line or " dot(" in line]
    assert products and all("operand_precision={highest,highest}" in line for line in products)


@needs_libtpu
@pytest.mark.slow("compiles steps for described devices")
def test_windows_decode_on_a_tpu(m1):
    """The decoder of windows without a dictionary is one TPU program without traffic, too."""
    rules = WindowRules(bits=32, fill="node", align="none", m1_reset=1, context=64)
    slots = SLOTS[1] * 4
    state = device_windows.initial_state(m1.config, slots, rules) | {"place": np.zeros(slots, np.int32)}
    rows = state, jnp.zeros((slots, device_windows.TURNS, rules.n_limbs), "uint32"), jnp.zeros(slots, "int32")
    decode = functools.partial(device_windows._decode_turns, config=m1.config, rules=rules)
    assert collectives(compiled_slots(decode, m1.params, rows), n_devices=4) == []


@pytest.mark.slow("compiles steps for described devices")
@needs_libtpu
def test_the_dictionary_compiles():
    """Encoding and decoding of the dictionary's device path compile for tables of 65,536 entries and full chunks."""
    slots, chunk = SLOTS[-1] * 4, device_dictionary.CHUNK
    zeros = lambda *shape, dtype: np.zeros(shape, dtype)  # noqa: E731
    tables = zeros(300_000, dtype="uint32"), zeros(100_000, dtype="int32")
    rows = {"text": zeros(slots, chunk, dtype="uint8")}
    rows |= {"length": zeros(slots, dtype="int32"), "state": zeros(slots, dtype="uint32")}
    assert collectives(compiled_slots(device_dictionary._encode_chunk, tables, rows), n_devices=4) == []
    tables = zeros(65_536, 16, dtype="uint8"), zeros(65_536, dtype="int32"), zeros(65_536, dtype="int32")
    rows = {name: zeros(slots, dtype="int32") for name in ("count", "skip")}
    rows |= {"numbers": zeros(slots, chunk, dtype="int32")}
    assert collectives(compiled_slots(device_dictionary._decode_chunk, tables, rows), n_devices=4) == []
