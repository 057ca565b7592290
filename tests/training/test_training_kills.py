"""A run survives being killed at any moment."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from compressed_lm import training
from compressed_lm.tracking import read_json_lines

N_KILLS = 20

# Imports come once; each life of the run is a fork made before JAX starts any thread.
SCRIPT = """
import os, random, signal, sys, time
sys.path[:0] = {path!r}
import jax
jax.config.update("jax_num_cpu_devices", 8)
from compressed_lm.corpora.store import TokenStore
import conftest

class Slow:
    "Makes steps long enough to be killed in."
    def scalars(self, step, values):
        open({beat!r}, "w").close()
        time.sleep(0.04)
    def text(self, step, name, value): pass
    def close(self): pass

def live(out, trackers):
    pid = os.fork()
    if pid:
        return pid
    try:
        run = conftest.SmallRun(TokenStore.open({store!r}), {cache!r})
        run(out, trackers=trackers, steps={steps}, checkpoint_every=2, log_every=1)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

assert os.waitpid(live({out!r} + "/whole", []), 0)[1] == 0
moments = random.Random(0)
for kill in range({n_kills}):
    if os.path.exists({beat!r}):
        os.remove({beat!r})
    pid = live({out!r} + "/killed", [Slow()])
    while not os.path.exists({beat!r}):  # its first step since it started again
        time.sleep(0.005)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), f"life {{kill}} ended before it was killed"
    time.sleep(moments.uniform(0, 0.6))
    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, f"life {{kill}} ended before it was killed"
assert os.waitpid(live({out!r} + "/killed", []), 0)[1] == 0
"""


@pytest.mark.slow
def test_20_kills_at_random_moments_leave_no_trace(small_run, tmp_path):
    """SIGKILL at 20 random moments, of writing checkpoints too: each restart goes on, and the end has the same bits."""
    here = pathlib.Path(__file__).parent
    script = SCRIPT.format(
        path=[str(here), str(here.parents[1])],
        store=str(small_run.store.path),
        cache=small_run.compilation_cache,
        out=str(tmp_path),
        beat=str(tmp_path / "beat"),
        steps=400,
        n_kills=N_KILLS,
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    whole, killed = (training.load_run(tmp_path / name) for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, killed.params, whole.params)
    assert killed.loss_nats_per_token == whole.loss_nats_per_token
    records = [read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    losses = [[(record["step"], record["loss_nats_per_token"]) for record in table] for table in records]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == list(range(1, 401))
