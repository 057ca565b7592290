"""Watchdog: prints nothing while training makes progress, and names processes that make none."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from compressed_lm.distributed import watchdog
from compressed_lm.distributed.watchdog import Watchdog


class Board:
    """Key-value store in a dictionary, shared by the processes of a test."""

    def __init__(self):
        self.notes = {}

    def publish(self, index, note):
        self.notes[index] = note

    def read(self):
        return dict(self.notes)


class Pod:
    """Three watchdogs with one clock and one store; `lines[i]` is the output of process i, in order."""

    def __init__(self, n=3, store=None, **options):
        self.time, self.lines, self.ended = 1_000_000_000.0, [[] for _ in range(n)], []
        store = store or Board()
        self.dogs = [
            Watchdog(
                60,
                index=i,
                n_processes=n,
                host=f"node-{'abc'[i]}",
                store=store if n > 1 else None,
                now=lambda: self.time,
                write=self.lines[i].append,
                dump=lambda i=i: self.lines[i].append("<stacks>"),
                end=self.ended.append,
                **options,
            )
            for i in range(n)
        ]

    def wait(self, seconds, *, frozen=()):
        for i, dog in enumerate(self.dogs):
            if i not in frozen:
                dog.publish()
        self.time += seconds
        for i, dog in enumerate(self.dogs):
            if i not in frozen:
                dog.publish()
        for i, dog in enumerate(self.dogs):
            if i not in frozen:
                dog.check()


def test_silence_while_steps_come():
    """Steps 59 seconds apart are never reported as a hang."""
    pod = Pod()
    for step in range(1, 6):
        for dog in pod.dogs:
            dog.beat(step)
        pod.wait(59)
    assert pod.lines == [[], [], []]


def test_the_process_that_stays_behind_is_named_with_its_host_and_step():
    """The report names the slow process, its host, its step and what it waits for: here input after step 11."""
    pod = Pod()
    for i, dog in enumerate(pod.dogs):
        dog.beat(11, "input")
        if i != 1:
            dog.beat(11, "step")
    pod.wait(60)
    assert pod.lines[0] == [
        "watchdog: process 0 of 3 (node-a) is not making progress: at step 11 (step) since 01:46:40 UTC (60 s). "
        "Its Python stacks follow.",
        "watchdog:   process 1 (node-b) is behind, at step 11 (input) since 01:46:40 UTC (60 s)",
        "watchdog:   the other 2 wait",
        "<stacks>",
    ]
    assert pod.lines[1][1] == pod.lines[0][1]  # the slow process reports it too


def test_it_reports_once_and_again_after_progress():
    """A hang is reported once; the watchdog reports when training continues, and then the next hang."""
    pod = Pod()
    for dog in pod.dogs:
        dog.beat(1)
    for _ in range(5):
        pod.wait(60)
    assert [line for line in pod.lines[0] if "is not making progress" in line] == pod.lines[0][:1]
    for dog in pod.dogs:
        dog.beat(2)
    pod.wait(1)
    assert pod.lines[0][-1] == "watchdog: process 0 (node-a) makes progress again, at step 2."
    pod.wait(60)
    assert len([line for line in pod.lines[0] if "is not making progress" in line]) == 2


def test_a_dead_process_is_silent_and_a_missing_one_never_came():
    """A process that stops sending is reported as dead or frozen since then; one that never sent as missing."""
    pod = Pod()
    for dog in pod.dogs[:2]:
        dog.beat(7)
    pod.dogs[1].publish()
    pod.wait(60, frozen={1, 2})
    assert pod.lines[0][1:-1] == [
        "watchdog:   process 1 (node-b) is silent since 01:46:40 UTC (60 s), at step 7: it is dead or frozen",
        "watchdog:   process 2 has not reached the loop",
        "watchdog:   the other one waits",
    ]


def test_a_process_that_left_the_loop_is_named():
    """After an exception in one process the others report which one left the loop, and at which step."""
    pod = Pod(n=2)
    for dog in pod.dogs:
        dog.beat(3)
    with pod.dogs[1]:
        pass
    pod.wait(60, frozen={1})
    assert pod.lines[0][1] == "watchdog:   process 1 (node-b) left the loop at step 3; read its log"


def test_all_at_the_same_place_says_that_no_host_is_to_blame():
    """If all processes are alive at the same step, the message refers to the stacks and blames no host."""
    pod = Pod()
    for dog in pod.dogs:
        dog.beat(4)
    pod.wait(60)
    assert pod.lines[2][1] == (
        "watchdog:   all 3 processes are alive and at step 4: compare their stacks, which may differ"
    )


def test_compiling_may_take_longer():
    """Before the first step the time limit is `first_seconds`."""
    pod = Pod(n=1, first_seconds=600)
    pod.wait(599)
    assert pod.lines == [[]]
    pod.wait(1)
    assert "is not making progress: before the first step since 01:46:40 UTC (600 s)" in pod.lines[0][0]
    assert pod.lines[0][1] == "watchdog:   it is the only process of the run"


def test_abort_ends_the_process_after_a_second_period():
    """With `abort` the process ends with status 142 after a second period; without, it waits."""
    for abort, ended in ((True, [watchdog.ABORT_STATUS]), (False, [])):
        pod = Pod(n=1, abort=abort)
        pod.dogs[0].beat(1)
        pod.wait(60)
        pod.wait(59)
        assert pod.ended == []
        pod.wait(1)
        assert pod.ended == ended


def test_a_coordinator_that_does_not_answer_is_no_second_hang():
    """If the store hangs or fails, the report states this and still prints the stacks."""

    class Dead(Board):
        def read(self):
            raise RuntimeError("UNAVAILABLE")

        publish = read

    pod = Pod(store=Dead(), interval=0.01)
    pod.dogs[0].beat(1)
    pod.wait(60)
    assert pod.lines[0][1:] == [
        "watchdog:   the coordinator of process 0 does not answer: its host is dead or hangs, and JAX will abort",
        "<stacks>",
    ]


SCRIPT = """
import os, signal, sys, time
from compressed_lm.distributed import startup
from compressed_lm.distributed.watchdog import Watchdog
index, port, how = int(sys.argv[1]), sys.argv[2], sys.argv[3]
startup.initialize("on", coordinator_address="127.0.0.1:" + port, num_processes=2, process_id=index)
from jax.experimental import multihost_utils

