"""Start of a multi-host run: joining the processes, comparing their versions, start-up table.

JAX aborts in C++ if a process cannot join, and waits minutes if one raised an exception. Here the first raises
`InputError`, and the second ends within seconds.
"""

import collections
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

import compressed_lm
from compressed_lm.distributed import clusters, processes
from compressed_lm.errors import InputError

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
FOREVER = 7 * 86_400  # timeout of JAX itself (s), which it must not reach: it aborts the process without a message


def initialize(
    mode: str = "auto",
    *,
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: float = 300,
    heartbeat_seconds: int = 100,
) -> str:
    """Joins the processes of the run; call it before JAX is first used.

    Afterwards SIGTERM no longer ends a process: JAX takes it as a preemption notice and reports it to every process by
    `multihost_utils.reached_preemption_sync_point`. A Python handler would hide the signal from JAX.

    Args:
        mode: "on", "off" or "auto". "auto" means on if a launcher started this process as one of several; an
            incomplete launcher environment is ignored and named in the returned sentence.
        coordinator_address, num_processes, process_id: "host:port" of process 0, number of processes, index of this
            one; by default from the launcher or the COMPRESSED_LM_* environment variables.
        timeout_seconds: longest wait for the other processes.
        heartbeat_seconds: a process that is silent this long counts as dead, and JAX aborts all others.

    Returns:
        A sentence for the user, "" for one process.

    Raises:
        InputError: the arguments do not fit each other, there is no launcher, JAX is already running, or the other
            processes do not join in time.
    """
    given = {"coordinator_address": coordinator_address, "num_processes": num_processes, "process_id": process_id}
    explicit = {name: value for name, value in given.items() if value is not None}
    if mode not in ("auto", "off", "on"):
        raise InputError(f"distributed={mode!r} was given; expected auto, off or on.")
    if mode == "off":
        if explicit:
            raise InputError(f"distributed=off was given together with {_pairs(explicit)}; give one of the two.")
        return ""
    settings: Mapping[str, Any]
    if explicit:
        settings, method, found = clusters.check(given), "deactivate", "arguments"
    else:
        cluster = clusters.detect(os.environ)
        settings, method, found = cluster.settings, cluster.method, cluster.name
        if mode == "auto" and cluster.several is False:
            return cluster.note
        if not cluster.name:
            raise InputError(
                "distributed=on was given, but this process was not started as one of several. "
                f"{cluster.note}{' ' * bool(cluster.note)}Looked for {clusters.LOOKED_FOR}. Start it by a script in "
                f"launch, set {', '.join(clusters.VARIABLES)}, or give distributed=off."
            )
    if jax.distributed.is_initialized():
        return ""  # the caller has joined them
    started = time.monotonic()
    if settings.get("process_id"):
        _reach(settings, timeout_seconds)
    _join(settings, method, timeout_seconds, time.monotonic() - started, heartbeat_seconds)
    sys.excepthook = functools.partial(_report_and_leave, sys.excepthook)
    return "Process {} of {}, from {}.".format(*processes.here(), found)


def _reach(settings, timeout_seconds):
    """Waits until the coordinator accepts connections."""
    host, _, port = settings["coordinator_address"].rpartition(":")
    deadline, error = time.monotonic() + timeout_seconds, "no time was left"
    while time.monotonic() < deadline:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as failure:
            error = failure
            time.sleep(0.2)
    raise _timeout(settings, timeout_seconds, f"the coordinator {host}:{port} did not answer ({error})")


