"""A run learns, is the same on every mesh, and comes back from anything exactly where it was."""

import contextlib
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compressed_lm import models, training
from compressed_lm.errors import InputError
from compressed_lm.post_training.quantize import quantize_run
from compressed_lm.tracking import read_json_lines
from compressed_lm.training.checkpoints import Checkpoints


class SignalAt:
    """A tracker that sends this process a signal when a step's metrics arrive."""

    def __init__(self, step, signum):
        self.step, self.signum = step, signum

    def scalars(self, step, values):
        if step == self.step:
            os.kill(os.getpid(), self.signum)


def steps_on_disk(out):
    return sorted(int(path.name) for path in (out / "checkpoints").iterdir() if path.name.isdigit())


def test_a_run_learns_and_leaves_what_it_promises(uninterrupted, small_run, tmp_path):
    """Loss falls well below a uniform guess; config, metrics and checkpoints are on disk; load_run reads them."""
    seen = []
    result = small_run(tmp_path / "run", eval_every=10, eval_fn=lambda params, step: seen.append(step) or {"x": step})
    assert result.step == 24 and result.n_tokens == 24 * 8 * 16
    assert result.loss_nats_per_token < 3.5 < np.log(257)
    records = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if "loss_nats_per_token" in r] == [4, 8, 12, 16, 20, 24]
    assert seen == [r["step"] for r in records if "x" in r] == [10, 20, 24]
    assert steps_on_disk(tmp_path / "run") == [20, 24]
    run = training.load_run(tmp_path / "run")
    assert (run.step, run.train_config.eval_every, run.model_config) == (24, 10, small_run.model)
    assert (run.codec_spec, run.store_fingerprint, run.eod_id) == ("bytes", small_run.store.fingerprint, 256)
    assert run.loss_nats_per_token == result.loss_nats_per_token
    jax.tree.map(np.testing.assert_array_equal, run.params, result.params)


