"""Two real processes train like one, stop together and resume exactly, through the command line."""

import os
import pathlib
import shutil
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
# Smooth activations and small steps: near 0, rounding decides whether a relu passes its gradient, and large steps
# multiply the difference between two runs.
SETTINGS += ["model.activation=silu"]


LOCAL = pathlib.Path(__file__).parents[2] / "launch" / "local.sh"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def start(store):
    """Returns a function that starts `compressed-lm train` in one or two processes and returns them."""

    def start(out, *, mesh="8,1,1", devices=8, processes=1):
        command = [sys.executable, "-m", "compressed_lm", *arguments(store, out, mesh), "--devices", str(devices)]
        pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        if processes == 1:
            return [subprocess.Popen(command, **pipes)]
        address = {"COMPRESSED_LM_COORDINATOR": f"127.0.0.1:{free_port()}", "COMPRESSED_LM_NUM_PROCESSES": "2"}
        indices = [address | {"COMPRESSED_LM_PROCESS_ID": str(i)} for i in range(2)]
        return [subprocess.Popen([*command, "--distributed", "on"], env=os.environ | i, **pipes) for i in indices]

    return start


def arguments(store, out, mesh):
    settings = [f"--set={setting}" for setting in SETTINGS]
    return ["train", "--store", str(store.path), "--out", str(out), "--mesh", mesh, *settings]


@pytest.fixture(scope="module")
def start_locally(store):
    """Returns a function that starts the run of two processes with `local.sh`."""
    program = {"COMPRESSED_LM": str(pathlib.Path(sys.executable).with_name("compressed-lm"))}

    def start_locally(out):
        command = [str(LOCAL), "--port", str(free_port()), "--", *arguments(store, out, "8,1,1")]
        pipes = {"stderr": subprocess.STDOUT, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=os.environ | program, **pipes)

    return start_locally


def finish(processes, *, status=0):
    """Waits for processes; returns their outputs."""
    printed = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), printed
    return [out + (err or "") for out, err in printed]


def losses(out):
    return [r["loss_nats_per_token"] for r in read_json_lines(out / "metrics.jsonl") if "loss_nats_per_token" in r]


@pytest.fixture(scope="module")
def one_process(start, tmp_path_factory):
    """Run of one process with 8 devices on the data axis."""
    out = tmp_path_factory.mktemp("pods") / "one"
    finish(start(out))
    return out


@pytest.fixture(scope="module")
def two_processes(start, tmp_path_factory):
    """The same run in two processes with 4 devices each."""
    out = tmp_path_factory.mktemp("pods") / "two"
    printed = finish(start(out, devices=4, processes=2))
    assert "2 processes on 1 host, 8 cpu devices" in printed[0] and "mesh data 8" in printed[0]
    assert "process" not in printed[1].replace("Process 1 of 2", "")  # only the first process prints
    return out


@pytest.fixture(scope="module")
def stopped(start_locally, tmp_path_factory):
    """The same run with `local.sh`, stopped by SIGTERM after some steps."""
    out = tmp_path_factory.mktemp("pods") / "stopped"
    process = start_locally(out)
    while not (out / "metrics.jsonl").exists() or len(losses(out)) < 10:
        assert process.poll() is None, finish([process])
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    (printed,) = finish([process], status=128 + signal.SIGTERM)
    assert "[0] Stopped by SIGTERM after step" in printed
    assert 10 <= training.load_run(out).step < STEPS
    return out


@pytest.mark.slow("trains in several processes")
def test_two_processes_learn_what_one_does(one_process, two_processes):
    """100 losses of 2 x 4 devices equal those of 1 x 8 within 1e-5 nats per token; mean parameters within 1e-4."""
    np.testing.assert_allclose(losses(two_processes), losses(one_process), atol=1e-5)
    assert len(losses(two_processes)) == STEPS
    one, two = training.load_run(one_process).params, training.load_run(two_processes).params
    # Means, not maxima: for a gradient near 0 the step of Adam is determined by rounding.
    rms = jax.tree.map(lambda a, b: float(np.sqrt(np.mean((a - b) ** 2))), two, one)
    assert max(jax.tree.leaves(rms)) < 1e-4


@pytest.mark.slow("trains in several processes")
def test_sigterm_to_both_and_a_restart_change_no_bit(start_locally, stopped, two_processes, tmp_path):
    """SIGTERM to `local.sh` reaches both processes, and a restart resumes exactly.

    Both save the same step and exit with 143. After the restart every loss is logged once and equals that of the
    uninterrupted run.
    """
    out = shutil.copytree(stopped, tmp_path / "run")
    finish([start_locally(out)])
    assert losses(out) == losses(two_processes) and len(losses(out)) == STEPS
    jax.tree.map(np.testing.assert_array_equal, training.load_run(out).params, training.load_run(two_processes).params)


@pytest.mark.slow("trains in several processes")
def test_a_checkpoint_moves_to_another_mesh(start, stopped, two_processes, one_process, tmp_path):
    """A checkpoint of two processes on (data 8) resumes in one process on (fsdp 4, tensor 2).

    The losses stay within 1e-5 of those of the uninterrupted run.
    """
    out = shutil.copytree(stopped, tmp_path / "run")
    step = training.load_run(out).step
    finish(start(out, mesh="1,4,2"))
    assert step < STEPS == len(losses(out))
    assert losses(out)[:step] == losses(two_processes)[:step]
    np.testing.assert_allclose(losses(out), losses(one_process), atol=1e-5)
