"""Engine of a Ray cluster: units of work as tasks; codecs that run M1 in actors that keep their compiled programs.

All nodes must reach the corpus and the folder of the store under the same paths: a shared file system, or an object
store. Units of nodes that die are encoded elsewhere, after the last block that was written.
"""

import collections
import logging
import signal
from collections.abc import Generator, Iterator
from typing import Any, Protocol

import ray

from compressed_lm.data import encoding
from compressed_lm.data.encoding import Job, Progress, Task
from compressed_lm.data.engines.watch import Watcher
from compressed_lm.errors import InputError

RETRIES = 3
"""How often a unit is tried again after a worker or a node died."""

_jobs: dict[tuple[str, str], Job] = {}  # of a worker process, which gets a job once


class Ray:
    """Engine of a Ray cluster.

    Attributes:
        address: as of `ray.init`; None to use the cluster that this process has joined, or to start one here.
        workers: number of tasks or actors at the same time; by default as many as the cluster has CPUs or devices.
    """

    def __init__(self, *, address: str | None = None, workers: int | None = None) -> None:
        self.address, self.workers = address, workers

    def run(self, job: Job, tasks: Iterator[Task]) -> Generator[Progress, None, None]:
        self._join()
        watcher = Watcher(job)
        pool: _Pool = (_Actors if job.codec.flops_per_byte else _Tasks)(job, self.workers)
        running: dict[Any, Task] = {}
        failures: collections.Counter[int] = collections.Counter()
        again: list[Task] = []
        more = True
        while more or running or again:
            while (more or again) and pool.has_place(len(running)):
                task = again.pop() if again else next(tasks, None)
                if task is None:
                    more = False
                else:
                    running[pool.start(task)] = task
            waited = [*running, *pool.starting()]
            ended, _ = ray.wait(waited, num_returns=1, timeout=watcher.seconds) if waited else ([], [])
            yield from watcher.new()
            for reference in ended:
                task = running.pop(reference, None)
                if not _succeeded(reference, task, failures) and task is not None:
                    again.append(task)
                pool.ended(reference)
        pool.close()
        yield from watcher.new()

    def _join(self) -> None:
        if ray.is_initialized():
            return
        handler = signal.getsignal(signal.SIGTERM)
        try:
            alone: dict[str, Any] = {"include_dashboard": False} if self.address is None else {}
            ray.init(address=self.address, logging_level=logging.ERROR, log_to_driver=False, **alone)
        except (ConnectionError, RuntimeError, ValueError) as error:
            signal.signal(signal.SIGTERM, handler)  # Ray has installed its own
            raise InputError(
                f"The Ray cluster {self.address or 'on this machine'} could not be joined "
                f"({str(error).splitlines()[0]}). Start it (`ray start --head`), or give its address (--ray_address)."
            ) from error


class _Pool(Protocol):
    """Places of a cluster for units of work."""

    def has_place(self, n_running: int) -> bool: ...
    def start(self, task: Task) -> Any: ...
    def starting(self) -> list[Any]: ...
    def ended(self, reference: Any) -> None: ...
    def close(self) -> None: ...


class _Tasks:
    """Units as tasks of one CPU each, which Ray itself tries again."""

    def __init__(self, job: Job, workers: int | None) -> None:
        self._shared, self._key, self._workers = ray.put(job), _key(job), workers
        self._function = ray.remote(num_cpus=1, max_retries=RETRIES)(_encode)

    def has_place(self, n_running: int) -> bool:
        return n_running < (self._workers or max(1, int(ray.cluster_resources().get("CPU", 1))))

    def start(self, task: Task) -> Any:
        return self._function.remote([self._shared], self._key, task)

    def starting(self) -> list[Any]:
        return []

    def ended(self, reference: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _Actors:
    """Units in actors, one for each device of the cluster. A dead actor is replaced as soon as there is a device."""

    def __init__(self, job: Job, workers: int | None) -> None:
        self._shared, self._key = ray.put(job), _key(job)
        self._actor: Any = ray.remote(_Encoder)
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}  # by the reference of their unit, or of their start
        self._needs: dict[Any, dict] = {}
        self._waiting: set[Any] = set()
        for needs in _devices()[:workers]:
            self._begin(needs)

    def _begin(self, needs: dict[str, Any]) -> None:
        actor = self._actor.options(**needs).remote([self._shared], self._key)
        reference = actor.ready.remote()
        self._busy[reference], self._needs[actor] = actor, needs
        self._waiting.add(reference)

    def has_place(self, n_running: int) -> bool:
        del n_running
        return bool(self._idle)

    def start(self, task: Task) -> Any:
        actor = self._idle.pop()
        reference = actor.encode.remote(task)
        self._busy[reference] = actor
        return reference

    def starting(self) -> list[Any]:
        return list(self._waiting)

    def ended(self, reference: Any) -> None:
        actor = self._busy.pop(reference)
        self._waiting.discard(reference)
        try:
            ray.get(reference)
        except ray.exceptions.RayActorError:
            self._begin(self._needs.pop(actor))
        else:
            self._idle.append(actor)

    def close(self) -> None:
        """Ends the actors, so that their devices are free."""
        for actor in self._needs:
            ray.kill(actor)


def _devices() -> list[dict[str, Any]]:
    """Returns the resources of each actor: a GPU; all TPU chips of a host; or, without these, a host's CPUs."""
    accelerated: list[dict[str, Any]] = []
    hosts: list[dict[str, Any]] = []
    for node in ray.nodes():
        resources = node["Resources"] if node["Alive"] else {}
        accelerated += [{"num_gpus": 1, "num_cpus": 0}] * int(resources.get("GPU", 0))
        accelerated += [{"resources": {"TPU": resources["TPU"]}, "num_cpus": 0}] if resources.get("TPU") else []
        hosts += [{"num_cpus": int(resources["CPU"])}] if resources.get("CPU", 0) >= 1 else []
    return accelerated or hosts or [{"num_cpus": 1}]


def _succeeded(reference: Any, task: Task | None, failures: collections.Counter[int]) -> bool:
    """Returns whether a unit was encoded, or False if it is to be tried again (a worker or node died).

    Raises:
        InputError: the unit cannot be read or is not lossless, or workers died too often.
    """
    try:
        ray.get(reference)
        return True
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        if task is None:
            return False
        failures[task.place.unit] += 1
        if isinstance(error, ray.exceptions.RayActorError) and failures[task.place.unit] <= RETRIES:
            return False
        raise InputError(
            f"Unit {task.place.unit} of the corpus failed {RETRIES + 1} times on the Ray cluster "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). What was written is kept: see "
            "`ray status` for nodes that died or ran out of memory, and run the same command again."
        ) from error


class _Encoder:
    """Actor that encodes units; it holds the codec with its compiled programs, and its device."""

    def __init__(self, shared: list, key: tuple[str, str]) -> None:
        self._shared, self._key = shared, key

    def ready(self) -> None:
        """Returns when the actor has its device."""

    def encode(self, task: Task) -> None:
        _encode(self._shared, self._key, task)


def _key(job: Job) -> tuple[str, str]:
    return job.fingerprint, str(job.out)


def _encode(shared: list, key: tuple[str, str], task: Task) -> None:
    """Encodes the documents of a unit that no earlier attempt wrote."""
    if key not in _jobs:
        _jobs[key] = ray.get(shared[0])
    encoding.encode_rest(_jobs[key], task)