def read_input():
    if index == 1 and step == 3:
        os.kill(os.getpid(), signal.SIGSTOP) if how == "freeze" else time.sleep(5)

with Watchdog(2, interval=0.25) as dog:
    for step in range(1, 5):
        dog.beat(step - 1, "input")
        read_input()
        dog.beat(step - 1, "step")
        multihost_utils.sync_global_devices(str(step))
"""


def run_two(script, *arguments, wait_for=None):
    """Runs a script as processes 0 and 1 until both end or 0 wrote `wait_for`; returns [(status, stderr), ...]."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-c", script]
    pair = [
        subprocess.Popen([*command, str(i), port, *arguments], stderr=subprocess.PIPE, text=True, env=os.environ)
        for i in range(2)
    ]
    try:
        if wait_for is None:
            logs = [process.communicate(timeout=60)[1] for process in pair]
            return [(process.returncode, log) for process, log in zip(pair, logs, strict=True)]
        lines = []
        for line in pair[0].stderr:
            lines.append(line)
            if wait_for in line:
                return "".join(lines)
        pytest.fail("".join(lines))
    finally:
        for process in pair:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.mark.slow("starts several processes, which wait for each other")
def test_two_processes_one_stalls_in_its_input():
    """Process 1 sleeps in its input: 0 names it, 1 prints the sleeping line, and both finish."""
    (status_0, log_0), (status_1, log_1) = run_two(SCRIPT, "sleep")
    assert (status_0, status_1) == (0, 0), log_0 + log_1
    host = socket.gethostname()
    assert f"watchdog:   process 1 ({host}) is behind, at step 2 (input) since" in log_0
    assert "in sync_global_devices" in log_0 and "in read_input" in log_1


@pytest.mark.slow("starts several processes, which wait for each other")
def test_two_processes_one_is_frozen():
    """A frozen process (SIGSTOP) is reported by the other before JAX misses its heartbeat."""
    log = run_two(SCRIPT, "freeze", wait_for="is silent since")
    assert f"process 1 ({socket.gethostname()}) is silent since" in log and "dead or frozen" in log
