"""A thread that notices when training hangs, and says which process the others wait for.

A process that dies is JAX's to notice: its coordinator misses the heartbeats for 100 seconds (`initialize`), names the
process by index and aborts the others. A process that lives but does not get on keeps its heart beating, and its run
would wait for ever without a word. With less than 100 seconds the watchdog speaks first in both cases, and names hosts.
"""

import dataclasses
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from compressed_lm.distributed import processes

ABORT_STATUS = 128 + signal.SIGALRM  # 142, a status on which launchers start again
READ_SECONDS = 10.0  # a coordinator whose host hangs does not answer at all


class Store(Protocol):
    """Where the processes of a run leave notes for each other."""

    def publish(self, index: int, note: str) -> None:
        """Replaces the note of a process."""

    def read(self) -> dict[int, str]:
        """Returns the newest note of each process that left one."""


class CoordinatorStore:
    """Notes in the key-value store of JAX's coordinator, which runs beside process 0 and answers without its Python."""

    _FOLDER = "compressed_lm/watchdog/"

    def publish(self, index: int, note: str) -> None:
        processes.client().key_value_set(f"{self._FOLDER}{index}", note, allow_overwrite=True)

    def read(self) -> dict[int, str]:
        pairs = processes.client().key_value_dir_get(self._FOLDER)
        return {int(key.rpartition("/")[2]): note for key, note in pairs}


@dataclasses.dataclass(frozen=True)
class Note:
    """What a process says of itself.

    Attributes:
        host: its host's name.
        beats: how often it got on; all processes of a run get on in the same way, so that fewer means behind.
        step: the step it was at, or None before the first.
        doing: what it began then, "" if it does not say.
        since: when it got on last, in seconds of the clock.
        written: when it wrote this.
        left: whether it is out of the loop.
    """

    host: str
    beats: int
    step: int | None
    doing: str
    since: float
    written: float
    left: bool = False


