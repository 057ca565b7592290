"""Killed, concurrent and out-of-disk commands end like undisturbed ones when they are run again."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
FOLDERS = ("build-codec", "quantize", "export", "shrink")


def check(*arguments):
    done = subprocess.run([sys.executable, HERE / "disturbed.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow("kills and restarts commands many times")
def test_killed_commands_run_again_to_the_same_bytes():
    """After kill -9 at any moment outputs are complete or absent, and the next run removes all temporary files."""
    check("kill", "--times", str(len(FOLDERS)), "--commands", *FOLDERS)


@pytest.mark.slow("kills and restarts commands many times")
def test_two_at_once_make_one_result():
    """The second of two equal commands on one folder waits or is refused without a traceback, and nothing is lost."""
    check("twice", "--times", "1", "--seconds", "60", "--commands", "train", "quantize")


@pytest.mark.slow("kills and restarts commands many times")
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_reported_and_loses_nothing(tmp_path):
    """On a full disk a command ends with one paragraph; with more space the same command gives the same bytes."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    subprocess.run(["umount", tmp_path], check=True)
    check("full", "--commands", "export", "compress")
