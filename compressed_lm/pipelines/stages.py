"""Timed stages of a pipeline, each reported in one line."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator

import jax

from compressed_lm.formatting import duration
from compressed_lm.terminal import print_flush


@contextlib.contextmanager
def stage(name: str, log: list[dict], *, report: Callable[[str], None] = print_flush) -> Iterator[list[str]]:
    """Times a stage and reports it in one line.

    Args:
        name: name of the stage.
        log: receives the name, seconds and line of the stage.
        report: receives the lines to print.

    Yields:
        A list; the texts that the block appends describe what it did.
    """
    done: list[str] = []
    report(f"[{name}] ...")
    start = time.monotonic()
    yield done
    seconds = time.monotonic() - start
    line = " ".join(done)
    log.append({"name": name, "seconds": round(seconds, 1), "line": line})
    report(f"[{name}] {duration(seconds)}: {line}")


def describe_devices() -> str:
    """Returns one line about the devices in use."""
    devices = jax.devices()
    return (
        f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''} "
        f"({re.sub(r'(?i)^cpu$', 'virtual' if len(devices) > 1 else 'host', devices[0].device_kind)})"
    )
