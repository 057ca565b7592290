"""Number of this process among those that a launcher started, for work without communication (`compress`)."""

import dataclasses
from collections.abc import Mapping

from compressed_lm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Numbering:
    """Number of a process.

    Attributes:
        index: from 0.
        count: number of processes.
        launcher: what told it, for messages; "" if nothing did.
    """

    index: int = 0
    count: int = 1
    launcher: str = ""


_LAUNCHERS = (
    # (name, variable of the index, variable of the count, variable of the first index)
    ("COMPRESSED_LM_PROCESS_ID", "COMPRESSED_LM_PROCESS_ID", "COMPRESSED_LM_NUM_PROCESSES", None),
    ("a Slurm array", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", None),
    ("SkyPilot", "SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", None),
)


def detect(environ: Mapping[str, str]) -> Numbering:
    """Returns the number that a launcher gave this process; number 0 of 1 if there is no launcher.

    Known are `COMPRESSED_LM_PROCESS_ID` with `COMPRESSED_LM_NUM_PROCESSES` (set by the scripts in launch), Slurm
    arrays, `srun`, Open MPI, SkyPilot, and TPU workers.

    Args:
        environ: environment variables.

    Raises:
        InputError: the launcher's variables are not whole numbers, or the index is not below the count.
    """
    for name, index, count, first in _LAUNCHERS:
        if environ.get(index) and environ.get(count):
            return _numbering(name, environ, index, count, first)
    if environ.get("SLURM_STEP_ID") and environ.get("SLURM_NTASKS"):  # a shell in a job has some of its variables
        return _numbering("srun", environ, "SLURM_PROCID", "SLURM_NTASKS", None)
    return _tpu(environ)


def _tpu(environ: Mapping[str, str]) -> Numbering:
    """Returns the number of a host among those of a TPU slice, or of several slices."""
    names = ("TPU_WORKER_ID", "MEGASCALE_SLICE_ID", "MEGASCALE_NUM_SLICES")
    hosts = environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    if not environ.get(names[0]) or (hosts == 1 and environ.get(names[2], "1") == "1"):
        return Numbering()  # libtpu writes a warning into TPU_WORKER_ID on machines without a TPU
    try:
        worker, number = (int(environ.get(name) or 0) for name in names[:2])
        n_slices = int(environ.get(names[2]) or 1)
    except ValueError:
        given = ", ".join(f"{name}={environ.get(name, '')}" for name in names)
        raise InputError(f"A TPU gave {given}; whole numbers were expected. Give --process_index.") from None
    known = {"host": str(number * hosts + worker), "hosts": str(hosts * n_slices)}
    return _numbering("a TPU", known, "host", "hosts", None) if hosts * n_slices > 1 else Numbering()


def _numbering(name: str, environ: Mapping[str, str], index: str, count: str, first: str | None) -> Numbering:
    given = {variable: environ.get(variable, "") for variable in (index, count, first) if variable}
    try:
        numbers = [int(value) for value in given.values()]
    except ValueError:
        numbers = [-1, 0]
    place = numbers[0] - (numbers[2] if len(numbers) > 2 else 0)
    if not 0 <= place < numbers[1]:
        raise InputError(
            f"{name} gave {', '.join(f'{key}={value}' for key, value in given.items())}; a whole number below the "
            "number of processes was expected. Give --process_index and --process_count."
        )
    return Numbering(place, numbers[1], name)
