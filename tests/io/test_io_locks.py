"""Locks of folders and files."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from compressed_lm.errors import InputError
from compressed_lm.io import locks

HOLD = """
import sys, time
from compressed_lm.io import locks
with locks.held(sys.argv[1]):
    print(1, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the lock of `tmp_path/run`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_the_second_learns_who_holds_it(tmp_path, holder):
    """A lock of another process raises immediately, with its number, host, user and age."""
    start = time.monotonic()
    with (
        pytest.raises(InputError, match=rf"run is in use: process {holder.pid} of .* on .*for \d+ s now"),
        locks.held(tmp_path / "run"),
    ):
        pass
    assert time.monotonic() - start < 5  # it does not wait


def test_a_killed_holder_leaves_no_lock(tmp_path, holder):
    """A kill -9 releases the lock; the next holder reuses and removes the file."""
    holder.kill()
    holder.wait()
    assert (tmp_path / ".run.lock").exists()
    with locks.held(tmp_path / "run"):
        assert (tmp_path / ".run.lock").exists()
    assert os.listdir(tmp_path) == []


def test_waiting_ends_with_the_holder(tmp_path, holder, capsys):
    """With WAIT the block runs after the holder has ended, and a message names the holder."""
    threading.Timer(1.0, os.kill, (holder.pid, signal.SIGTERM)).start()
    token = locks.WAIT.set(True)
    try:
        with locks.held(tmp_path / "run"):
            assert holder.wait(timeout=5) is not None
    finally:
        locks.WAIT.reset(token)
    assert f"waiting for process {holder.pid}" in capsys.readouterr().err


def test_one_thread_may_hold_it_twice_and_another_may_not(tmp_path):
    """Blocks of one thread can be nested; a second thread is refused like another process."""
    found = []

    def other():
        try:
            with locks.held(tmp_path / "run"):
                found.append("held")
        except InputError:
            found.append("refused")

    with locks.held(tmp_path / "run"), locks.held(tmp_path / "x" / ".." / "run"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    with locks.held(tmp_path / "run"):
        pass
    assert found == ["refused"]


def test_parts_share_a_folder(tmp_path):
    """Processes with different numbers share a folder; two with the same number, or one without, are refused."""
    results = []

    def attempt(part):
        try:
            with locks.held(tmp_path / "run", part=part):
                results.append("held")
        except InputError:
            results.append("refused")

    with locks.held(tmp_path / "run", part=0):
        for part in (1, 0, None):
            thread = threading.Thread(target=attempt, args=(part,))
            thread.start()
            thread.join()
    assert results == ["held", "refused", "refused"]
    assert os.listdir(tmp_path) == []


def test_folders_made_for_a_lock_go_again(tmp_path):
    """A block that writes nothing leaves no empty folder."""
    with locks.held(tmp_path / "a" / "b" / "run"):
        assert (tmp_path / "a" / "b").is_dir()
    assert os.listdir(tmp_path) == []


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    """A lock file that is a symbolic link, placed by another user, is not written through."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError), locks.held(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_many_that_race_are_one_at_a_time(tmp_path):
    """8 processes that lock and unlock 50 times each never hold the lock at the same time."""
    program = """
import os, sys
from compressed_lm.io import locks
locks.WAIT.set(True); locks._POLL_SECONDS = 0.001
for _ in range(50):
    with locks.held(sys.argv[1] + "/run"):
        os.close(os.open(sys.argv[1] + "/inside", os.O_CREAT | os.O_EXCL)); os.unlink(sys.argv[1] + "/inside")
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.DEVNULL) for _ in range(8)
    ]
    assert [worker.wait() for worker in workers] == [0] * 8
    assert os.listdir(tmp_path) == []


def test_a_holder_that_writes_nonsense_is_another_process(tmp_path, holder):
    """Invalid content of a lock file breaks no message, and escape sequences are shown literally."""
    path = pathlib.Path(tmp_path / ".run.lock")
    for content in (
        b"",
        b"[",
        b'{"process": []}',
        b'{"process": "\\u001b[2J", "user": 1, "host": 2, "command": 3, "since": 4}',
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is in use") as caught, locks.held(tmp_path / "run"):
            pass
        assert "\x1b" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_does_not_keep_a_lock(tmp_path):
    """The lock of a process that was killed is free although a process that it forked lives on."""
    program = f"""
import os, time
from compressed_lm.io import locks
with locks.held({str(tmp_path / "x")!r}):
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="is in use"), locks.held(tmp_path / "x"):
            pass
        holder.kill()
        holder.wait()
        with locks.held(tmp_path / "x"):
            pass
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
