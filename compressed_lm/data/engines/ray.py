"""Engine of a Ray cluster: units of work as tasks; codecs that run M1 in actors that keep their compiled programs.

All nodes must reach the corpus and the folder of the store under the same paths: a shared file system, or an object
store. Tasks of nodes that die are run again elsewhere, and continue after the last block that was written.
"""

import logging
from collections.abc import Iterator
from typing import Any

import ray

from compressed_lm.data import encoding
from compressed_lm.data.encoding import Job, Progress, Task
from compressed_lm.data.engines.watch import Watcher
from compressed_lm.errors import InputError

RETRIES = 3
"""How often a unit is tried again after a worker or a node died."""

_POLL_SECONDS = 1.0
_jobs: dict[str, Job] = {}  # of a worker process, which gets a job once


class Ray:
    """Engine of a Ray cluster.

    Attributes:
        address: as of `ray.init`; None to use the cluster that this process has joined, or to start one here.
        workers: number of tasks or actors at the same time; by default as many as the cluster has CPUs or devices.
    """

    def __init__(self, *, address: str | None = None, workers: int | None = None) -> None:
        self.address, self.workers = address, workers

    def run(self, job: Job, tasks: Iterator[Task]) -> Iterator[Progress]:
        self._join()
        shared = ray.put(job)
        watcher = Watcher(job)
        start, width = self._with_model(job, shared) if job.codec.flops_per_byte else self._with_tasks(job, shared)
        running: dict[Any, tuple[Task, Any]] = {}
        more = True
        while more or running:
            while more and len(running) < width():
                task = next(tasks, None)
                if task is None:
                    more = False
                else:
                    reference, worker = start(task)
                    running[reference] = task, worker
            ended, _ = ray.wait(list(running), num_returns=1, timeout=_POLL_SECONDS) if running else ([], [])
            yield from watcher.new()
            for reference in ended:
                task, worker = running.pop(reference)
                _result(reference, task)
                if worker is not None:
                    self._idle.append(worker)
        yield from watcher.new()

    def _join(self) -> None:
        if ray.is_initialized():
            return
        try:
            alone: dict[str, Any] = {"include_dashboard": False} if self.address is None else {}
            ray.init(address=self.address, logging_level=logging.ERROR, log_to_driver=False, **alone)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"The Ray cluster {self.address or 'on this machine'} could not be joined "
                f"({str(error).splitlines()[0]}). Start it (`ray start --head`), or give its address (--ray_address)."
            ) from error

    def _with_tasks(self, job: Job, shared: Any):
        """Returns a function that starts a task, and one that tells how many may run."""
        function = ray.remote(num_cpus=1, max_retries=RETRIES)(_encode)

        def start(task: Task) -> tuple[Any, None]:
            return function.remote([shared], job.fingerprint, task), None

        return start, lambda: self.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _with_model(self, job: Job, shared: Any):
        """Returns a function that starts a unit in an idle actor, and one that tells how many there are."""
        actor: Any = ray.remote(max_restarts=-1, max_task_retries=RETRIES)(_Encoder)
        self._idle = [actor.options(**needs).remote([shared], job.fingerprint) for needs in self._devices()]
        n_actors = len(self._idle)

        def start(task: Task) -> tuple[Any, Any]:
            worker = self._idle.pop()
            return worker.encode.remote(task), worker

        return start, lambda: n_actors

    def _devices(self) -> list[dict[str, Any]]:
        """Returns the resources of each actor: a GPU; all TPU chips of a host; or a share of a host's CPUs."""
        found: list[dict[str, Any]] = []
        for node in ray.nodes():
            resources = node["Resources"] if node["Alive"] else {}
            if gpus := int(resources.get("GPU", 0)):
                found += [{"num_gpus": 1, "num_cpus": 0}] * gpus
            elif chips := resources.get("TPU"):
                found.append({"resources": {"TPU": chips}, "num_cpus": 0})
            elif cpus := int(resources.get("CPU", 0)):
                found.append({"num_cpus": cpus})
        accelerated = [needs for needs in found if "num_gpus" in needs or "resources" in needs]
        found = accelerated or found or [{"num_cpus": 1}]
        return found[: self.workers] if self.workers else found


def _result(reference: Any, task: Task) -> None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise cause from None
    except ray.exceptions.RayError as error:
        raise InputError(
            f"Unit {task.place.unit} of the corpus failed {RETRIES + 1} times on the Ray cluster "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}). What was written is kept: see "
            "`ray status` for nodes that died or ran out of memory, and run the same command again."
        ) from error


class _Encoder:
    """Actor that encodes units; it holds the codec with its compiled programs, and its device."""

    def __init__(self, shared: list, fingerprint: str) -> None:
        self._shared, self._fingerprint = shared, fingerprint

    def encode(self, task: Task) -> None:
        _encode(self._shared, self._fingerprint, task)


def _encode(shared: list, fingerprint: str, task: Task) -> None:
    """Encodes the documents of a unit that no earlier attempt wrote."""
    if fingerprint not in _jobs:
        _jobs[fingerprint] = ray.get(shared[0])
    encoding.encode_rest(_jobs[fingerprint], task)
