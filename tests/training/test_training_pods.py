"""Two real processes train as one does, stop together, and go on exactly, through the command line."""

import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from compressed_lm import training
from compressed_lm.tracking import read_json_lines

STEPS = 100
SETTINGS = ["model.size=nano", "model.d_model=32", f"train.steps={STEPS}", "train.batch_size=8", "train.seq_len=16"]
SETTINGS += ["train.learning_rate=0.003", "train.log_every=1", "train.checkpoint_every=40", "train.seed=3"]
# Smooth, and without large steps: a relu that is 0 but for rounding passes its gradient in one of two runs, and large
# steps multiply what is between them.
SETTINGS += ["model.activation=silu"]


def start(store, out, *, mesh, devices, processes=1):
    """Starts `compressed-lm train` in so many processes and returns them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "compressed_lm", "train", "--tokens", str(store.path), "--out", str(out)]
    command += ["--mesh", mesh, "--devices", str(devices)]
    command += [f"--set={setting}" for setting in SETTINGS]
    if processes == 1:
        return [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)]
    shared = os.environ | {"COMPRESSED_LM_COORDINATOR": address, "COMPRESSED_LM_NUM_PROCESSES": str(processes)}
    return [
        subprocess.Popen(
            [*command, "--distributed", "on"],
            env=shared | {"COMPRESSED_LM_PROCESS_ID": str(i)},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def finish(processes, *, status=0):
    """Waits for processes and returns what each printed."""
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), printed
    return [out + err for out, err in printed]


def losses(out):
    return [r["loss_nats_per_token"] for r in read_json_lines(out / "metrics.jsonl") if "loss_nats_per_token" in r]


@pytest.fixture(scope="module")
def one_process(store, tmp_path_factory):
    """The run of one process with 8 devices on data."""
    out = tmp_path_factory.mktemp("pods") / "one"
    finish(start(store, out, mesh="8,1,1", devices=8))
    return out


@pytest.fixture(scope="module")
def two_processes(store, tmp_path_factory):
    """The same run in two processes with 4 devices each."""
    out = tmp_path_factory.mktemp("pods") / "two"
    printed = finish(start(store, out, mesh="8,1,1", devices=4, processes=2))
    assert "2 processes on 1 host, 8 cpu devices" in printed[0] and "mesh data 8" in printed[0]
    assert "process" not in printed[1].replace("Process 1 of 2", "")  # only the first speaks
    return out


@pytest.mark.slow
def test_two_processes_learn_what_one_does(one_process, two_processes):
    """100 losses of 2 x 4 devices equal those of 1 x 8 within 1e-5 nats per token; parameters by 1e-4 in the mean."""
    np.testing.assert_allclose(losses(two_processes), losses(one_process), atol=1e-5)
    assert len(losses(two_processes)) == STEPS
    one, two = training.load_run(one_process).params, training.load_run(two_processes).params
    # Not each alone: where a gradient is next to nothing, Adam makes a step of its rounding.
    rms = jax.tree.map(lambda a, b: float(np.sqrt(np.mean((a - b) ** 2))), two, one)
    assert max(jax.tree.leaves(rms)) < 1e-4


@pytest.mark.slow
def test_sigterm_to_both_and_a_restart_change_no_bit(store, two_processes, tmp_path):
    """Both processes save the same step and leave with 143; started again, every loss is that of the unbroken run."""
    out = tmp_path / "run"
    processes = start(store, out, mesh="8,1,1", devices=4, processes=2)
    while not (out / "metrics.jsonl").exists() or len(losses(out)) < 10:
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.02)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    printed = finish(processes, status=128 + signal.SIGTERM)
    assert "Stopped by SIGTERM after step" in printed[0]
    stopped = training.load_run(out)
    assert 10 <= stopped.step < STEPS
    finish(start(store, out, mesh="8,1,1", devices=4, processes=2))
    assert losses(out) == losses(two_processes)
    jax.tree.map(np.testing.assert_array_equal, training.load_run(out).params, training.load_run(two_processes).params)


@pytest.mark.slow
def test_a_checkpoint_moves_to_another_mesh(store, one_process, tmp_path):
    """A checkpoint of (data 8) goes on on (fsdp 4, tensor 2), and the losses stay within 1e-5 of the unbroken run's."""
    out = tmp_path / "run"
    processes = start(store, out, mesh="8,1,1", devices=8)
    while not (out / "metrics.jsonl").exists() or len(losses(out)) < 10:
        assert processes[0].poll() is None, finish(processes)
        time.sleep(0.02)
    processes[0].send_signal(signal.SIGTERM)
    finish(processes, status=128 + signal.SIGTERM)
    step = training.load_run(out).step
    finish(start(store, out, mesh="1,4,2", devices=8))
    assert step < STEPS == len(losses(out))
    assert losses(out)[:step] == losses(one_process)[:step]
    np.testing.assert_allclose(losses(out), losses(one_process), atol=1e-5)
