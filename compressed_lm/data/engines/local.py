"""Engine of this machine: this process, or several processes that encode whole units of work."""

import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator

from compressed_lm.data import encoding
from compressed_lm.data.encoding import Job, Progress, Task
from compressed_lm.data.engines.watch import Watcher
from compressed_lm.errors import InputError

_job: Job  # of a worker process


class Local:
    """Engine of this machine.

    Attributes:
        workers: number of processes; 1 for this process alone.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def run(self, job: Job, tasks: Iterator[Task]) -> Generator[Progress, None, None]:
        if self.workers == 1:
            yield from encoding.encode(job, tasks)
        else:
            yield from self._in_processes(job, tasks)

    def _in_processes(self, job: Job, tasks: Iterator[Task]) -> Iterator[Progress]:
        context = multiprocessing.get_context(_start_method())
        pool = concurrent.futures.ProcessPoolExecutor(
            self.workers, mp_context=context, initializer=_begin, initargs=(job,)
        )
        watcher = Watcher(job)
        running: set[concurrent.futures.Future] = set()
        more = True
        try:
            while more or running:
                while more and len(running) < self.workers:
                    task = next(tasks, None)
                    if task is None:
                        more = False
                    else:
                        running.add(pool.submit(_encode, task))
                ended, running = concurrent.futures.wait(
                    running, timeout=watcher.seconds, return_when=concurrent.futures.FIRST_COMPLETED
                )
                yield from watcher.new()
                for future in ended:
                    future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise InputError(
                f"A worker process was ended by the system, most likely because memory is short: {self.workers} "
                "workers were running, and each needs up to 1.5 GB. What was written is kept: run the same command "
                "again, with fewer --workers."
            ) from error
        finally:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()


def _start_method() -> str:
    """Returns "fork", which takes no time, unless there may be threads: a fork with threads may stop for ever."""
    threaded = threading.active_count() > 1 or not {"jax", "tensorflow", "ray"}.isdisjoint(sys.modules)
    return "spawn" if threaded or sys.platform != "linux" else "fork"


def _begin(job: Job) -> None:
    """Prepares a worker process."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the workers
    _job = job
    parent = multiprocessing.parent_process()
    assert parent

    def follow() -> None:
        parent.join()
        os._exit(1)  # a worker without its parent would wait for ever

    threading.Thread(target=follow, daemon=True).start()


def _encode(task: Task) -> None:
    encoding.encode_rest(_job, task)