class Watchdog:
    """Watches a loop: `with Watchdog(60) as dog: ... dog.beat(step)`.

    Where `beat` is not called for `seconds`, it prints once which processes are behind or silent and the Python stacks
    of this process, and goes on waiting. `kill -USR1 PID` prints the stacks at any time.

    Args:
        seconds: longest time between two beats, evaluation and checkpoints included; 0 watches nothing.
        first_seconds: longest time before the first beat, in which programs compile.
        abort: end the process with status 142 after `seconds` more, so that a launcher starts it again.
        interval: seconds between two looks, and between two notes to the other processes.
        index, n_processes, host: this process; by default as JAX knows it.
        store: where processes leave notes; by default JAX's coordinator, if there are several.
        now: clock, in seconds since 1970 since hosts compare them.
        write: prints a line. dump: prints the stacks. end: ends the process.
    """

    def __init__(
        self,
        seconds: float,
        *,
        first_seconds: float = 1800,
        abort: bool = False,
        interval: float | None = None,
        index: int | None = None,
        n_processes: int | None = None,
        host: str | None = None,
        store: Store | None = None,
        now: Callable[[], float] = time.time,
        write: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        dump: Callable[[], None] = lambda: faulthandler.dump_traceback(sys.__stderr__),
        end: Callable[[int], None] = os._exit,
    ):
        self.seconds, self.first_seconds, self.abort = seconds, first_seconds, abort
        self.interval = min(5.0, seconds / 4) if interval is None else interval
        here = processes.here()
        self._index, self._n = (index, n_processes) if n_processes else here
        self._host = host or socket.gethostname()
        self._store = store or (CoordinatorStore() if self._n > 1 else None)
        self._now, self._write, self._dump, self._end = now, write, dump, end
        self._note = Note(self._host, 0, None, "", now(), now())
        self._reported = False
        self._stop, self._threads = threading.Event(), []

    def beat(self, step: int, doing: str = "") -> None:
        """Says that the loop got on: it is at `step` and begins `doing`, such as "input" or "step"."""
        self._note = Note(self._host, self._note.beats + 1, step, doing, self._now(), 0)

    def __enter__(self) -> "Watchdog":
        if self.seconds:
            faulthandler.register(signal.SIGUSR1, file=sys.__stderr__)
            # Two threads, since a coordinator that hangs holds the one that writes to it.
            for task in (self.publish, self.check):
                thread = threading.Thread(target=self._repeat, args=(task,), name=f"watchdog {task.__name__}")
                thread.daemon = True
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, *_) -> None:
        if self.seconds:
            self._stop.set()
            for thread in self._threads:
                thread.join(2.0)
            self._note = dataclasses.replace(self._note, left=True)
            _within(2.0, self.publish)
            faulthandler.unregister(signal.SIGUSR1)

    def _repeat(self, task):
        while not self._stop.is_set():
            task()
            self._stop.wait(self.interval)

    def publish(self) -> None:
        """Leaves a note for the other processes."""
        if self._store is None:
            return
        note = dataclasses.asdict(dataclasses.replace(self._note, written=self._now()))
        try:
            self._store.publish(self._index, json.dumps(note))
        except Exception:  # the coordinator is gone, of which JAX tells, and ends the process
            self._stop.wait(self.interval)

    def check(self) -> None:
        """Reports a hang, once, and its end."""
        note = self._note
        limit = self.seconds if note.beats else self.first_seconds
        waited = self._now() - note.since
        if waited < limit:
            if self._reported:
                self._write(f"watchdog: process {self._index} ({self._host}) goes on, {_at(note)}.")
            self._reported = False
        elif not self._reported:
            self._reported = True
            self._write(
                f"watchdog: process {self._index} of {self._n} ({self._host}) does not get on: {_at(note)} "
                f"{_since(note.since, self._now())}. Its Python stacks follow."
            )
            for line in self._others(note):
                self._write("watchdog:   " + line)
            self._dump()
        elif self.abort and waited >= limit + self.seconds:
            self._write(f"watchdog: process {self._index} ({self._host}) ends with status {ABORT_STATUS}.")
            self._end(ABORT_STATUS)

    def _others(self, own) -> list[str]:
        if self._store is None:
            return ["it is the only process of the run"]
        found = _within(READ_SECONDS, self._store.read)
        if found is None:
            return ["the coordinator of process 0 does not answer: its host is gone or hangs, and JAX will abort"]
        notes = {index: Note(**json.loads(note)) for index, note in found.items()} | {self._index: own}
        now, most = self._now(), max(note.beats for note in notes.values())
        lines, like = [], 0
        for index in range(self._n):
            note = notes.get(index)
            who = f"process {index}" + (f" ({note.host})" if note else "")
            if note is None:
                lines.append(f"{who} never came to the loop")
            elif note.left:
                lines.append(f"{who} left the loop {_at(note)}; its own log says why")
            elif index != self._index and now - note.written > 2 * self.interval + 1:
                lines.append(f"{who} is silent {_since(note.written, now)}, {_at(note)}: it is dead or frozen")
            elif note.beats < most:
                lines.append(f"{who} is behind, {_at(note)} {_since(note.since, now)}")
            else:
                like += 1
        if not lines:
            return [f"all {self._n} processes live and are {_at(own)}: compare their stacks, one may be elsewhere"]
        waiting = "the other one waits" if like == 1 else f"the other {like} wait"
        return lines + [waiting if like else "no process is ahead of those"]


def _at(note):
    if note.step is None:
        return "before the first step"
    return f"at step {note.step}" + (f" ({note.doing})" if note.doing else "")


def _since(then, now):
    return f"since {time.strftime('%H:%M:%S', time.gmtime(then))} UTC ({now - then:.0f} s)"


def _within(seconds, call):
    """Returns what a call returns, or None if that takes longer or fails."""
    result = []

    def run():
        try:
            result.append(call())
        except Exception:  # the coordinator is gone
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return result[0] if result else None
