"""Startup: started processes are joined, refused if they differ, and never wait without a message."""

import functools
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import pytest

from compressed_lm.distributed import clusters, processes, startup
from compressed_lm.errors import InputError
from compressed_lm.training import make_mesh

SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[001-004]",
    "SLURM_STEP_NUM_TASKS": "4",
}
OWN = {
    "COMPRESSED_LM_COORDINATOR": "10.0.0.1:1234",
    "COMPRESSED_LM_NUM_PROCESSES": "4",
    "COMPRESSED_LM_PROCESS_ID": "3",
}


@pytest.mark.parametrize(
    ("environ", "several", "method"),
    [
        ({}, False, "deactivate"),
        (OWN, True, "deactivate"),
        (OWN | SRUN, True, "deactivate"),  # the choice of the user wins
        (OWN | {"COMPRESSED_LM_NUM_PROCESSES": "1", "COMPRESSED_LM_PROCESS_ID": "0"}, False, "deactivate"),
        (SRUN, True, "slurm"),
        (SRUN | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, False, "slurm"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_MCA_orte_hnp_uri": "x"}, True, "ompi"),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}, True, "gketpu"),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True, "gketpu"),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_WORKER_HOSTNAMES": "localhost"}, False, "gketpu"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"}, False, "deactivate"),  # no chips on this machine
    ],
)
def test_what_starts_several_processes(environ, several, method):
    """Each launcher is recognised by its environment variables, and one process is not taken for several."""
    cluster = clusters.detect(environ)
    assert (cluster.several, cluster.method) == (several, method)
    assert cluster.note == ""


def test_own_variables_become_arguments_of_jax():
    """The three COMPRESSED_LM variables are passed to jax.distributed."""
    assert clusters.detect(OWN).settings == {
        "coordinator_address": "10.0.0.1:1234",
        "num_processes": 4,
        "process_id": 3,
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"SLURM_STEP_NODELIST": None, "SLURM_STEP_NUM_TASKS": None},
            "SLURM_STEP_NODELIST is not set",
        ),  # sbatch, salloc
        ({"SLURM_LOCALID": None, "SLURM_PROCID": None}, "SLURM_PROCID, SLURM_LOCALID are not set"),
        ({"SLURM_STEP_NUM_TASKS": "1"}, "its step has 1 of the job's 4 tasks"),
        ({"SLURM_PTY_PORT": "44152"}, "it is an interactive shell (SLURM_PTY_PORT is set)"),
    ],
)
def test_a_shell_inside_a_slurm_job_is_not_a_task(changes, why):
    """Partial Slurm variables (jax-ml/jax issue 30073) start one process, with a note of what was found."""
    environ = {k: v for k, v in (SRUN | {"SLURM_PROCID": "0"} | changes).items() if v is not None}
    cluster = clusters.detect(environ)
    assert not cluster.several and cluster.note == (
        f"Slurm job 77 has 4 tasks, but this process was not started by srun: {why}. It runs alone; start it by srun "
        "to run on all tasks."
    )


def test_a_shell_on_a_node_of_a_job_for_one_process_says_nothing():
    """A login on a node of a job has only SLURM_JOB_ID, for which no note is printed."""
    assert clusters.detect({"SLURM_JOB_ID": "77"}) == clusters.Cluster()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (OWN | {"COMPRESSED_LM_PROCESS_ID": ""}, "process_id is missing; give all of coordinator_address"),
        (OWN | {"COMPRESSED_LM_PROCESS_ID": "4"}, "process_id=4 of num_processes=4 .* at most 3"),
        (
            OWN | {"COMPRESSED_LM_NUM_PROCESSES": "four"},
            "COMPRESSED_LM_NUM_PROCESSES=four.*num_processes='four' .* expected whole numbers",
        ),
        (OWN | {"COMPRESSED_LM_COORDINATOR": "node1"}, "'node1' was given; expected host:port"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_NTASKS"}, "task 2 of Slurm job 77.*SLURM_NTASKS is not set"),
        ({"KUBERNETES_SERVICE_HOST": "h", "JOB_COMPLETION_INDEX": "1"}, "process 1 of a Kubernetes .*jobset.sh"),
    ],
)
def test_one_of_several_that_cannot_join_is_an_error(environ, message):
    """If several processes surely run, none of them may run alone and write to the same folder."""
    with pytest.raises(InputError, match=message):
        clusters.detect(environ)


def test_open_mpi_5_needs_help(monkeypatch):
    """Open MPI 5 does not name its first host; without mpi4py the error names both solutions."""
    environ = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="Install mpi4py, or set COMPRESSED_LM_COORDINATOR=HOST:PORT"):
        clusters.detect(environ)
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: name)
    assert clusters.detect(environ).method == "mpi4py"


