"""Watchdog: a thread that detects a hung training loop and names the process the others wait for.

JAX detects dead processes: its coordinator misses their heartbeats for 100 seconds (`initialize`), names the process by
index and aborts the others. A hung process still sends heartbeats, and its run would wait forever without a message.
With a limit below 100 seconds the watchdog reports first in both cases, with host names.
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

ABORT_STATUS = 128 + signal.SIGALRM  # 142, a status after which launchers restart
READ_SECONDS = 10.0  # longest wait for the coordinator, which may hang


class Store(Protocol):
    """Storage of one note per process, which all processes of a run can read."""

    def publish(self, index: int, note: str) -> None:
        """Replaces the note of a process."""

    def read(self) -> dict[int, str]:
        """Returns the newest note of each process that wrote one."""


class CoordinatorStore:
    """Notes in the key-value store of JAX's coordinator, which answers even if process 0 hangs in Python."""

    _FOLDER = "compressed_lm/watchdog/"

    def publish(self, index: int, note: str) -> None:
        processes.client().key_value_set(f"{self._FOLDER}{index}", note, allow_overwrite=True)

    def read(self) -> dict[int, str]:
        pairs = processes.client().key_value_dir_get(self._FOLDER)
        return {int(key.rpartition("/")[2]): note for key, note in pairs}


@dataclasses.dataclass(frozen=True)
class Note:
    """State of a process in the training loop.

    Attributes:
        host: host name.
        beats: number of beats; all processes of a run beat equally often, so fewer means behind.
        step: step of the last beat, None before the first.
        doing: part of the step that began at the last beat, "" if not given.
        since: time of the last beat, in seconds of the clock.
        written: time of this note, in seconds of the clock.
        left: whether the process has left the loop.
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

    If `beat` is not called for `seconds`, it prints once which processes are behind or silent and the Python stacks of
    this process, and keeps waiting. `kill -USR1 PID` prints the stacks at any time.

    Args:
        seconds: longest time between two beats, evaluation and checkpoints included; 0 disables the watchdog.
        first_seconds: longest time before the first beat, which includes compilation.
        abort: end the process with status 142 after another `seconds`, so that a launcher restarts it.
        interval: seconds between two checks, and between two notes to the other processes.
        index, n_processes, host: this process; by default from JAX and the operating system.
        store: storage of notes; by default JAX's coordinator, if there are several processes.
        now: clock, in seconds since 1970, because times of several hosts are compared.
        write: prints a line.
        dump: prints the stacks.
        end: ends the process.
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
        dump: Callable[[], None] = lambda: faulthandler.dump_traceback(sys.__stderr__ or sys.stderr),
        end: Callable[[int], None] = os._exit,
    ):
        self.seconds, self.first_seconds, self.abort = seconds, first_seconds, abort
        self.interval = min(5.0, seconds / 4) if interval is None else interval
        here = processes.here()
        self._index, self._n = (index or 0, n_processes) if n_processes else here
        self._host = host or socket.gethostname()
        self._store = store or (CoordinatorStore() if self._n > 1 else None)
        self._now, self._write, self._dump, self._end = now, write, dump, end
        self._note = Note(self._host, 0, None, "", now(), now())
        self._reported = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def beat(self, step: int, doing: str = "") -> None:
        """Records progress: the loop is at `step` and begins `doing`, such as "input" or "step"."""
        self._note = Note(self._host, self._note.beats + 1, step, doing, self._now(), 0)

    def __enter__(self) -> "Watchdog":
        if self.seconds:
            faulthandler.register(signal.SIGUSR1, file=sys.__stderr__ or sys.stderr)
            # Two threads, because a hung coordinator blocks the thread that writes to it.
            for task in (self.publish, self.check):
                thread = threading.Thread(target=self._repeat, args=(task,), name=f"watchdog {task.__name__}")
                thread.daemon = True
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
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
        """Writes the note of this process."""
        if self._store is None:
            return
        note = dataclasses.asdict(dataclasses.replace(self._note, written=self._now()))
        try:
            self._store.publish(self._index, json.dumps(note))
        except Exception:  # the coordinator is gone; JAX reports it and ends the process
            self._stop.wait(self.interval)

    def check(self) -> None:
        """Reports a hang once, and its end."""
        note = self._note
        limit = self.seconds if note.beats else self.first_seconds
        waited = self._now() - note.since
        if waited < limit:
            if self._reported:
                self._write(f"watchdog: process {self._index} ({self._host}) makes progress again, {_at(note)}.")
            self._reported = False
        elif not self._reported:
            self._reported = True
            self._write(
                f"watchdog: process {self._index} of {self._n} ({self._host}) is not making progress: {_at(note)} "
                f"{_since(note.since, self._now())}. Its Python stacks follow."
            )
            for line in self._others(note):
                self._write("watchdog:   " + line)
            self._dump()
        elif self.abort and waited >= limit + self.seconds:
            self._write(f"watchdog: process {self._index} ({self._host}) exits with status {ABORT_STATUS}.")
            self._end(ABORT_STATUS)

    def _others(self, own) -> list[str]:
        if self._store is None:
            return ["it is the only process of the run"]
        found = _within(READ_SECONDS, self._store.read)
        if found is None:
            return ["the coordinator of process 0 does not answer: its host is dead or hangs, and JAX will abort"]
        notes = {index: Note(**json.loads(note)) for index, note in found.items()} | {self._index: own}
        now, most = self._now(), max(note.beats for note in notes.values())
        lines, like = [], 0
        for index in range(self._n):
            note = notes.get(index)
            who = f"process {index}" + (f" ({note.host})" if note else "")
            if note is None:
                lines.append(f"{who} has not reached the loop")
            elif note.left:
                lines.append(f"{who} left the loop {_at(note)}; read its log")
            elif index != self._index and now - note.written > 2 * self.interval + 1:
                lines.append(f"{who} is silent {_since(note.written, now)}, {_at(note)}: it is dead or frozen")
            elif note.beats < most:
                lines.append(f"{who} is behind, {_at(note)} {_since(note.since, now)}")
            else:
                like += 1
        if not lines:
            return [f"all {self._n} processes are alive and {_at(own)}: compare their stacks, which may differ"]
        waiting = "the other one waits" if like == 1 else f"the other {like} wait"
        return lines + [waiting if like else "no process is ahead of these"]


def _at(note):
    if note.step is None:
        return "before the first step"
    return f"at step {note.step}" + (f" ({note.doing})" if note.doing else "")


def _since(then, now):
    return f"since {time.strftime('%H:%M:%S', time.gmtime(then))} UTC ({now - then:.0f} s)"


def _within(seconds, call):
    """Returns the result of a call, or None if it takes longer than `seconds` or fails."""
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