@pytest.mark.slow("trains several runs")
@pytest.mark.parametrize(
    ("section", "name", "value"), [("model", "activation", "silu"), ("model", "norm_eps", 1e-3), ("data", "eod_id", 3)]
)
def test_a_configuration_that_was_edited_is_refused(section, name, value, small_run, tmp_path):
    """Checkpoints and packed weights load only with the config.json they were trained with.

    Settings that only observe a run may differ.
    """
    out = tmp_path / "run"
    small_run(out, steps=4)
    quantize_run(out, "int(b=4,g=16)", out=tmp_path / "packed")
    for folder in (out, tmp_path / "packed"):
        content = (folder / "config.json").read_text()
        record = json.loads(content)
        assert record[section][name] != value
        record[section][name] = value
        (folder / "config.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match="config.json was changed after the run began"):
            training.load_run(folder)
        record = json.loads(content)
        record["train"]["log_every"] = 77
        (folder / "config.json").write_text(json.dumps(record))
        training.load_run(folder)


def test_weights_that_are_not_finite_are_refused(small_run, tmp_path):
    """A checkpoint with NaN gives no model, whatever it is loaded for; the message names the parameter."""
    out = tmp_path / "run"
    small_run(out, steps=4)
    params = jax.tree.map(np.array, training.load_run(out).params)
    jax.tree.leaves(params)[0].flat[3] = np.nan
    params = jax.tree.map(jnp.asarray, params)
    data = {"next_index": 5, "loss_nats_per_token": 1.0}
    with contextlib.closing(Checkpoints(out / "checkpoints", keep=2, keep_every=0)) as checkpoints:
        checkpoints.save(types.SimpleNamespace(params=params, opt_state=params, step=jnp.int32(5)), data)
    with pytest.raises(InputError, match="^1 of the .* numbers of .* are NaN or infinite"):
        training.load_run(out)


def test_a_finished_run_returns_at_once(small_run, uninterrupted, same_bits, tmp_path):
    """Training again into a finished folder reads the result and makes no step."""
    first = small_run(tmp_path, eval_fn=lambda params, step: {})
    again = small_run(tmp_path, eval_fn=lambda params, step: pytest.fail("it trained again"))
    assert same_bits(first, again) and same_bits(first, uninterrupted)


SCRIPT = """
import sys
sys.path[:0] = {path!r}
import jax
jax.config.update("jax_num_cpu_devices", 8)
from compressed_lm.data.store import TokenStore
import conftest, test_training_loop
store = TokenStore.open({store!r})
conftest.SmallRun(store, {cache!r})({out!r}, log_every=1, trackers=[test_training_loop.SignalAt({step}, 9)])
"""


@pytest.mark.slow("trains several runs")
@pytest.mark.parametrize("step", [3, 18])
def test_kill_9_then_rerun_equals_uninterrupted(step, small_run, uninterrupted, same_bits, tmp_path):
    """A process killed by SIGKILL, before or after its first checkpoint, and started again ends in the same bits."""
    here = pathlib.Path(__file__).parent
    paths = [str(here), str(here.parent), str(here.parents[1])]
    run = {"store": str(small_run.store.path), "cache": small_run.compilation_cache, "out": str(tmp_path / "run")}
    script = SCRIPT.format(path=paths, step=step, **run)
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert step in [r["step"] for r in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    resumed = small_run(tmp_path / "run", log_every=1)
    assert same_bits(resumed, uninterrupted)
    steps = [r["step"] for r in read_json_lines(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, 25)), "each step is recorded once, whatever the killed process had written"


def test_sigterm_saves_and_leaves(small_run, uninterrupted, same_bits, tmp_path):
    """SIGTERM ends the process with 143 after a checkpoint of the current step; the rerun ends in the same bits."""
    with pytest.raises(SystemExit) as exit_info:
        small_run(tmp_path, log_every=1, trackers=[SignalAt(12, signal.SIGTERM)])
    assert exit_info.value.code == 143
    assert steps_on_disk(tmp_path)[-1] == 13  # the metrics of step 12 arrive while step 13 runs
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert same_bits(small_run(tmp_path), uninterrupted)


def flip_one_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


DAMAGES = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "removed": lambda file: file.unlink(),
    "one bit flipped": flip_one_bit,
}
# The reader's own tasks complain when a file under them is gone.
quiet_reader = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.mark.slow("trains several runs")
@quiet_reader
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(damage, small_run, uninterrupted, same_bits, tmp_path):
    """With the newest checkpoint damaged, the run warns, resumes from the one before, and ends in the same bits."""
    with pytest.raises(SystemExit):
        small_run(tmp_path, log_every=1, trackers=[SignalAt(12, signal.SIGTERM)])
    files = [file for file in (tmp_path / "checkpoints" / "13" / "params").rglob("d/*") if file.is_file()]
    DAMAGES[damage](max(files, key=lambda file: file.stat().st_size))
    with pytest.warns(UserWarning, match="checkpoint of step 13 cannot be read and is skipped"):
        resumed = small_run(tmp_path)
    assert same_bits(resumed, uninterrupted)


@quiet_reader
def test_no_readable_checkpoint_is_an_error(small_run, tmp_path):
    """When every checkpoint is damaged the run does not silently start again."""
    with pytest.raises(SystemExit):
        small_run(tmp_path, log_every=1, trackers=[SignalAt(2, signal.SIGTERM)])
    for file in (tmp_path / "checkpoints").rglob("manifest.ocdbt"):
        file.unlink()
    with pytest.warns(UserWarning), pytest.raises(InputError, match="None of the checkpoints .* can be read"):
        small_run(tmp_path)


@pytest.mark.slow("trains several runs")
def test_divergence_stops_and_names_the_last_good_checkpoint(small_run, tmp_path):
    """A loss that is not finite ends the run, and no checkpoint of the broken state is written."""
    with pytest.raises(
        training.TrainingDiverged, match="diverged at step .* last good checkpoint is that of step 1 "
    ) as e:
        small_run(tmp_path, learning_rate=1e25, grad_clip=0.0, weight_decay=0.0, warmup_steps=0, checkpoint_every=1)
    assert isinstance(e.value, InputError)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(training.load_run(tmp_path).params))


def test_another_store_or_configuration_is_refused(small_run, other_store, tmp_path):
    """A folder resumes only with the data and settings it was started with; settings that only observe may change."""
    small_run(tmp_path)
    with pytest.raises(InputError, match="another token store .*store_fingerprint .* another `out` folder"):
        small_run(tmp_path, store=other_store)
    with pytest.raises(InputError, match=r"another configuration \(train.steps 24 -> 3; train.seed 3 -> 4\)"):
        small_run(tmp_path, steps=3, seed=4)
    assert small_run(tmp_path, log_every=1, keep=1).step == 24


def test_what_does_not_fit_is_refused(small_run, tmp_path):
    """Batch and mesh, vocabulary and store, number of devices: each misfit says what to change."""
    with pytest.raises(InputError, match="batch_size=12 .* expected a multiple of 8"):
        small_run(tmp_path, batch_size=12, mesh_shape=(4, 2, 1))
    with pytest.raises(InputError, match="vocab_size=256, but the token store's ids go up to 256"):
        type(small_run)(small_run.store, model=training.step.TransformerConfig(vocab_size=256))(tmp_path)
    with pytest.raises(InputError, match="at most the number of devices, 8"):
        small_run(tmp_path, mesh_shape=(3, 3, 1))
    with pytest.raises(InputError, match="seq_len=100000"):
        small_run(tmp_path, seq_len=100_000)
    with pytest.raises(InputError, match="has no config.json"):
        training.load_run(tmp_path / "nothing")