@pytest.mark.parametrize(("slices", "workers"), [("", 4), ("ACCELERATOR_TYPE: 'v4-32'\nMEGASCALE_NUM_SLICES: '2'", 8)])
def test_tpu_workers_come_from_the_metadata_server(slices, workers):
    """On a TPU VM the number of workers is that of Google's metadata server, times the slices."""
    answers = {"worker-network-endpoints": "u:0:10.0.0.1,u:1:10.0.0.2,u:2:10.0.0.3,u:3:10.0.0.4", "tpu-env": slices}

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[self.path.removeprefix("/computeMetadata/v1/instance/attributes/")].encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        cluster = clusters.detect({"TPU_ML_PLATFORM": "JAX", "GCE_METADATA_IP": host})
        server.shutdown()
    assert (cluster.several, cluster.name, cluster.method) == (True, f"a TPU with {workers} workers", "gcetpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(mode="maybe"), "distributed='maybe' was given; expected auto, off or on"),
        (dict(mode="off", process_id=1), "distributed=off was given together with process_id=1"),
        (dict(mode="on", process_id=1), "coordinator_address, num_processes is missing"),
        (dict(coordinator_address="a:1", num_processes=2, process_id=2), "process_id=2 of num_processes=2"),
        (dict(mode="on"), "not started as one of several. Looked for COMPRESSED_LM_COORDINATOR.*launch"),
    ],
)
def test_wrong_arguments(arguments, message, monkeypatch):
    """Each wrong combination of arguments is an error that names what was given."""
    for name in (*clusters.VARIABLES, *clusters.SLURM, "TPU_ML_PLATFORM"):  # TensorFlow also sets the last one
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=message):
        startup.initialize(**arguments)


