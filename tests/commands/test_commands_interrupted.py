"""Commands that are killed, run out of disk, or are started twice: a later run ends as an undisturbed one does."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
FOLDERS = ("build-codec", "quantize", "export", "shrink")


def check(*arguments):
    done = subprocess.run([sys.executable, HERE / "commands.py", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_killed_commands_run_again_to_the_same_bytes():
    """kill -9 at any moment leaves nothing under the final name but what is whole, and nothing beside it that the next
    run does not remove."""
    check("kill", "--times", str(len(FOLDERS)), "--commands", *FOLDERS)


@pytest.mark.slow
def test_two_at_once_make_one_result():
    """The second of two of the same command on one folder is told who works there, or waits; nothing is lost and nobody
    sees a traceback."""
    check("twice", "--times", "1", "--seconds", "60", "--commands", "train", "quantize")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
    """On a disk that fills up a command ends in one paragraph, and with more room it ends in the same bytes."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this container may not mount")
    subprocess.run(["umount", tmp_path], check=True)
    check("full", "--commands", "export", "compress")
