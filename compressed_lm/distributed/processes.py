"""The processes of one run, and what they tell each other through JAX's coordinator, without any device."""

import collections
import itertools
import json
import os
import socket
import sys
from collections.abc import Sequence

import jax

from compressed_lm.errors import InputError

_sequence = collections.defaultdict(itertools.count)  # makes the names of barriers unique: JAX lets each pass once


def _state():
    """Returns JAX's record of the run's processes: its key-value store has no public name, and orbax takes it from
    here too."""
    from jax._src.distributed import global_state

    return global_state


def client():
    """Returns the client of the store that all processes share, or None in a run of one process."""
    return _state().client if _state().num_processes > 1 else None


def here() -> tuple[int, int]:
    """Returns (index of this process, number of processes), without starting the devices as JAX's own do."""
    return _state().process_id, _state().num_processes


def gather(name: str, value: str, *, timeout_seconds: float = 300) -> list[str]:
    """Returns the values that the processes gave, in their order. All processes must call it, with the same name.

    It goes through the coordinator and needs no device, and so works before devices do.

    Raises:
        InputError: processes that did not call it in time, by index.
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
            f"{', '.join(map(str, missing))} of {count}, which did not come this far. Their own logs say why."
        ) from error
    values = _by_process(client().key_value_dir_get(key + "/"))
    return [values[i] for i in range(count)]


def _by_process(pairs) -> dict[int, str]:
    return {int(key.rpartition("/")[2]): value for key, value in pairs}


def check_same(name: str, value: str) -> None:
    """Checks that all processes have the same value, such as the hash of the configuration.

    Processes that run different programs wait for each other for ever, without an error.

    Raises:
        InputError: in every process, naming those that differ and their hosts.
    """
    records = gather(f"check/{name}", json.dumps([socket.gethostname(), value]))
    hosts, values = zip(*map(json.loads, records), strict=True)
    refuse_differences(name, hosts, values)


def refuse_differences(name: str, hosts: Sequence[str], values: Sequence[str]) -> None:
    """Raises InputError where the processes' values differ: names those that are not like most."""
    usual, _ = collections.Counter(values).most_common(1)[0]
    odd = [i for i, value in enumerate(values) if value != usual]
    if not odd:
        return
    who = "; ".join(f"process {i} ({hosts[i]}) has {values[i]}" for i in odd[:8])
    more = f"; and {len(odd) - 8} more" if len(odd) > 8 else ""
    raise InputError(
        f"The processes of this run differ in {name}: {who}{more}; the other {len(values) - len(odd)} have {usual}. "
        "They would wait for each other for ever. Start all with the same command, files and packages."
    )


def leave(status: int, *, seconds: float = 10) -> None:
    """Ends this process after an error, in a run of several that do not all end; call it after the message.

    A process that ends as usual waits for the others in JAX's exit, and they wait for it in the step: five minutes of
    silence, and no restart. Where all come here in `seconds`, as after an error that all have, this returns, and all
    end as usual.
    """
    if client() is None:
        return
    try:
        client().wait_at_barrier(f"compressed_lm/leave/{next(_sequence['leave'])}", round(1000 * seconds))
    except jax.errors.JaxRuntimeError:
        index, count = here()
        print(
            f"Process {index} of {count} ({socket.gethostname()}) ends with status {status} and leaves the others, "
            f"which did not end within {seconds:g} s; JAX aborts them when it misses this one.",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
