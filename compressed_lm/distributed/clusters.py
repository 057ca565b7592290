"""Detection of launchers (Slurm, Open MPI, TPU, Kubernetes) from environment variables.

JAX detects the same launchers, but with too few checks: a shell inside a Slurm job has some of a task's variables, and
JAX then fails or waits for tasks that nobody started (jax-ml/jax issue 30073).
"""

import dataclasses
import importlib.util
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from compressed_lm.errors import InputError

# Set by the scripts in launch, or by the user; they take precedence over every launcher.
VARIABLES = ("COMPRESSED_LM_COORDINATOR", "COMPRESSED_LM_NUM_PROCESSES", "COMPRESSED_LM_PROCESS_ID")
LOOKED_FOR = f"{VARIABLES[0]}, Open MPI (mpirun), Slurm (srun), several TPU workers, and Kubernetes indexed jobs"
# Variables that JAX 0.10.2 reads in a Slurm task.
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
METADATA = "http://{host}/computeMetadata/v1/instance/attributes/{key}"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Launcher of this process.

    Attributes:
        several: whether the process is one of several.
        name: of the launcher, for messages; "" if none was found.
        method: for `jax.distributed.initialize(cluster_detection_method=...)`.
        settings: its other arguments, if JAX should not detect them itself.
        note: a sentence on a launcher that was found but ignored; "" if none.
    """

    several: bool = False
    name: str = ""
    method: str = "deactivate"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""


def check(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns checked settings of `jax.distributed.initialize`.

    Args:
        settings: coordinator_address, num_processes and process_id, in this order; numbers may be text.

    Raises:
        InputError: one is missing or wrong.
    """
    wanted = "host:port of process 0, the number of processes, and the index of this one from 0"
    missing = [name for name, value in settings.items() if value is None]
    if missing:
        raise InputError(f"{', '.join(missing)} is missing; give all of {', '.join(settings)}: {wanted}.")
    address, count, index = settings.values()
    if not re.fullmatch(r".+:\d{1,5}", str(address)):
        raise InputError(f"coordinator_address={address!r} was given; expected host:port, such as 10.0.0.1:1234.")
    try:
        count, index = int(count), int(index)
    except ValueError:
        raise InputError(
            f"num_processes={count!r} and process_id={index!r} were given; expected whole numbers."
        ) from None
    if count < 1 or not 0 <= index < count:
        raise InputError(
            f"process_id={index} of num_processes={count} was given; expected {wanted}, so at most {count - 1}."
        )
    return {"coordinator_address": address, "num_processes": count, "process_id": index}


def detect(environ: Mapping[str, str]) -> Cluster:
    """Returns the launcher of this process.

    Args:
        environ: environment variables after `import jax`.

    Raises:
        InputError: there are several processes, but the variables are not enough to join them.
    """
    own = {name: environ.get(name) for name in VARIABLES}
    if any(own.values()):
        return _own(own)
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return _open_mpi(environ)
    slurm = _slurm(environ)
    if slurm.several:
        return slurm
    workers = _tpu_workers(environ)
    if workers:
        on_gke = "TPU_WORKER_HOSTNAMES" in environ or "TPU_PROCESS_ADDRESSES" in environ
        name = f"a TPU with {workers} worker{'s' * (workers > 1)}"
        return Cluster(workers > 1, name, "gketpu" if on_gke else "gcetpu")
    return slurm if slurm.name or slurm.note else _kubernetes(environ)


def _own(given):
    names = ("coordinator_address", "num_processes", "process_id")
    try:
        settings = check({name: given[variable] or None for name, variable in zip(names, VARIABLES, strict=True)})
    except InputError as error:
        seen = ", ".join(f"{name}={value}" for name, value in given.items())
        raise InputError(f"The environment has {seen}. {error}") from None
    return Cluster(settings["num_processes"] > 1, VARIABLES[0], "deactivate", settings)


def _open_mpi(environ):
    size, rank = environ["OMPI_COMM_WORLD_SIZE"], environ.get("OMPI_COMM_WORLD_RANK")
    name = f"Open MPI with {size} processes"
    if "OMPI_MCA_orte_hnp_uri" in environ:  # removed in Open MPI 5
        return Cluster(True, name, "ompi")
    if importlib.util.find_spec("mpi4py"):
        return Cluster(True, name, "mpi4py")
    raise InputError(
        f"mpirun started {size} processes, of which this is {rank}, but this Open MPI gives JAX no address of the "
        f"first one. Install mpi4py, or set {VARIABLES[0]}=HOST:PORT of the first host for all and start each as: "
        f"bash -c '{VARIABLES[1]}=$OMPI_COMM_WORLD_SIZE {VARIABLES[2]}=$OMPI_COMM_WORLD_RANK exec compressed-lm ...'"
    )


def _slurm(environ):
    job, tasks, task = (environ.get(name) for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID"))
    if job is None:
        return Cluster()
    step_tasks = environ.get("SLURM_STEP_NUM_TASKS", tasks)
    missing = [name for name in SLURM if name not in environ]
    if missing:
        why = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
    elif tasks == "1":
        return Cluster(False, f"Slurm job {job} with 1 task", "slurm")
    elif "SLURM_PTY_PORT" in environ:
        why = "it is an interactive shell (SLURM_PTY_PORT is set)"
    elif step_tasks != tasks:
        why = f"its step has {step_tasks} of the job's {tasks} tasks"
    else:
        return Cluster(True, f"Slurm job {job} with {tasks} tasks", "slurm")
    if task not in (None, "0"):
        raise InputError(
            f"This is task {task} of Slurm job {job}, but it cannot join the others: {why}. Start all tasks by "
            "`srun --ntasks=N`, as launch/slurm.sbatch does."
        )
    if tasks in (None, "1"):
        return Cluster()  # a shell in a job for one process: no note
    return Cluster(
        note=f"Slurm job {job} has {tasks} tasks, but this process was not started by srun: {why}. It runs alone; "
        "start it by srun to run on all tasks."
    )


def _tpu_workers(environ):
    if "TPU_ML_PLATFORM" not in environ:  # `import jax` sets it if it finds TPU chips and libtpu
        return 0
    slices = int(environ.get("MEGASCALE_NUM_SLICES") or 1)
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")  # on Kubernetes
    if hosts is None and "TPU_SKIP_MDS_QUERY" not in environ:
        host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
        hosts = _metadata(host, "worker-network-endpoints")
        found = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata(host, "tpu-env"))
        slices = int(found[1]) if found else slices
    return slices * len(hosts.split(",")) if hosts else 0


def _metadata(host, key):
    request = urllib.request.Request(METADATA.format(host=host, key=key), headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return ""


def _kubernetes(environ):
    index = environ.get("JOB_COMPLETION_INDEX")
    if "KUBERNETES_SERVICE_HOST" not in environ or index is None:
        return Cluster()
    if importlib.util.find_spec("kubernetes"):
        return Cluster(True, f"a Kubernetes indexed job (index {index})", "k8s")
    what = (
        f"This is process {index} of a Kubernetes indexed job, but {VARIABLES[0]} is not set, and the package "
        "`kubernetes`, which JAX needs to find the other processes, is not installed"
    )
    if int(index):
        raise InputError(f"{what}. Start from launch/jobset.sh, which sets the variables.")
    return Cluster(note=f"{what}; it runs alone.")
