import os
import signal
import subprocess
import sys

import pytest

from compressed_lm.io import locks

CALLBACK = """
import signal, sys, time
from compressed_lm import interrupts
{catch}
class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def work():
    Dropped()  # the interrupt arrives in a callback, where Python ignores it
    time.sleep(3)
try:
    work()
    print("went on")
except KeyboardInterrupt:
    print("ended")
"""


# A process that a shell starts in the background does not hear Ctrl-C unless it asks to.
HEAR = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.parametrize(("catch", "said"), [("interrupts.catch_all()", "ended"), ("", "went on")])
def test_an_interrupt_in_a_callback_is_not_lost(catch, said):
    """Ctrl-C that arrives in a destructor ends the program all the same, silently; without `catch_all` it goes on."""
    program = [sys.executable, "-c", HEAR + CALLBACK.format(catch=catch)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.stdout.strip() == said
    assert ("Traceback" in done.stderr) == (said == "went on")


def test_a_command_ends_in_one_line_with_status_130(tmp_path):
    """Ctrl-C to the whole group of a command, as a terminal sends it, is told in one line."""
    (tmp_path / "text.txt").write_text("some words of text")
    program = f"{HEAR}; from compressed_lm.cli import program; program()"
    command = [sys.executable, "-c", program, "build-codec", "bpe(v=400)", f"--out={tmp_path}/codec", "--wait"]
    with locks.held(tmp_path / "codec"):
        process = subprocess.Popen(
            [*command, f"--corpus=text:{tmp_path}/text.txt"], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        assert "is in use: waiting for" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert said == "Interrupted. Finished shards, checkpoints and files are kept: the same command goes on.\n"
    assert os.listdir(tmp_path) == ["text.txt"]
