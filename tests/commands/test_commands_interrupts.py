import os
import signal
import subprocess
import sys

import pytest

from compressed_lm.io import locks

CALLBACK = """
import signal, sys, time
from compressed_lm.commands import interrupts
{catch}
class Dropped:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def work():
    Dropped()  # the interrupt arrives in a callback, where Python ignores it
    time.sleep(3)
try:
    work()
    print("continued")
except KeyboardInterrupt:
    print("ended")
"""


# A shell starts background processes with SIGINT ignored, so the child restores the default handler.
HEAR = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.slow("starts processes and interrupts them")
@pytest.mark.parametrize(("catch", "said"), [("interrupts.catch_all()", "ended"), ("", "continued")])
def test_an_interrupt_in_a_callback_is_not_lost(catch, said):
    """Ctrl-C during a destructor ends the program without a traceback; without `catch_all` the program continues."""
    program = [sys.executable, "-c", HEAR + CALLBACK.format(catch=catch)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.stdout.strip() == said
    assert ("Traceback" in done.stderr) == (said == "continued")


def test_a_command_ends_in_one_line_with_status_130(tmp_path):
    """Ctrl-C to the process group of a command ends it with status 130 and one line."""
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
    assert said == "Interrupted. Finished shards, checkpoints and files are kept: repeat the command to resume.\n"
    assert os.listdir(tmp_path) == ["text.txt"]