def test_on_reports_what_was_seen(monkeypatch):
    """distributed=on in a shell of a Slurm job explains why the job does not count."""
    for name, value in (SRUN | {"SLURM_PROCID": "0", "SLURM_PTY_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TPU_ML_PLATFORM", raising=False)
    with pytest.raises(InputError, match="Slurm job 77 has 4 tasks, but .* interactive shell"):
        startup.initialize("on")
    assert "runs alone" in startup.initialize("auto")
    assert startup.initialize("off") == ""


def test_jax_that_already_runs_is_an_error():
    """Joining after JAX has started its devices is an error."""
    jax.devices()
    with pytest.raises(InputError, match="JAX already runs in this process.*initialize first"):
        startup.initialize(coordinator_address="127.0.0.1:1", num_processes=1, process_id=0)


def test_the_table_of_one_process():
    """One process needs no coordinator; its table has one row, the mesh and the versions."""
    lines = startup.startup_table(make_mesh((4, 2, 1))).splitlines()
    assert lines[0].split() == ["process", "host", "pid", "devices"]
    assert lines[1].split() == ["0", socket.gethostname(), str(os.getpid()), "8", "cpu"]
    assert lines[2] == "1 process on 1 host, 8 cpu devices; mesh data 4, fsdp 2, tensor 1"
    assert f"jax {jax.__version__}" in lines[3] and "compressed_lm 0" in lines[3]


def test_the_table_of_a_pod():
    """The table of a pod aligns columns, adds devices by kind and counts hosts once."""
    members = [
        startup.Member("worker-0", 17, 4, "TPU v5 lite"),
        startup.Member("worker-0", 4321, 4, "TPU v5 lite"),
        startup.Member("w1", 9, 1, "cpu"),
    ]
    text = startup.render(members, installed={"jax": "0.10.2", "python": "3.11.7"}, mesh_shape={"data": 9})
    assert text.splitlines() == [
        "process  host      pid   devices",
        "0        worker-0  17    4 TPU v5 lite",
        "1        worker-0  4321  4 TPU v5 lite",
        "2        w1        9     1 cpu",
        "3 processes on 2 hosts, 8 TPU v5 lite devices, 1 cpu device; mesh data 9",
        "jax 0.10.2, python 3.11.7",
    ]


def test_differences_name_process_and_host():
    """Processes that differ from the majority are named with their hosts; equal ones pass."""
    processes.refuse_differences("the config", ["a", "b"], ["1", "1"])
    with pytest.raises(InputError) as error:
        processes.refuse_differences("the config", ["a", "b", "c"], ["91bc", "3f2a", "91bc"])
    assert str(error.value) == (
        "The processes of this run differ in the config: process 1 (b) has 3f2a; the other 2 have 91bc. They would "
        "wait for each other forever. Start all with the same command, files and packages."
    )


HEADER = """
import os, signal, sys, time
import jax
jax.config.update("jax_num_cpu_devices", 4)
from compressed_lm.distributed import processes, startup
from compressed_lm.training import make_mesh
index = int(os.environ["COMPRESSED_LM_PROCESS_ID"])
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_two(script, *, indices=(0, 1), timeout=60):
    """Runs a script as both processes of a run; returns [(status, stdout + stderr), ...]."""
    own = {"COMPRESSED_LM_COORDINATOR": f"127.0.0.1:{free_port()}", "COMPRESSED_LM_NUM_PROCESSES": "2"}
    start = functools.partial(
        subprocess.Popen,
        [sys.executable, "-c", HEADER + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = [start(env=os.environ | own | {"COMPRESSED_LM_PROCESS_ID": str(i)}) for i in indices]
    try:
        logs = [process.communicate(timeout=timeout)[0] for process in running]
        return [(process.returncode, log) for process, log in zip(running, logs, strict=True)]
    finally:
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait()


TOGETHER = """
print(startup.initialize("auto"))
print(processes.here(), processes.gather("letters", "ab"[index]), processes.gather("letters", "cd"[index]))
print(startup.startup_table(make_mesh((4, 2, 1))))
processes.check_same("the number two", "2")
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
ones = jax.make_array_from_callback((8,), NamedSharding(make_mesh(), P("data")), lambda i: jnp.ones(8)[i])
print("sum", float(jax.jit(jnp.sum)(ones)), jax.config.jax_cpu_collectives_implementation)
processes.check_same("the configuration", "same" if index == 0 else "other")
"""


def test_two_processes_join_speak_compute_and_refuse_to_differ():
    """Two real processes print a table and sum over both (gloo); a difference is one error in both."""
    start = time.monotonic()
    results = run_two(TOGETHER)
    for index, (status, log) in enumerate(results):
        assert f"Process {index} of 2, from COMPRESSED_LM_COORDINATOR." in log
        assert f"({index}, 2) ['a', 'b'] ['c', 'd']" in log
        assert "2 processes on 1 host, 8 cpu devices; mesh data 4, fsdp 2, tensor 1" in log
        assert "sum 8.0 gloo" in log
        assert status == 1 and "InputError: The processes of this run differ in the configuration: process" in log
        assert "leaves the others" not in log
    assert time.monotonic() - start < 45  # JAX alone may wait 300 s at exit


@pytest.mark.slow("starts several processes, which wait for each other")
def test_the_coordinator_that_is_not_there():
    """Process 1 alone ends with an error that names the address and the reason, instead of an abort by JAX."""
    ((status, log),) = run_two('startup.initialize("on", timeout_seconds=2)', indices=[1])
    assert status == 1 and "Process 1 of 2" in log
    assert "waited 2 s: the coordinator 127.0.0.1:" in log and "Connection refused" in log
    assert "Check failure stack trace" not in log


@pytest.mark.slow("starts several processes, which wait for each other")
def test_the_processes_that_do_not_come():
    """Process 0 alone ends with an error that others are missing."""
    ((status, log),) = run_two('startup.initialize("on", timeout_seconds=2)', indices=[0])
    assert status == 1 and "waited 2 s: not all processes reached the coordinator 127.0.0.1:" in log
    assert "Check failure stack trace" not in log


@pytest.mark.slow("starts several processes, which wait for each other")
def test_a_process_that_does_not_come_to_a_meeting_is_named():
    """`gather` names the index of a missing process."""
    script = """
startup.initialize("on")
if index == 1:
    time.sleep(4)
else:
    try:
        processes.gather("meeting", "x", timeout_seconds=1)
    except Exception as error:
        print(type(error).__name__, error)
"""
    (status, log), _ = run_two(script)
    assert "InputError meeting: waited 1 s for process 1 of 2, which did not reach this point." in log


@pytest.mark.slow("starts several processes, which wait for each other")
def test_an_exception_in_one_process_ends_the_run_in_seconds():
    """A process that fails while the other waits exits at once; JAX alone would wait 300 s at exit."""
    script = """
startup.initialize("on", heartbeat_seconds=10)
startup.startup_table()
from jax.experimental import multihost_utils
if index == 1:
    raise ValueError("boom")
multihost_utils.sync_global_devices("step")
"""
    start = time.monotonic()
    (status_0, _), (status_1, log_1) = run_two(script)
    assert status_1 == 1 and "ValueError: boom" in log_1
    assert "Process 1 of 2" in log_1 and "exits with status 1; the others did not exit within 10 s" in log_1
    assert status_0 != 0
    assert time.monotonic() - start < 45


@pytest.mark.slow("starts several processes, which wait for each other")
def test_sigterm_to_one_process_is_a_notice_to_all():
    """After `initialize` SIGTERM kills no process; all agree on one later step at which to save."""
    script = """
startup.initialize("on")
from jax.experimental import multihost_utils
multihost_utils.sync_global_devices("start")
for step in range(500):
    time.sleep(0.02)
    if (index, step) == (1, 20):
        os.kill(os.getpid(), signal.SIGTERM)
    multihost_utils.sync_global_devices("step")
    if multihost_utils.reached_preemption_sync_point(step):
        print("saves at step", step)
        break
"""
    results = run_two(script)
    assert [status for status, _ in results] == [0, 0], results
    saves = {log.partition("saves at step ")[2].split()[0] for _, log in results}
    assert len(saves) == 1 and 20 < int(saves.pop()) < 499