def test_checkpoints_by_time_and_for_good(small_run, tmp_path):
    """Minutes make temporary checkpoints, of which the newest stay; multiples of `keep_every` are kept permanently."""
    small_run(tmp_path, checkpoint_every=1000, checkpoint_minutes=1e-9, keep=2, keep_every=6)
    assert steps_on_disk(tmp_path) == [6, 12, 18, 20, 24]


@pytest.mark.slow("trains several runs")
def test_durations_are_resolved_by_the_store(small_run, tmp_path):
    """A run of one epoch has as many steps as the store has batches, and saves at half of it."""
    batches = math.ceil((small_run.store.n_tokens + small_run.store.n_documents) / (8 * 16))
    assert small_run(tmp_path, steps="1 epoch", checkpoint_every="50%", keep=9).step == batches
    assert steps_on_disk(tmp_path)[0] == math.ceil(batches / 2)


def test_speed_is_recorded(small_run, tmp_path, monkeypatch):
    """Bytes follow tokens at the store's bytes per token; MFU is FLOPs a second over the peak of the devices."""
    monkeypatch.setattr(training.hardware, "peak_flops", lambda device: 1e9)
    small_run(tmp_path, log_every=24)
    (record,) = read_json_lines(tmp_path / "metrics.jsonl")
    ratio = small_run.store.n_bytes / (small_run.store.n_tokens + small_run.store.n_documents)
    assert record["tokens"] == 24 * 8 * 16 and record["bytes"] == pytest.approx(record["tokens"] * ratio)
    assert record["bytes_per_second"] == pytest.approx(record["tokens_per_second"] * ratio)
    flops = models.training_flops_per_token(small_run.model, seq_len=16)
    assert record["mfu"] == pytest.approx(record["tokens_per_second"] * flops / 1e9)
    assert 0 <= record["input_wait"] <= 1 and record["eta_seconds"] == 0


def test_a_trace_of_chosen_steps_is_written(small_run, tmp_path):
    """`profile_steps` leaves a trace that TensorBoard and Perfetto read."""
    small_run(tmp_path, options={"profile_steps": (2, 3)})
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow("trains several runs")
def test_debug_computes_the_same_and_names_the_first_nan(small_run, tmp_path):
    """Two uncompiled steps of the warm-up have the losses of the compiled run within 1e-4.

    A NaN raises where it arises.
    """
    small_run(tmp_path / "compiled", log_every=1)
    small_run(tmp_path / "debug", steps=2, log_every=1, options={"debug": True})
    losses = [
        [record["loss_nats_per_token"] for record in read_json_lines(tmp_path / name / "metrics.jsonl")]
        for name in ("compiled", "debug")
    ]
    assert len(losses[1]) == 2
    np.testing.assert_allclose(losses[1], losses[0][:2], atol=1e-4)
    with pytest.raises(FloatingPointError, match="nan"):
        small_run(tmp_path / "nan", steps=4, options={"debug": True}, learning_rate=1e38, warmup_steps=0, grad_clip=0.0)


GOLDEN = {4: 5.087080, 8: 3.661203, 12: 2.987628, 16: 2.439166, 20: 1.998520, 24: 2.109564}


def test_golden_metrics(small_run, tmp_path):
    """The losses of the small run are those of the day it was written down."""
    small_run(tmp_path)
    found = {r["step"]: r["loss_nats_per_token"] for r in read_json_lines(tmp_path / "metrics.jsonl")}
    assert found == pytest.approx(GOLDEN, rel=1e-3), (
        f"The small run's losses changed from {GOLDEN} to {found}. If step 4 differs already, what changed is the "
        "initial parameters, the data order or the loss; if only later ones do, the optimizer or the schedule. Mere "
        "rounding stays below the tolerance. If you meant to change what is learned, put the new numbers here and say "
        "so in the commit; if not, find the change with `git bisect run`: this test is quick."
    )


BLOCKED = (
    "tensorflow tensorflow_datasets seqio clu sentencepiece numba pandas matplotlib scipy.optimize tensorboardX".split()
)
ALONE = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))  # as if they were not installed
from compressed_lm.cli import main
sys.exit(main(["train", "--store", {store!r}, "--out", {out!r}, "--validation_store", {store!r}, "--size", "nano",
               "--steps", "2", "--set", "train.seq_len=16"]))
"""


@pytest.mark.slow("trains several runs")
def test_the_trainer_needs_few_packages(small_run, tmp_path):
    """jax, flax, optax, orbax, grain, array-record and gin suffice: training works without TensorFlow and the rest."""
    code = ALONE.format(blocked=BLOCKED, store=str(small_run.store.path), out=str(tmp_path / "run"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "step 2," in done.stdout