def _join(settings, method, timeout_seconds, waited, heartbeat_seconds):
    """Calls JAX in a thread, because JAX aborts the process after its own timeout."""
    failure = []

    def join():
        try:
            jax.distributed.initialize(
                **settings,
                cluster_detection_method=method,
                initialization_timeout=FOREVER,
                heartbeat_timeout_seconds=heartbeat_seconds,
            )
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=join, name="jax.distributed.initialize", daemon=True)
    thread.start()
    thread.join(max(timeout_seconds - waited, 0))
    if thread.is_alive():
        where = settings.get("coordinator_address", "of the cluster")
        raise _timeout(settings, timeout_seconds, f"not all processes reached the coordinator {where}")
    if not failure:
        return
    if "before any JAX calls" in str(failure[0]):
        raise InputError(
            "JAX already runs in this process; processes must be joined before anything uses JAX. Call "
            "compressed_lm.distributed.startup.initialize first, before jax.devices and any array."
        ) from failure[0]
    if "RPC server" in str(failure[0]):
        raise InputError(
            f"Process 0 cannot listen on the port of {settings.get('coordinator_address')}: another program, perhaps "
            "an earlier run, uses it. End that program, or choose another port."
        ) from failure[0]
    raise failure[0]


def _timeout(settings, seconds, what):
    who = f"Process {settings.get('process_id', '?')} of {settings.get('num_processes', '?')} ({socket.gethostname()})"
    proxies = ", ".join(name for name in os.environ if "_proxy" in name.lower())
    return InputError(
        f"{who} waited {seconds:g} s: {what}. Read the logs of the other processes for an earlier error; check that "
        "all are started, with the same number of processes, and that the port is open between the hosts"
        + (f"; unset {proxies}, which may block the connection." if proxies else ".")
    )


def versions() -> dict[str, str]:
    """Returns what must be equal in all processes: versions of Python and packages, hash of this package's source."""
    source = hashlib.sha256()
    root = pathlib.Path(compressed_lm.__file__).parent
    for path in sorted(root.rglob("*.py")):
        source.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    found = {"python": platform.python_version()}
    found["compressed_lm"] = f"{importlib.metadata.version('compressed_lm')} (source {source.hexdigest()[:12]})"
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclasses.dataclass(frozen=True)
class Member:
    """Process of a run: host, operating system's process id, number and kind of its devices."""

    host: str
    pid: int
    n_devices: int
    kind: str


def startup_table(mesh: jax.sharding.Mesh | None = None) -> str:
    """Returns a table of the run's processes, hosts, devices, mesh and versions. All processes must call it.

    Raises:
        InputError: the versions differ between processes, or a process is missing.
    """
    devices = jax.local_devices()
    member = Member(socket.gethostname(), os.getpid(), len(devices), devices[0].device_kind)
    records = processes.gather("startup", json.dumps([dataclasses.asdict(member), versions()]))
    members = [Member(**json.loads(record)[0]) for record in records]
    installed = [json.loads(record)[1] for record in records]
    hosts = [member.host for member in members]
    for package in sorted(set().union(*installed)):
        processes.refuse_differences(
            f"the version of {package}", hosts, [found.get(package, "nothing") for found in installed]
        )
    return render(members, installed=installed[0], mesh_shape=mesh.shape if mesh else None)


def render(members: Sequence[Member], *, installed: Mapping[str, str], mesh_shape: Mapping[str, int] | None) -> str:
    """Returns the start-up table as text."""
    rows = [("process", "host", "pid", "devices")]
    rows += [(str(i), m.host, str(m.pid), f"{m.n_devices} {m.kind}") for i, m in enumerate(members)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    kinds: collections.Counter[str] = collections.Counter()
    for member in members:
        kinds[member.kind] += member.n_devices
    hosts = len({member.host for member in members})
    total = f"{_count(len(members), 'process')} on {_count(hosts, 'host')}, "
    total += ", ".join(_count(n, f"{kind} device") for kind, n in kinds.items())
    if mesh_shape:
        total += "; mesh " + ", ".join(f"{name} {size}" for name, size in mesh_shape.items())
    return "\n".join([*lines, total, ", ".join(f"{name} {version}" for name, version in installed.items())])


def _count(n, noun):
    return f"{n} {noun}" + ("" if n == 1 else "es" if noun.endswith("s") else "s")


def _report_and_leave(previous, kind, error, traceback):
    previous(kind, error, traceback)
    processes.leave(1)


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
