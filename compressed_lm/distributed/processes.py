"""Communication between the processes of a run through JAX's coordinator, without devices."""

import collections
import itertools
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import jax

from compressed_lm.errors import InputError

# Makes the names of barriers unique, because JAX accepts each name only once.
_sequence: "collections.defaultdict[str, itertools.count[int]]" = collections.defaultdict(itertools.count)


def _state():
    """Returns JAX's state of the run's processes.

    Its key-value store has no public name; Orbax reads it from here too.
    """
    from jax._src.distributed import global_state

    return global_state


def client() -> Any:
    """Returns the client of the key-value store that all processes share, or None in a run of one process."""
    return _state().client if _state().num_processes > 1 else None


def here() -> tuple[int, int]:
    """Returns (index of this process, number of processes) without starting devices, unlike JAX's functions."""
    return _state().process_id, _state().num_processes


def gather(name: str, value: str, *, timeout_seconds: float = 300) -> list[str]:
    """Returns the values of all processes, in their order. All processes must call it, with the same name.

    It uses the coordinator and no device, so it works before devices start.

    Args:
        name: of the barrier, also for messages.
        value: of this process.
        timeout_seconds: longest wait for the other processes.

    Raises:
        InputError: some processes did not call it in time; the message lists their indices.
    """
    if client() is None:
        return [value]
    (index, count), key = here(), f"compressed_lm/{name}/{next(_sequence[name])}"
    client().key_value_set(f"{key}/{index}", value)
    try:
        client().wait_at_barrier(key, round(1000 * timeout_seconds))
    except jax.errors.JaxRuntimeError as error:
        missing = sorted(set(range(count)) - _by_process(client().key_value_dir_get(key + "/")).keys())
        raise InputError(
            f"{name}: waited {timeout_seconds:g} s for process{'es' * (len(missing) > 1)} "
            f"{', '.join(map(str, missing))} of {count}, which did not reach this point. Read their logs."
        ) from error
    values = _by_process(client().key_value_dir_get(key + "/"))
    return [values[i] for i in range(count)]


def _by_process(pairs) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): value for key, value in pairs}


def check_same(name: str, value: str) -> None:
    """Checks that all processes have the same value, such as the hash of the configuration.

    Processes that run different programs wait for each other forever, without an error.

    Args:
        name: of the value, for messages.
        value: of this process.

    Raises:
        InputError: in every process; the message names the processes that differ and their hosts.
    """
    records = gather(f"check/{name}", json.dumps([socket.gethostname(), value]))
    hosts, values = zip(*map(json.loads, records), strict=True)
    refuse_differences(name, hosts, values)


def refuse_differences(name: str, hosts: Sequence[str], values: Sequence[str]) -> None:
    """Raises InputError if the processes' values differ, with the processes that differ from the majority.

    Args:
        name: of the value, for messages.
        hosts: host name of each process.
        values: value of each process.
    """
    usual, _ = collections.Counter(values).most_common(1)[0]
    odd = [i for i, value in enumerate(values) if value != usual]
    if not odd:
        return
    who = "; ".join(f"process {i} ({hosts[i]}) has {values[i]}" for i in odd[:8])
    more = f"; and {len(odd) - 8} more" if len(odd) > 8 else ""
    raise InputError(
        f"The processes of this run differ in {name}: {who}{more}; the other {len(values) - len(odd)} have {usual}. "
        "They would wait for each other forever. Start all with the same command, files and packages."
    )


def leave(status: int, *, seconds: float = 10) -> None:
    """Ends this process after an error if other processes continue; call it after printing the error.

    A process that exits normally waits for the others in JAX's exit, while they wait for it in the step: five minutes
    without output or restart. If all processes call this within `seconds`, as after an error in all of them, it returns
    and all exit normally.

    Args:
        status: exit status.
        seconds: longest wait for the other processes.
    """
    if client() is None:
        return
    try:
        client().wait_at_barrier(f"compressed_lm/leave/{next(_sequence['leave'])}", round(1000 * seconds))
    except jax.errors.JaxRuntimeError:
        index, count = here()
        print(
            f"Process {index} of {count} ({socket.gethostname()}) exits with status {status}; the others did not exit "
            f"within {seconds:g} s. JAX aborts them when it misses this one.",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
