import os
import signal
import subprocess
import sys
import time

import pytest

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


def _heard():
    """Lets a process hear Ctrl-C, which those that a shell starts in the background do not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("catch", "said"), [("interrupts.catch_all()", "ended"), ("", "went on")])
def test_an_interrupt_in_a_callback_is_not_lost(catch, said):
    """Ctrl-C that arrives in a destructor ends the program all the same, silently; without `catch_all` it goes on."""
    program = [sys.executable, "-c", CALLBACK.format(catch=catch)]
    done = subprocess.run(program, capture_output=True, text=True, preexec_fn=_heard)
    assert done.stdout.strip() == said
    assert ("Traceback" in done.stderr) == (said == "went on")


def test_a_command_ends_in_one_line_with_status_130(tmp_path):
    """Ctrl-C to the whole group of a command, as a terminal sends it, is told in one line."""
    (tmp_path / "text.txt").write_text("".join(f"{i:x} some words of text\n" for i in range(1_500_000)))
    command = [sys.executable, "-m", "compressed_lm", "build-codec", "bpe(v=400)", f"--out={tmp_path}/codec"]
    command += [f"--corpus=text:{tmp_path}/text.txt", "--max_bytes=40000000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_heard)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert said.rstrip().endswith("the same command goes on.") and "Traceback" not in said
    assert not (tmp_path / "codec").exists()
