"""A run survives being killed at any moment."""

import os
import pathlib
import subprocess
import sys

import pytest

from compressed_lm import training
from compressed_lm.tracking import read_json_lines

MOMENTS = ("checkpoint", "later", "starting", "checkpoint")

# Imports come once; each life of the run is a fork made before JAX starts any thread.
SCRIPT = """
import glob, os, signal, sys, time
sys.path[:0] = {path!r}
import jax
jax.config.update("jax_num_cpu_devices", 8)
from compressed_lm.data.store import TokenStore
import conftest

class Slow:
    "Makes steps long enough to be killed in."
    def scalars(self, step, values):
        open({beat!r}, "w").close()
        time.sleep(0.04)
    def text(self, step, name, value): pass
    def close(self): pass

def live(trackers):
    pid = os.fork()
    if pid:
        return pid
    try:
        run = conftest.SmallRun(TokenStore.open({store!r}), {cache!r})
        run({out!r}, trackers=trackers, checkpoint_every=2, log_every=1)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

def wait(pid, reached):
    while not reached():
        time.sleep(0.001)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "a life ended before it was killed"

def unfinished():
    return glob.glob({out!r} + "/checkpoints/*orbax-checkpoint-tmp*")

def stopped_while_writing(pid):
    if not unfinished():
        return False
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    if not unfinished():  # it was renamed in between
        os.kill(pid, signal.SIGCONT)
    return bool(unfinished())

for moment in {moments!r}:
    if os.path.exists({beat!r}):
        os.remove({beat!r})
    begun = time.monotonic()
    pid = live([Slow()])
    if moment == "starting":  # while it restores and compiles
        time.sleep(start_seconds / 2)
        assert not os.path.exists({beat!r})
    else:
        wait(pid, lambda: os.path.exists({beat!r}))  # its first step since it started again
        start_seconds = time.monotonic() - begun
        if moment == "checkpoint":
            wait(pid, lambda: stopped_while_writing(pid))
        elif moment == "later":
            time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, "a life ended before it was killed"
assert os.waitpid(live([]), 0)[1] == 0
"""


@pytest.mark.slow("kills a training run again and again")
def test_kills_at_every_kind_of_moment_leave_no_trace(small_run, same_bits, tmp_path):
    """A run killed by SIGKILL at any time resumes and ends with the same bits.

    The kills hit while a checkpoint is written (the first and a later one), while a run restores and compiles, and
    between steps.
    """
    here = pathlib.Path(__file__).parent
    script = SCRIPT.format(
        path=[str(here.parent), str(here.parents[1])],
        store=str(small_run.store.path),
        cache=small_run.compilation_cache,
        out=str(tmp_path / "killed"),
        beat=str(tmp_path / "beat"),
        moments=MOMENTS,
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    whole, killed = small_run(tmp_path / "whole", log_every=1), training.load_run(tmp_path / "killed")
    assert same_bits(killed, whole)
    records = [read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    losses = [[(record["step"], record["loss_nats_per_token"]) for record in table] for table in records]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == list(range(1, 25))
